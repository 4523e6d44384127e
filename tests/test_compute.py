"""The parts of the compute path: layouts, checkpoints that keep them, passes in bfloat16, options, the choosing."""

from __future__ import annotations

import copy
import dataclasses
import random

import numpy as np
import pytest
import tiny_zoo
import torch
from tiny_runs import make_run, phase, request
from torch import nn
from zoo_registry import Batch, Column, Strategy, UsageError

from zoo.assembly.model import TransferModel
from zoo.compute import choose, measure
from zoo.compute.candidates import candidates, has_convolutions, plainest
from zoo.compute.choose import choose_path
from zoo.compute.computing import Computing, as_float32
from zoo.compute.layout import odd_strides, place, with_strides
from zoo.compute.path import PLAIN, ComputePath, check_path, open_choices, path_of, settled
from zoo.planning import make_plan
from zoo.recipe import read_recipe, write_recipe
from zoo.recipe.recipe import TrainOptions
from zoo.training.checkpoint import CheckpointFolder
from zoo.training.groups import make_optimiser
from zoo.training.guard import hash_tensors
from zoo.training.rehearsal import Rehearsed, rehearse

CPU = torch.device("cpu")
LAST = torch.channels_last


def kernel(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).to(memory_format=LAST)


def test_place_keeps_objects_values_and_hashes():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2), nn.Linear(2, 2))
    before, owners = hash_tensors(model.state_dict()), [id(p) for p in model.parameters()]
    place(model, "channels_last")
    assert model[0].weight.is_contiguous(memory_format=LAST)
    assert not model[0].weight.is_contiguous()
    assert model[1].weight.stride() == (4, 1, 4, 4)
    assert hash_tensors(model.state_dict()) == before
    assert [id(p) for p in model.parameters()] == owners
    place(model, "contiguous")
    assert all(p.stride() == torch.empty(p.shape).stride() for p in model.parameters())
    assert hash_tensors(model.state_dict()) == before


@pytest.mark.parametrize("shape", [(4, 3, 3, 3), (4, 3, 1, 1), (1, 1, 2, 2), (5, 1, 3, 3)])
def test_strides_survive_a_checkpoint(shape, tmp_path):
    folder = CheckpointFolder(tmp_path / "checkpoints")
    laid = torch.empty_like(torch.empty(shape), memory_format=LAST).copy_(torch.randn(shape))
    folder.save(0, 1, {"laid": laid, "plain": torch.randn(shape), "turned": torch.randn(3, 5).t()})
    found, damaged = folder.newest()
    assert found is not None
    assert damaged == []
    assert torch.equal(found.state["laid"], laid)
    assert found.state["laid"].stride() == laid.stride()
    assert found.state["plain"].stride() == torch.empty(shape).stride()
    assert found.state["turned"].stride() == (1, 5)


def test_strides_that_do_not_fit_are_refused():
    assert odd_strides(torch.randn(2, 3)) is None
    assert odd_strides(kernel(2, 3, 2, 2)) == [12, 1, 6, 3]
    with pytest.raises(ValueError, match="do not fit"):
        with_strides(torch.randn(2, 3), [100, 1])


def test_as_float32_reaches_into_containers():
    short = torch.ones(2, dtype=torch.bfloat16)
    found = as_float32(
        {"a": [short, (short, torch.ones(1, dtype=torch.long))], "b": torch.ones(1, dtype=torch.float64)}
    )
    assert found["a"][0].dtype == found["a"][1][0].dtype == torch.float32
    assert found["a"][1][1].dtype == torch.long
    assert found["b"].dtype == torch.float64


def tiny_model(precision: str = "float32", **more) -> TransferModel:
    torch.manual_seed(0)
    column = Column(name="label", kind="classification", classes=("a", "b"))
    model = TransferModel(tiny_zoo.TinyNet(False), tiny_zoo.TinyHead(8, (column,)), (column,))
    model.computing = Computing(ComputePath(precision=precision, **more), 4)
    return model


