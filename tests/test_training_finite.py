"""NaN and infinity stop a run: what is said, what is kept, and how it goes on from there."""

from __future__ import annotations

import json
import math

import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import make_run, outcome, phase, request, resume, same_bits, start, train_here
from tiny_zoo import registry
from zoo_registry import RunStoppedError, Strategy, StrategySpec, UsageError

from zoo.training.checkpoint import CheckpointFolder, clone_state
from zoo.training.keeping import plain_numbers
from zoo.training.step import NonFiniteError, numbers, read

SPOIL = {"step": 6, "how": "none"}


class Spoil(Strategy):
    """Spoils a step: its input, its loss or a gradient."""

    role = "batch"
    touches = frozenset({"input", "backbone"})

    def __init__(self) -> None:
        self.states: list[dict] = []

    def alter(self, batch, run):
        if run.step == SPOIL["step"] and SPOIL["how"] == "input":
            batch.views["train"] = batch.views["train"] * math.nan
        return batch

    def penalty(self, model, batches, run):
        value = next(model.parameters()).sum() * 0
        if run.step == SPOIL["step"] and SPOIL["how"] == "loss":
            value = value + math.inf
        return {"odd": value}

    def after_step(self, model, run):
        self.states.append(clone_state(model.state_dict()))


def build_spoil(spec, options):
    """Factory."""
    return Spoil()


def zoo():
    spec = StrategySpec(
        name="spoil", summary="of a test", factory=f"{__name__}:build_spoil", role="batch",
        touches=frozenset({"input", "backbone"}),
    )  # fmt: skip
    return registry(spec)


@pytest.fixture(autouse=True)
def clean():
    SPOIL.update(step=6, how="none")
    yield
    SPOIL.update(step=6, how="none")


def stopped(folder):
    return json.loads((folder / "checkpoints" / "stopped" / "stopped.json").read_text())


