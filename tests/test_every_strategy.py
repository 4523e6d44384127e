"""Every registered strategy, alone on three kinds of network and together with others: what each must keep to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import strategy_table as table
import torch
from strategy_table import Case
from tiny_runs import Halt, same_bits
from zoo_registry import UsageError

from zoo.assembly.assemble import assemble_model
from zoo.bundle.read import load_bundle
from zoo.bundle.write import Findings, write_bundle
from zoo.training.checkpoint import clone_state

MOVES = {
    "basics/linear": lambda name, owner: False,
    "basics/fit": lambda name, owner: False,
    "basics/bitfit": lambda name, owner: name.endswith(".bias"),
    "basics/norm": lambda name, owner: "Norm" in owner,
    "peft/lora": lambda name, owner: ".lora_" in name,
    "peft/dora": lambda name, owner: ".lora_" in name,
    "peft/adalora": lambda name, owner: ".lora_" in name,
    "peft/ia3": lambda name, owner: ".ia3_" in name,
}
"""Tuning strategy -> which tensors of the backbone may move before it ends, said here once more, by name."""


def everyday(case: Case) -> bool:
    """Whether a case belongs to the everyday run: each strategy alone, on the first architecture that has its needs."""
    able = [a for a in table.ARCHITECTURES if not table.missing(case.parts, a)]
    return case.expression == case.parts[0] and case.architecture == able[0]


def cases() -> Iterator[object]:
    """All that can run; the slow ones marked."""
    for case in (*table.alone(), *table.recipes(), *table.together()):
        if not table.missing(case.parts, case.architecture):
            yield pytest.param(case, id=str(case), marks=() if everyday(case) else pytest.mark.slow)


CASES = list(cases())
REFUSED = [case for case in table.alone() if table.missing(case.parts, case.architecture)]


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    """Nothing here depends on what a power failure leaves."""
    monkeypatch.setattr("os.fsync", lambda _: None)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    """A bundle of the classes of the data, for strategies that need another model."""
    return table.write_teacher(tmp_path_factory.mktemp("teacher") / "bundle")


@dataclass
class Whole:
    """A case, trained to its end without a stop; and its loss on the training samples before."""

    attempt: table.Attempt
    watcher: table.Watcher
    before: float


@pytest.fixture(scope="module")
def whole(case: Case, teacher: Path) -> Whole:
    """The case, trained."""
    attempt = table.prepare(case, teacher)
    before = table.train_loss(attempt.run)
    return Whole(attempt, table.train_attempt(attempt), before)


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest) -> Case:
    """The case of a test's parameter."""
    return request.param


all_cases = pytest.mark.parametrize("case", CASES, indirect=True, scope="module")


@all_cases
def test_it_learns(case, whole):
    assert table.train_loss(whole.attempt.run) < 0.9 * whole.before
    losses = [row["train_loss"] for row in whole.attempt.rows if row["event"] == "epoch"]
    assert len(losses) == table.EPOCHS * sum(bool(phase.recipe.epochs) for phase in whole.attempt.run.phases)
    assert losses[-1:] <= losses[:1], losses


@all_cases
def test_what_is_frozen_stays_bit_by_bit(case, whole):
    attempt, watcher = whole.attempt, whole.watcher
    records = [row for row in attempt.rows if row["event"] == "phase"]
    assert len(records) == len(watcher.phases) == len(attempt.run.phases)
    for record, seen, phase in zip(records, watcher.phases, attempt.run.phases, strict=True):
        assert not seen.changed(seen.frozen)
        assert record["frozen_tensors"] == len(seen.frozen)
        assert len(record["frozen_sha256"]) == 64
        for component in phase.recipe.strategies:
            if component.name in MOVES:
                inside = [n for n in seen.start if n.startswith("backbone.")]
                free = {n for n in inside if MOVES[component.name](n, seen.owners[n])}
                assert not seen.changed(n for n in inside if n not in free)
                assert component.name in ("basics/linear", "basics/fit") or seen.changed(free)