def test_bf16_computes_the_backbone_alone_in_bfloat16():
    model, x = tiny_model("bf16"), torch.randn(4, 3, 8, 8)
    model.taps = ("stem.0",)
    inside: list[torch.dtype] = []
    model.backbone.body[0].register_forward_hook(lambda m, i, o: inside.append(o.dtype))
    found = model(Batch(views={"train": x}, targets={"label": torch.tensor([0, 1, 0, 1])}, ids=[0, 1, 2, 3]))
    assert inside == [torch.bfloat16]
    assert found.features.dtype == found.taps["stem.0"].dtype == found.outputs["label"].dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(found.features, model.backbone(x).float())
    found.outputs["label"].sum().backward()
    assert {p.grad.dtype for p in model.parameters()} == {torch.float32}
    exact = model.predict(x)["label"]
    assert torch.equal(exact, model.head(model.backbone(x))["label"])
    assert 0 < float((exact - found.outputs["label"]).detach().abs().max()) < 0.05


def test_weights_may_move_between_two_passes_of_a_step():
    """Autocast remembers its casts of weights; SAM moves the weights between two passes."""
    model, x = tiny_model("bf16"), torch.randn(4, 3, 8, 8)
    one = model(Batch(views={"train": x}, targets=None, ids=[0])).features
    with torch.no_grad():
        model.backbone.stem[0].weight.mul_(2)
    two = model(Batch(views={"train": x}, targets=None, ids=[0])).features
    assert not torch.equal(one, two)


def test_a_copy_starts_with_nothing_compiled():
    computing = Computing(ComputePath(compile=True), 4)
    computing._compiled = lambda x: x
    copied = copy.deepcopy(computing)
    assert copied.path == computing.path
    assert copied.batch_size == 4
    assert copied._compiled is None


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_is_right_on_channels_last_kernels(fused):
    """The fused kernel walks memory: gradients and averages must lie as the weights do."""
    torch.manual_seed(0)
    start, gradients = torch.randn(5, 3, 3, 3), [torch.randn(5, 3, 3, 3) for _ in range(4)]
    found = []
    for memory_format in (torch.contiguous_format, LAST):
        weight = nn.Parameter(start.clone(memory_format=memory_format))
        optimiser = make_optimiser([{"params": [weight], "rate": 0.1, "decay": 0.1}], fused=fused)
        for gradient in gradients:
            (weight * gradient).sum().backward()
            optimiser.step()
            weight.grad = None
        found.append(weight.detach())
    reference = nn.Parameter(start.clone())
    plain = torch.optim.AdamW([reference], lr=0.1, weight_decay=0.1, foreach=False, fused=False)
    for gradient in gradients:
        reference.grad = gradient
        plain.step()
    assert torch.equal(found[0], found[1])
    torch.testing.assert_close(found[0], reference.detach())


def test_path_and_options():
    options = TrainOptions(precision="bf16", fused=True)
    assert path_of(options, CPU) == ComputePath(precision="bf16", fused=True)
    assert path_of(TrainOptions(), CPU) == PLAIN
    assert not path_of(TrainOptions(), torch.device("meta")).fused
    assert open_choices(options) == ("memory_format", "compile")
    done = settled(options, path_of(options, CPU))
    assert open_choices(done) == ()
    assert done.memory_format == "contiguous"
    assert done.compile is False