@pytest.mark.parametrize("how", ["input", "loss"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_last_finite_weights_are_kept_bit_by_bit(how, accumulate, tmp_path):
    """Also without any checkpoint yet; statistics of BatchNorm that saw the NaN are left out and named."""
    SPOIL.update(how=how, step=3)
    spoil = Spoil()
    run = make_run([phase(spoil, epochs=4)], checkpoint_every=0.0, accumulate=accumulate)
    with pytest.raises(NonFiniteError):
        train_here(run, tmp_path)
    kept, record = load_file(tmp_path / "checkpoints" / "stopped" / "weights.safetensors"), stopped(tmp_path)
    last = spoil.states[-1]
    parameters = [name for name, _ in run.model.named_parameters()]
    assert len(spoil.states) == 3
    assert same_bits({n: kept[n] for n in parameters}, {n: last[n] for n in parameters})
    assert all(bool(tensor.isfinite().all()) for tensor in kept.values())
    assert record["left_out"] == sorted(set(last) - set(kept))
    assert bool(record["left_out"]) == (how == "input")
    assert all("running" in name for name in record["left_out"])


def test_everything_known_of_the_step_is_said_and_written(tmp_path):
    SPOIL["how"] = "loss"
    with pytest.raises(RunStoppedError) as caught:
        start(tmp_path / "run", request(None, "whole+spoil:3"), zoo())
    assert caught.value.exit_code == 8
    for words in ("the loss is not finite at phase 1, step 7", "supervised ", "spoil.odd inf", "gradient norm ",
                  "gradient norm of the step before ", "learning rate 0.00"):  # fmt: skip
        assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert "--lr" in caught.value.hint
    record = stopped(tmp_path / "run")
    assert (record["phase"], record["epoch"], record["step"]) == (0, 1, 6)
    assert record["losses"]["spoil.odd"] == "inf"
    assert 0 < record["losses"]["supervised"] < 10
    assert 0 < record["gradient_norm_before"] < 100
    assert 0 < record["learning_rate"] <= 1e-3
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
    assert (row["event"], row["step"], row["reason"]) == ("stopped", 6, "the loss is not finite")
    assert not (tmp_path / "run" / "model").exists()


def test_a_nan_that_looks_like_a_missing_label_is_found_by_its_gradient(tmp_path):
    """Per-sample losses that are NaN count as unlabelled; the gradients tell them apart, and name where."""
    SPOIL["how"] = "input"
    with pytest.raises(NonFiniteError, match="gradient norm nan") as caught:
        start(tmp_path / "run", request(None, "whole+spoil:3"), zoo())
    assert "tensors is 'backbone.stem.0.weight'" in caught.value.message
    assert stopped(tmp_path / "run")["gradient_norm"] == "nan"


def test_a_resume_goes_on_as_if_nothing_had_been(tmp_path):
    """Where the reason is gone (a broken memory, say): the same bits as a run that never stopped."""
    start(tmp_path / "plain", request(None, "whole+spoil:3"), zoo())
    SPOIL["how"] = "input"
    with pytest.raises(NonFiniteError):
        start(tmp_path / "run", request(None, "whole+spoil:3"), zoo())
    with pytest.raises(NonFiniteError, match="step 7"):
        resume(tmp_path / "run", request(None), zoo())
    SPOIL["how"] = "none"
    resume(tmp_path / "run", request(None), zoo())
    assert outcome(tmp_path / "run") == outcome(tmp_path / "plain")


@pytest.mark.parametrize("changed", [{"train": {"lr": 1e-5}}, {"settings": ("train.clip=0.1",)}])
def test_a_resume_with_another_rate_is_refused_and_a_new_run_is_named(changed, tmp_path):
    SPOIL["how"] = "loss"
    with pytest.raises(NonFiniteError):
        start(tmp_path / "run", request(None, "whole+spoil:3"), zoo())
    before = {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}
    with pytest.raises(UsageError, match=r"would change its result: .*(lr|rate|clip)") as caught:
        resume(tmp_path / "run", request(None), zoo(), **changed)
    assert caught.value.exit_code == 2
    assert "new run" in caught.value.hint
    assert before == {p: p.read_bytes() for p in (tmp_path / "run").rglob("*") if p.is_file()}


def test_a_second_gradient_is_not_asked_where_the_first_is_not_finite():
    """The weights must not be moved for it, as sharpness-aware steps do."""
    asked = []

    class Looks(Strategy):
        def before_step(self, model, run):
            asked.append(run.step)

    SPOIL.update(how="loss", step=2)
    with pytest.raises(NonFiniteError):
        train_here(make_run([phase(Spoil(), Looks(), epochs=2)]))
    assert asked == [0, 1]


@pytest.mark.parametrize("clip", [0.0, 0.05, 1e6])
def test_norm_and_clipping_are_those_of_torch(clip):
    """A gradient per step, before and after, against ``torch.nn.utils.clip_grad_norm_``."""
    found = []

    class Notes(Strategy):
        def before_step(self, model, run):
            found.append([p.grad.clone() for p in model.parameters()])

    class Rate(Notes):
        pass

    run = make_run([phase(Rate(), steps=2, rate=1e-3)], backbone="plain", clip=clip, log_every=1)
    moved: list = []

    class Sees(torch.optim.AdamW):
        def step(self, closure=None):
            moved.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
            return super().step(closure)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim, "AdamW", Sees)
        log = train_here(run)
    for before, after, row in zip(found, moved, [r for r in log if r["event"] == "step"], strict=True):
        copies = [torch.nn.Parameter(torch.zeros_like(g)) for g in before]
        for copy, gradient in zip(copies, before, strict=True):
            copy.grad = gradient.clone()
        norm = torch.nn.utils.clip_grad_norm_(copies, clip or math.inf)
        assert row["gradient_norm"] == pytest.approx(float(norm), rel=1e-6)
        expected = sorted((c.grad for c in copies), key=lambda g: (g.shape, g.flatten()[0].item()))
        seen = sorted(after, key=lambda g: (g.shape, g.flatten()[0].item()))
        for one, two in zip(seen, expected, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-9)


def test_numbers_are_read_as_they_are():
    values = [torch.tensor(1.5), torch.tensor(float("nan")), torch.tensor(2.0, dtype=torch.float64)]
    assert numbers(values[:1]) == [1.5]
    assert math.isnan(numbers(values)[1])
    losses, norm = read({"a": values[0]}, [torch.tensor([3.0]), torch.tensor([[4.0]])])
    assert (losses, norm) == ([1.5], 5.0)
    assert math.isinf(read({}, [torch.tensor([math.inf]), torch.ones(2)])[1])
    assert math.isnan(read({}, [torch.tensor([math.nan]), torch.ones(2)])[1])


def test_what_json_lacks_is_written_as_words():
    assert plain_numbers({"a": [1.0, math.nan, -math.inf], "b": {"c": math.inf, "d": None}}) == {
        "a": [1.0, "nan", "-inf"], "b": {"c": "inf", "d": None},
    }  # fmt: skip


def test_checkpoints_do_not_mistake_it_for_one_of_them(tmp_path):
    SPOIL["how"] = "loss"
    with pytest.raises(NonFiniteError):
        train_here(make_run([phase(Spoil(), epochs=3)]), tmp_path)
    found, damaged = CheckpointFolder(tmp_path / "checkpoints").newest()
    assert (found.step, damaged) == (6, [])