@all_cases
def test_it_is_written_and_read_again_with_the_same_logits(case, whole, tmp_path):
    attempt = whole.attempt
    write_bundle(tmp_path / "bundle", attempt.assembled, attempt.plan.recipe, Findings(), table.registry())
    loaded = load_bundle(tmp_path / "bundle", table.registry())
    x = torch.rand(5, 3, table.SIZE, table.SIZE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        here = attempt.run.model.eval().predict(x)["label"]
        there = loaded.model.eval().predict(x)["label"]
    torch.testing.assert_close(there, here, rtol=1e-5, atol=1e-5)
    assert here.std(0).min() > 1e-6, "all inputs look the same to the model, so this says nothing"


@all_cases
def test_its_result_is_a_plain_model(case, whole):
    attempt = whole.attempt
    plain = assemble_model(
        table.registry(), backbone=table.ARCHITECTURES[case.architecture], head=attempt.plan.recipe.head.name,
        columns=attempt.plan.data.columns, pretrained=False, image_size=table.SIZE,
    ).model  # fmt: skip
    merges = all(spec.merges for phase in attempt.run.phases for spec in phase.specs)
    if merges:
        plain.load_state_dict(attempt.run.model.state_dict())
    assert not attempt.run.model.auxiliary


@all_cases
def test_stopped_and_resumed_a_second_run_ends_with_the_same_bits(case, whole, teacher, tmp_path):
    first, watcher = whole.attempt, whole.watcher
    late = 3 * len(watcher.steps) // 4  # within an epoch; of a recipe, in its last phase
    for halt in ((late,) if everyday(case) else (3, late)) if late else ():
        folder = tmp_path / str(halt)
        stopped = table.prepare(case, teacher)
        folder.mkdir()
        with pytest.raises(Halt):
            table.train_attempt(stopped, folder, halt)
        second = table.prepare(case, teacher)
        after = table.train_attempt(second, folder)
        assert after.steps == watcher.steps[halt - 1 :], "the losses after the resume differ"
        assert same_bits(clone_state(second.run.model.state_dict()), first.run.model.state_dict())
        assert second.rows == first.rows
    if not watcher.steps:
        second = table.prepare(case, teacher)
        table.train_attempt(second)
        assert same_bits(second.run.model.state_dict(), first.run.model.state_dict())


@pytest.mark.parametrize("refused", REFUSED, ids=str)
def test_it_is_refused_where_the_network_lacks_what_it_needs(refused, tmp_path):
    lacking = table.missing(refused.parts, refused.architecture)
    with pytest.raises(UsageError) as error:
        table.plan_case(refused, tmp_path)
    assert f"strategy {refused.parts[0]} needs {', '.join(lacking)}" in error.value.message
    assert table.ARCHITECTURES[refused.architecture] in error.value.message
    assert error.value.hint == f"zoo list backbones --capability {lacking[0]}"


def test_the_architectures_are_of_three_kinds():
    norms = {}
    for kind, name in table.ARCHITECTURES.items():
        made = assemble_model(
            table.registry(), backbone=name, head="basics/linear", pretrained=False, image_size=table.SIZE,
            columns=table.plan_case(Case("basics/linear", kind, ("basics/linear",))).data.columns,
        )  # fmt: skip
        norms[kind] = {type(m).__name__ for m in made.model.backbone.modules() if "Norm" in type(m).__name__}
        assert sum(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in made.model.modules()) == (
            13 if kind == "cnn" else 0
        )
    assert all(any("LayerNorm" in n for n in norms[kind]) for kind in ("convnet", "vit"))


def test_every_strategy_is_tried():
    tried = {part for case in table.alone() for part in case.parts if not table.missing(case.parts, case.architecture)}
    names = {entry.name for entry in table.registry().entries("strategy")}
    assert names - tried == set(table.EXCLUDED)
