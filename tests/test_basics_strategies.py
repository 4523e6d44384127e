from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from zoo_registry import Column, Registry, UsageError
from zoo_registry.conformance import parametrize_with_checks
from zoo_registry.options import parse_options
from zoo_registry.strategy import cacheable, compose

REGISTRY = Registry()
NAMES = ("full", "linear", "partial", "fit")
COLUMNS = (Column(name="label", classes=("a", "b")),)


class FakeBackbone(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1))
        self.stem = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.layer1 = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.layer10 = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
        self.norm = nn.LayerNorm(4)

    def forward(self, x):
        return self.norm(self.layer10(self.layer1(self.stem(x + self.token))))


class FakeModel(nn.Module):
    """A model as strategies see it; a frozen block also keeps its BatchNorm in evaluation mode."""

    def __init__(self, head: str = "linear"):
        super().__init__()
        torch.manual_seed(0)
        self.backbone = FakeBackbone()
        entry = REGISTRY.head(f"basics/{head}")
        self.head = entry.factory()(
            entry.spec, parse_options(entry.spec.options, {}, where="x"), width=4, targets=COLUMNS
        )
        self.frozen: set[str] = set()

    def blocks(self):
        parts = {"stem": ("token", "stem"), "layer1": ("layer1",), "layer10": ("layer10",), "norm": ("norm",)}
        return {name: tuple(f"backbone.{p}" for p in prefixes) for name, prefixes in parts.items()}

    def freeze(self, blocks: Iterable[str] | None = None):
        self._set(blocks, False)

    def unfreeze(self, blocks: Iterable[str] | None = None):
        self._set(blocks, True)

    def _set(self, blocks, learns):
        names = list(self.blocks()) if blocks is None else list(blocks)
        for prefix in (p for name in names for p in self.blocks()[name]):
            for name, parameter in self.named_parameters():
                if name == prefix or name.startswith(prefix + "."):
                    parameter.requires_grad_(learns)
        self.frozen = self.frozen - set(names) if learns else self.frozen | set(names)
        self.train(self.training)

    def train(self, mode: bool = True):
        super().train(mode)
        for prefix in (p for name in self.frozen for p in self.blocks()[name]):
            self.get_submodule(prefix).eval() if prefix != "backbone.token" else None
        return self

    def forward(self, x):
        return self.head(self.backbone(x))


def strategy(name: str, **options):
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=f"strategy.{name}"))


def learning(model: FakeModel) -> set[str]:
    return {
        name.split(".")[1] for name, p in model.named_parameters() if p.requires_grad and name.startswith("backbone")
    }


def moved_by_a_step(model: FakeModel) -> set[str]:
    """Top-level backbone parts whose parameters or buffers change in one training step."""
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    loss = model.head.loss(model(torch.randn(8, 4) + 3), {"label": torch.arange(8) % 2})["label"].mean()
    loss.backward()
    optimiser.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert any(k.startswith("head.") for k in changed)
    return {k.split(".")[1] for k in changed if k.startswith("backbone.")}


def test_full_lets_everything_learn_even_what_was_frozen():
    model = FakeModel()
    model.freeze()
    strategy("full").prepare(model, None)
    assert moved_by_a_step(model) == {"token", "stem", "layer1", "layer10", "norm"}


def test_linear_leaves_the_backbone_bit_identical():
    model = FakeModel()
    strategy("linear").prepare(model, None)
    assert moved_by_a_step(model) == set()
    assert all(p.requires_grad for p in model.head.parameters())


@pytest.mark.parametrize(("count", "parts"), [
    (1, {"layer10", "norm"}),
    (2, {"layer1", "layer10", "norm"}),
    (3, {"token", "stem", "layer1", "layer10", "norm"}),
])  # fmt: skip
def test_partial_lets_the_last_blocks_learn_and_counts_no_bare_norm(count, parts):
    model = FakeModel()
    model.freeze()
    strategy("partial", blocks=count).prepare(model, None)
    assert learning(model) == parts
    assert moved_by_a_step(model) == parts


def test_partial_counts_a_block_whose_only_matrix_is_a_bare_parameter():
    model = FakeModel()
    model.backbone.norm.extra = nn.Parameter(torch.zeros(2, 2))
    strategy("partial", blocks=1).prepare(model, None)
    assert learning(model) == {"norm"}


def test_partial_says_how_many_blocks_there_are():
    with pytest.raises(UsageError, match=r"blocks=4, but the backbone has 3: stem, layer1, layer10$") as caught:
        strategy("partial", blocks=4).prepare(FakeModel(), None)
    assert "full" in caught.value.hint
    with pytest.raises(UsageError, match="out of range"):
        strategy("partial", blocks=0)


def test_fit_takes_no_step_and_fits_the_head_on_the_features_of_train():
    model = FakeModel("prototype")
    part = strategy("fit")
    part.prepare(model, None)
    assert not any(p.requires_grad for p in model.parameters())
    features, y = torch.randn(6, 4), torch.arange(6) % 2
    before = {k: v.clone() for k, v in model.backbone.state_dict().items()}
    part.finish(model, SimpleNamespace(extract=lambda m: (features, {"label": y}) if m is model else None))
    torch.testing.assert_close(model.head.means, torch.stack([features[y == k].mean(0) for k in (0, 1)]))
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())


def test_features_may_be_cached_exactly_where_the_backbone_stays():
    specs = {name: REGISTRY.strategy(f"basics/{name}").spec for name in NAMES}
    assert {name for name, spec in specs.items() if cacheable([spec])} == {"linear", "fit"}
    assert {name for name, spec in specs.items() if not spec.gradient} == {"fit"}
    for name, spec in specs.items():
        assert (spec.defaults.rate is None) == (name == "fit")
        assert spec.paper is not None
        assert spec.role == "tuning"


def test_only_one_of_them_stands_in_a_phase():
    parts = [(REGISTRY.strategy(f"basics/{name}").spec, strategy(name)) for name in ("full", "linear")]
    with pytest.raises(UsageError, match="at most one tuning strategy, got full and linear"):
        compose(parts)
    for name in NAMES:
        assert compose([(REGISTRY.strategy(f"basics/{name}").spec, strategy(name))])


def test_strategies_have_no_state():
    for name in NAMES:
        part = strategy(name)
        assert part.state_dict() == {}
        with pytest.raises(ValueError, match="no state"):
            part.load_state_dict({"x": 1})


def test_specs_are_listed_without_torch():
    code = (
        "import sys, zoo_basics\n"
        "assert {'full', 'linear', 'partial', 'fit'} <= {s.name for s in zoo_basics.zoo_strategies()}\n"
        "assert len(zoo_basics.zoo_heads()) >= 6 and zoo_basics.zoo_plugin().summary\n"
        "from zoo_registry.options import load_schema\n"
        "assert all(load_schema(s.options)() for s in (*zoo_basics.zoo_heads(), *zoo_basics.zoo_strategies()))\n"
        "heavy = {'torch', 'numpy', 'torchvision'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@parametrize_with_checks("basics")
def test_heads_and_strategies_conform(check):
    check()
