"""Deliberate mistakes in a strategy fail the check that is about them; strategies of all sorts pass."""

from __future__ import annotations

import pytest
from conformance_kit import Kit, kit

__all__ = ["kit"]

ADAPTER = """
class Adapter(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.extra = layer, nn.Linear(layer.in_features, layer.out_features, bias=False)
    def forward(self, x):
        return self.layer(x) + self.extra(x)
"""

BAD_STRATEGIES = {
    # check: (changes to the spec, changes to the parts, part of the message)
    "prepare_runs": (
        "",
        """
        class Way(Way):
            def prepare(self, model, run):
                model.freeze(["roof"])
        """,
        "KeyError: 'roof'",
    ),
    "frozen_parameters_do_not_move": (
        "",
        """
        class Way(Way):
            def prepare(self, model, run):
                model.freeze()
            def after_step(self, model, run):
                model.backbone.stem[1].running_mean += 1
        """,
        "frozen, and yet moved: backbone.stem.1.running_mean",
    ),
    "groups_cover_trainable_parameters_once": (
        "role='rates'",
        """
        class Way(Way):
            def parameter_groups(self, model, rate):
                return [{"params": list(model.head.parameters()), "rate": rate, "decay": 0.0}]
        """,
        "trainable, but in no group: backbone.",
    ),
    "injected_parameters_receive_gradients": (
        "",
        """
        class Way(Way):
            def prepare(self, model, run):
                model.auxiliary["idle"] = nn.Linear(2, 2)
        """,
        "without any gradient: auxiliary.idle",
    ),
    "state_round_trips": (
        "role='averaging'",
        """
        class Way(Way):
            def prepare(self, model, run):
                self.seen = 0
            def after_step(self, model, run):
                self.seen += 1
                with torch.no_grad():
                    model.head.layers["label"].bias += 0.01 * self.seen
        """,
        "resumed at step 4, these end differently: ",
    ),
    "cached_features_are_enough": (
        "role='batch', touches=frozenset()",
        """
        class Way(Way):
            def alter(self, batch, run):
                batch.views["train"] = batch.views["train"] + 1
                return batch
        """,
        "does it touch the input?",
    ),
    "backbone_stays_untouched": ("touches=frozenset()", "", "'backbone' is not in touches, and yet changed"),
    "merged_result_fits_plain_model": (
        "",
        ADAPTER
        + """
class Way(Way):
    def prepare(self, model, run):
        model.freeze()
        model.backbone.mixer.widen = Adapter(model.backbone.mixer.widen)
""",
        "after finish the model is not a plain one: backbone.mixer.widen",
    ),
    "delta_gives_the_result_back": (
        "merges=False",
        """
        from zoo_registry import Delta
        class Way(Way):
            def prepare(self, model, run):
                model.freeze()
            def delta(self, model):
                return Delta(method="nothing", tensors={})
            def apply(self, model, delta):
                pass
        """,
        "the delta on a plain model does not give the trained outputs",
    ),
    "loss_goes_down_or_nothing_trains": (
        "",
        """
        class Way(Way):
            def objective(self, model, batches, run):
                return {"upside-down": -model.supervised(batches["train"])}
        """,
        "the supervised loss went from",
    ),
}


@pytest.mark.parametrize("check", BAD_STRATEGIES)
def test_a_bad_strategy_fails_its_check(kit: Kit, check: str):
    changes, parts, message = BAD_STRATEGIES[check]
    base = f"@hookimpl\ndef zoo_strategies():\n    return [strategy({changes})]\n"
    assert message in kit.failures("strategy", check, base=base, parts=parts)[check]