def test_candidates_leave_out_what_cannot_help(monkeypatch):
    monkeypatch.setattr("zoo.compute.candidates.has_fast_bf16", lambda device: True)
    cnn, patches = tiny_zoo.TinyNet(False), nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8))
    found = candidates(TrainOptions(), cnn, CPU)
    assert [(p.precision, p.memory_format) for p in found] == [
        ("float32", "contiguous"), ("float32", "channels_last"), ("bf16", "contiguous"), ("bf16", "channels_last")
    ]  # fmt: skip
    assert not has_convolutions(patches)
    assert [p.label() for p in candidates(TrainOptions(), patches, CPU)] == ["float32, contiguous", "bf16, contiguous"]
    named = candidates(TrainOptions(precision="float32", memory_format="channels_last"), patches, CPU)
    assert [p.label() for p in named] == ["float32, channels_last"]
    monkeypatch.setattr("zoo.compute.candidates.has_fast_bf16", lambda device: False)
    assert {p.precision for p in candidates(TrainOptions(), cnn, CPU)} == {"float32"}


def test_the_plainest_that_is_fast_enough_is_taken():
    paths = candidates(TrainOptions(precision="auto"), tiny_zoo.TinyNet(False), CPU)
    short = (dataclasses.replace(PLAIN, precision="bf16", memory_format=m) for m in ("contiguous", "channels_last"))
    by = {(p.precision, p.memory_format): p for p in (*paths, *short)}

    def taken(*times: float) -> str:
        return plainest(dict(zip(by.values(), times, strict=True)), 1.05).label()

    assert taken(1.0, 1.01, 0.99, 0.97) == "float32, contiguous"
    assert taken(1.0, 0.6, 0.9, 0.58) == "float32, channels_last"
    assert taken(1.0, 0.8, 0.5, 0.41) == "bf16, channels_last"


@pytest.mark.parametrize("name", ["tf32", "bf16"])
def test_a_precision_that_the_device_lacks_is_refused(name, monkeypatch):
    monkeypatch.setattr("zoo.compute.path.precisions_of", lambda device: ("float32",))
    with pytest.raises(UsageError, match=f"train.precision={name} does not work on cpu") as caught:
        check_path(TrainOptions(precision=name), CPU)
    assert caught.value.exit_code == 2
    assert "auto, float32" in caught.value.hint


def test_settings_and_the_recipe_file(tmp_path):
    asked = request(None, "whole:1", "norm", "train.precision=bf16", "train.fused=on", "train.compile=false")
    recipe = make_plan(asked, tiny_zoo.registry()).recipe
    assert (recipe.train.precision, recipe.train.fused, recipe.train.compile) == ("bf16", True, False)
    assert recipe.train.memory_format == "auto"
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_recipe(tmp_path / "recipe.toml").train == recipe.train
    text = (tmp_path / "recipe.toml").read_text()
    assert "fused = true" in text
    assert 'memory_format = "auto"' in text
    with pytest.raises(UsageError, match=r"train\.precision: 'fp8' is not one of"):
        make_plan(request(None, "whole:1", "norm", "train.precision=fp8"), tiny_zoo.registry())


class Drawing(Strategy):
    """Draws from every global random state, as a strategy of others might."""

    def alter(self, batch, run):
        random.random(), np.random.rand(), torch.rand(1)
        return batch


def drawn_states() -> list[object]:
    return [random.getstate(), [a.tobytes() if hasattr(a, "tobytes") else a for a in np.random.get_state()],
            torch.random.get_rng_state().tolist()]  # fmt: skip


def test_measuring_changes_nothing(monkeypatch):
    """Weights, BatchNorm statistics, modes, random states and the order of the data stay as they are."""
    monkeypatch.setattr(choose, "SHORT", 0.0)
    monkeypatch.setattr(choose, "SHARE", 1e9)
    phases = lambda: [phase(Drawing(), epochs=30)]  # noqa: E731
    run = make_run(phases(), compile=False)
    rehearsed = rehearse(run, phases())
    before, states = hash_tensors(run.model.state_dict()), drawn_states()
    modes, strides = [m.training for m in run.model.modules()], [p.stride() for p in run.model.parameters()]
    choice = choose_path(run, phases, rehearsed)
    assert len(choice.rates) >= 3
    assert choice.samples == 8
    assert hash_tensors(run.model.state_dict()) == before
    assert drawn_states() == states
    assert hash_tensors(run.base) == before
    assert [m.training for m in run.model.modules()] == modes
    assert [p.stride() for p in run.model.parameters()] == strides
    assert (run.step, run.epoch, run.path, len(run.bad)) == (0, 0, PLAIN, 0)


