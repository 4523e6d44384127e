"""Deliberate mistakes in a head fail the check that is about them; a zero-shot head passes."""

from __future__ import annotations

import pytest
from conformance_kit import Kit, kit
from zoo_registry.conformance import iterate_checks

__all__ = ["kit"]

BAD_HEADS = {
    "outputs_have_declared_size": (
        """
        class Head(Head):
            def forward(self, features):
                return {name: torch.cat([out, out], 1) for name, out in super().forward(features).items()}
        """,
        "(24, 6), not (24, 3)",
    ),
    "loss_is_per_sample": (
        """
        class Head(Head):
            def loss(self, outputs, targets):
                return {name: loss.mean() for name, loss in super().loss(outputs, targets).items()}
        """,
        "loss is (), not (24,)",
    ),
    "missing_labels_are_nan": (
        """
        class Head(Head):
            def loss(self, outputs, targets):
                return {name: loss.nan_to_num(0) for name, loss in super().loss(outputs, targets).items()}
        """,
        "labels are missing at [1, 4], the classification loss is NaN at []",
    ),
    "soft_targets_accepted": (
        """
        class Head(Head):
            def loss(self, outputs, targets):
                hard = {n: t.argmax(1) * 0 if t.is_floating_point() else t for n, t in targets.items()}
                return super().loss(outputs, hard)
        """,
        "one-hot targets give another loss",
    ),
    "decode_is_in_range": (
        """
        class Head(Head):
            def decode(self, outputs):
                return {name: logits.sigmoid() for name, logits in outputs.items()}
        """,
        "sum to neither one nor, abstaining, to zero",
    ),
    "fold_equals_forward": (
        """
        class Head(Head):
            def forward(self, features):
                return {name: out * 3 for name, out in super().forward(features).items()}
        """,
        "the folded layer differs",
    ),
    "traceable_form_equals_forward": (
        """
        class Other(nn.Module):
            def __init__(self, head):
                super().__init__()
                self.head = head
            def forward(self, features):
                return {name: out + 1 for name, out in self.head(features).items()}
        class Head(Head):
            def traceable(self):
                return Other(self)
        """,
        "traced, 24 samples differ by 1",
    ),
    "fit_needs_no_gradient": (
        """
        class Head(Head):
            def fit(self, features, targets):
                pass
        """,
        "fitted on classes that lie apart",
    ),
    "gradients_reduce_the_loss": (
        """
        class Head(Head):
            def __init__(self, width, targets):
                super().__init__(width, targets)
                self.idle = nn.Parameter(torch.zeros(3))
        """,
        "parameters without a gradient: idle",
    ),
    "several_columns_work_or_are_refused": (
        """
        class Head(Head):
            def decode(self, outputs):
                return {"label": outputs["label"].softmax(1)}
        """,
        "two columns go in, ['label'] come out",
    ),
    "state_dict_survives_safetensors": (
        """
        class Head(Head):
            drawn = 0
            def __init__(self, width, targets):
                super().__init__(width, targets)
                type(self).drawn += 1
                self.forgotten = float(type(self).drawn)
            def forward(self, features):
                return {name: out + self.forgotten for name, out in super().forward(features).items()}
        """,
        "other outputs",
    ),
}


@pytest.mark.parametrize("check", BAD_HEADS)
def test_a_bad_head_fails_its_check(kit: Kit, check: str):
    parts, message = BAD_HEADS[check]
    assert message in kit.failures("head", check, parts=parts)[check]


def test_a_head_that_abstains_says_so(kit: Kit):
    parts = """
    class Head(Head):
        def decode(self, outputs):
            scores = {name: logits.softmax(1) for name, logits in outputs.items()}
            for rows in scores.values():
                rows[0] = 0
            return scores
    """
    check = "decode_is_in_range"
    assert "has no attribute abstains" in kit.failures("head", check, parts=parts)[check]
    assert kit.failures("head", check, parts=parts + "    abstains = True\n") == {}


def test_a_head_that_keeps_samples_says_so(kit: Kit):
    parts = """
    class Head(Head):
        def __init__(self, width, targets):
            super().__init__(width, targets)
            self.register_buffer("kept", torch.zeros(0, width))
            self.register_load_state_dict_pre_hook(self.resize)
        def resize(self, module, state, prefix, *rest):
            module.kept = state[prefix + "kept"].clone()
        def fit(self, features, targets):
            super().fit(features, targets)
            self.kept = features.clone()
    """
    base = """
    @hookimpl
    def zoo_heads():
        return [head(gradient=False)]
    """
    check = "state_dict_survives_safetensors"
    assert "'kept' changes its shape" in kit.failures("head", check, base=base, parts=parts)[check]
    named = parts.replace("class Head(Head):", "class Head(Head):\n        data_sized = ('kept',)")
    assert kit.failures("head", check, base=base, parts=named) == {}


def test_a_head_of_a_task_of_its_own_is_checked_by_its_spec(kit: Kit):
    base = """
    @hookimpl
    def zoo_heads():
        return [head(tasks=("segmentation",), features=("map", "pyramid"))]
    """
    names = [check.name for check in iterate_checks(kit.registry(base=base), "kit", "head")]
    assert names == ["module_imports_without_torch", "spec_is_complete", "factory_can_be_imported"]


def test_a_zero_shot_head_passes(kit: Kit):
    base = """
    @hookimpl
    def zoo_heads():
        return [head(needs=frozenset({"encode_text"}), gradient=False)]
    """
    parts = """
    class Head(Head):
        fit = property()
        def initialise(self, backbone, columns):
            for column in columns:
                with torch.no_grad():
                    self.layers[column.name].weight.copy_(backbone.encode_text(column.classes))
    """
    assert kit.failures("head", base=base, parts=parts) == {}