GOOD_STRATEGIES = {
    "adapter that merges": (
        "",
        ADAPTER
        + """
class Way(Way):
    def prepare(self, model, run):
        model.freeze()
        model.backbone.mixer.widen = Adapter(model.backbone.mixer.widen)
    def finish(self, model, run):
        adapter = model.backbone.mixer.widen
        with torch.no_grad():
            adapter.layer.weight += adapter.extra.weight
        model.backbone.mixer.widen = adapter.layer
""",
    ),
    "deep prompts that stay a delta": (
        "merges=False, needs=frozenset({'insert_tokens'})",
        """
        from zoo_registry import Delta
        class Way(Way):
            def prepare(self, model, run):
                model.freeze()
                self.tokens = nn.Parameter(torch.randn(4, 16))
                model.auxiliary["prompts"] = nn.ParameterList([self.tokens])
                model.backbone.insert_tokens("mixer", self.tokens)
            def delta(self, model):
                head = {"head." + name: tensor for name, tensor in model.head.state_dict().items()}
                return Delta(method="prompts", tensors={"tokens": self.tokens, **head})
            def apply(self, model, delta):
                model.backbone.insert_tokens("mixer", delta.tensors["tokens"])
                model.head.load_state_dict({n[5:]: t for n, t in delta.tensors.items() if n.startswith("head.")})
        """,
    ),
    "averaging with saved state": (
        "role='averaging', touches=frozenset()",
        """
        class Way(Way):
            def prepare(self, model, run):
                self.average = {n: t.detach().clone() for n, t in model.state_dict().items()}
            def after_step(self, model, run):
                for name, tensor in model.state_dict().items():
                    if tensor.is_floating_point():
                        self.average[name].lerp_(tensor.detach(), 0.3)
            def evaluation_weights(self, model):
                return self.average
            def finish(self, model, run):
                run.recalibrate(model)
            def state_dict(self):
                return self.average
            def load_state_dict(self, state):
                self.average = dict(state)
        """,
    ),
    "sharpness-aware": (
        "role='penalty'",
        """
        class Way(Way):
            def before_step(self, model, run):
                trained = [p for p in model.parameters() if p.grad is not None]
                steps = [0.05 * p.grad / torch.stack([q.grad.norm() for q in trained]).norm() for p in trained]
                with torch.no_grad():
                    for p, step in zip(trained, steps):
                        p.add_(step)
                        p.grad = None
                run.backward()
                with torch.no_grad():
                    for p, step in zip(trained, steps):
                        p.sub_(step)
        """,
    ),
    "a teacher, taps and another stream": (
        "role='penalty', streams=(Stream(name='unlabelled', views=('weak', 'strong'), ratio=2),)",
        """
        class Way(Way):
            taps = ("body",)
            def prepare(self, model, run):
                self.teacher = run.assemble("anyone")
                run.reference().taps = self.taps
            def penalty(self, model, batches, run):
                other = batches["unlabelled"]
                with torch.no_grad():
                    told = self.teacher(other, "weak").outputs["label"].softmax(1)
                    before = run.reference()(batches["train"]).taps["body"]
                now = model(batches["train"]).taps["body"]
                said = model(other, "strong").outputs["label"].log_softmax(1)
                return {"told": -(told * said).sum(1).mean(), "stay": 0.1 * (now - before).square().mean()}
        """,
    ),
    "a new classifier beside the native one": (
        "role='penalty', needs=frozenset({'native_head'}), touches=frozenset({'loss'})",
        """
        class Way(Way):
            def prepare(self, model, run):
                model.auxiliary["native"] = model.backbone.native_head()
                features, targets = run.extract(run.reference())
                told = model.auxiliary["native"](features).detach().softmax(1)
                self.relation = torch.stack([told[targets["label"] == k].mean(0) for k in range(3)])
            def penalty(self, model, batches, run):
                batch = batches["train"]
                said = model.auxiliary["native"](model(batch).features).log_softmax(1)
                return {"native": -(self.relation[batch.targets["label"]] * said).sum(1).mean()}
        """,
    ),
    "gradual, by the epoch": (
        "",
        """
        class Way(Way):
            def prepare(self, model, run):
                model.freeze()
            def begin_epoch(self, model, run):
                model.unfreeze(list(model.blocks())[::-1][:run.epoch])
        """,
    ),
}


@pytest.mark.parametrize("case", GOOD_STRATEGIES)
def test_strategies_of_all_sorts_pass(kit: Kit, case: str):
    changes, parts = GOOD_STRATEGIES[case]
    base = f"from zoo_registry import Stream\n@hookimpl\ndef zoo_strategies():\n    return [strategy({changes})]\n"
    assert kit.failures("strategy", base=base, parts=parts) == {}