def test_a_short_run_takes_the_default_without_a_step(monkeypatch):
    monkeypatch.setattr(choose, "Bench", None)
    run = make_run([phase(Strategy())])
    choice = choose_path(run, lambda: [], [Rehearsed(12, False)])
    assert choice.path == PLAIN
    assert "short" in choice.why


def test_features_computed_once_need_no_path(monkeypatch):
    monkeypatch.setattr(choose, "SHORT", 0.0)
    monkeypatch.setattr(choose, "pass_seconds", None)
    choice = choose_path(make_run([phase(Strategy())]), lambda: [], [Rehearsed(10**9, True)])
    assert choice.path == PLAIN
    assert choice.why == "no phase runs the backbone step by step"


def test_what_is_named_is_not_chosen(monkeypatch):
    monkeypatch.setattr(choose, "SHORT", 0.0)
    monkeypatch.setattr(choose, "SHARE", 1e9)
    phases = lambda: [phase(Strategy(), epochs=30)]  # noqa: E731
    run = make_run(phases(), memory_format="channels_last", precision="float32", compile=False)
    choice = choose_path(run, phases, [Rehearsed(100, False)])
    assert choice.path.label().startswith("float32, channels_last")
    assert not choice.path.compile
    run = make_run(phases(), memory_format="contiguous", precision="bf16", compile=False, fused=False)
    monkeypatch.setattr(choose, "pass_seconds", None)
    assert choose_path(run, phases, [Rehearsed(100, False)]).why == "as the recipe says"


class NoShort(nn.Module):
    """A layer that has no bfloat16."""

    def forward(self, x):
        if x.dtype == torch.bfloat16:
            raise RuntimeError("not implemented for 'BFloat16'")
        return x


def test_a_path_that_fails_is_left_out(monkeypatch):
    monkeypatch.setattr(choose, "SHORT", 0.0)
    monkeypatch.setattr(choose, "SHARE", 1e9)
    monkeypatch.setattr("zoo.compute.candidates.has_fast_bf16", lambda device: True)
    phases = lambda: [phase(Strategy(), epochs=30)]  # noqa: E731
    run = make_run(phases(), compile=False)
    run.model.backbone.stem.append(NoShort())
    choice = choose_path(run, phases, [Rehearsed(100, False)])
    assert choice.rates
    assert not any("bf16" in name for name in choice.rates)


def test_measuring_that_fails_ends_in_the_default(monkeypatch):
    def broken(*arguments):
        raise RuntimeError("out of luck\nmore")

    monkeypatch.setattr(choose, "SHORT", 0.0)
    monkeypatch.setattr(measure.Bench, "step", broken)
    phases = lambda: [phase(Strategy())]  # noqa: E731
    choice = choose_path(make_run(phases()), phases, [Rehearsed(100, False)])
    assert choice.path == PLAIN
    assert choice.why.startswith("not measured: ")


def test_time_bounds_what_is_measured(monkeypatch):
    """With no time left the plainest path alone gets its warm-up and one timed step."""
    taken: list[str] = []

    def step(self, path):
        taken.append(path.label())
        return 1.0

    monkeypatch.setattr(measure.Bench, "step", step)
    phases = [phase(Strategy(), epochs=2)]
    bench = measure.Bench(make_run(phases), phases, 0, 4)
    paths = candidates(TrainOptions(), tiny_zoo.TinyNet(False), CPU)
    found = bench.compare(paths, lambda seconds: 0.0)
    assert taken == [PLAIN.label()] * 2
    assert list(found) == [PLAIN]
