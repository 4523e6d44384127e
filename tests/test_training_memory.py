"""Out of memory: the same steps in smaller micro-batches, the same metrics in smaller batches, or one clear line.

A strategy stands in for the device: it runs out of memory where a micro-batch has more samples than it allows.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from tiny_runs import Halt, HaltingReporter, make_run, outcome, phase, request, resume, start, train_here
from tiny_zoo import drawn_splits, registry
from torch import nn
from zoo_registry import RunStoppedError, Strategy, StrategySpec

from zoo.training import limits as limits_module
from zoo.training.limits import Limits, fitting, is_out_of_memory, limit_at, parts, smaller_steps
from zoo.training.progress import Reporter

DEVICE = {"most": math.inf, "from_step": 0, "pass": math.inf}
"""How many samples the device takes in a step, from which step on, and in a pass without gradients."""
SEEN: list[tuple[int, int, int, tuple[int, ...]]] = []
"""Phase, step, micro-batch and ids of each micro-batch that was computed."""


class Narrow(Strategy):
    """Computes on the pretended device; batches that do not fit leave a trace in BatchNorm all the same."""

    role = "penalty"

    def prepare(self, model, run):
        model.backbone.register_forward_hook(self._pass)

    def _pass(self, module, inputs, output):
        if not module.training and len(output) > DEVICE["pass"]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def penalty(self, model, batches, run):
        size = len(batches["train"])
        if run.step >= DEVICE["from_step"] and size > DEVICE["most"]:
            model(batches["train"])
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        SEEN.append((run.phase, run.step, run.micro, tuple(batches["train"].ids)))
        return {}


def build_narrow(spec, options):
    """Factory."""
    return Narrow()


@pytest.fixture(autouse=True)
def wide_device():
    DEVICE.update(most=math.inf, from_step=0, **{"pass": math.inf})
    SEEN.clear()
    yield
    DEVICE.update(most=math.inf, from_step=0, **{"pass": math.inf})


class Told(Reporter):
    """Keeps the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def zoo():
    spec = StrategySpec(
        name="narrow", summary="of a test", factory=f"{__name__}:build_narrow", role="penalty",
        touches=frozenset({"backbone"}),
    )  # fmt: skip
    return registry(spec)


def asked(backbone="norm", *settings):
    return request(drawn_splits(), "whole+narrow:3", backbone, *settings)


def rows(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("length", "most", "lengths"), [
    (8, 8, [8]), (8, 4, [4, 4]), (9, 4, [3, 3, 3]), (9, 8, [4, 5]), (3, 2, [3]), (5, 2, [2, 3]), (3, 1, [1, 1, 1]),
    (2, 1, [1, 1]), (1, 4, [1]), (0, 4, []),
])  # fmt: skip
def test_parts_cover_a_span_without_a_single_one(length, most, lengths):
    found = parts(range(5, 5 + length), most)
    assert [len(part) for part in found] == lengths
    assert [i for part in found for i in part] == list(range(5, 5 + length))


def test_the_step_is_taken_in_smaller_parts_and_the_run_says_so(tmp_path):
    told = Told()
    DEVICE.update(most=3, from_step=5)
    start(tmp_path / "run", asked(), zoo(), reporter=told)
    said = [note for note in told.notes if "out of memory" in note]
    assert len(said) == 2  # 8 -> 4 -> 2
    assert "phase 1, step 6 with 8 samples at once" in said[0]
    assert "micro-batches of up to 4" in said[0]
    assert "BatchNorm sees the smaller ones" in said[0]
    assert json.loads((tmp_path / "run" / "limits.json").read_text())["steps"] == [[0, 5, 4], [0, 5, 2]]
    final = {(p, s, m): ids for p, s, m, ids in SEEN}
    assert max(len(ids) for (_, s, _), ids in final.items() if s >= 5) == 2
    assert max(len(ids) for (_, s, _), ids in final.items() if s < 5) == 8
    memory = [row for row in rows(tmp_path / "run") if row["event"] == "memory"]
    assert [(row["step"], row["micro_batch"]) for row in memory] == [(5, 2)]


@pytest.mark.slow
def test_the_samples_of_each_step_stay_the_same(tmp_path):
    start(tmp_path / "plain", asked(), zoo())
    whole = {}
    for p, s, _, ids in SEEN:
        whole[p, s] = whole.get((p, s), ()) + ids
    SEEN.clear()
    DEVICE["most"] = 3
    start(tmp_path / "run", asked(), zoo())
    split = {}
    for (p, s, _), ids in sorted({(p, s, m): ids for p, s, m, ids in SEEN if len(ids) <= 3}.items()):
        split[p, s] = split.get((p, s), ()) + ids
    assert split == whole


@pytest.mark.slow
def test_without_batchnorm_the_result_is_that_of_whole_batches(tmp_path):
    """The same gradients but for rounding, so the same weights."""
    from safetensors.torch import load_file

    start(tmp_path / "plain", asked("plain"), zoo())
    DEVICE["most"] = 1
    told = Told()
    start(tmp_path / "run", asked("plain"), zoo(), reporter=told)
    assert not any("BatchNorm" in note for note in told.notes)
    one, two = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("plain", "run"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4)
    losses = [
        [row["train_loss"] for row in rows(tmp_path / name) if row["event"] == "epoch"] for name in ("plain", "run")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("halt", [3, 6, 9])
@pytest.mark.slow
def test_killed_before_or_after_and_resumed_it_ends_with_the_same_bits(halt, tmp_path):
    """Also where the memory suffices the second time: the step from which on it was split is on disk."""
    DEVICE.update(most=4, from_step=5)
    start(tmp_path / "plain", asked(), zoo())
    again = tmp_path / "run"
    with pytest.raises(Halt):
        start(again, asked(), zoo(), reporter=HaltingReporter(halt))
    assert (again / "limits.json").exists() == (halt > 5)
    if halt > 5:
        DEVICE["most"] = math.inf
    resume(again, asked(), zoo())
    assert outcome(again) == outcome(tmp_path / "plain")


def test_it_starts_over_where_there_is_no_checkpoint_yet(tmp_path):
    DEVICE["most"] = 4
    start(tmp_path / "run", asked("norm", "train.checkpoint_every=0"), zoo())
    assert json.loads((tmp_path / "run" / "limits.json").read_text())["steps"] == [[0, 0, 4]]
    assert [row["event"] for row in rows(tmp_path / "run")] == ["memory", "epoch", "epoch", "epoch", "phase"]


@pytest.mark.parametrize(
    ("backbone", "words"), [("plain", "a single sample did not fit"), ("norm", "BatchNorm needs two")]
)
@pytest.mark.slow
def test_one_sample_that_does_not_fit_is_one_clear_line(backbone, words, tmp_path):
    DEVICE["most"] = 0
    with pytest.raises(RunStoppedError, match=words) as caught:
        start(tmp_path / "run", asked(backbone), zoo())
    assert caught.value.exit_code == 8
    assert "\n" not in caught.value.message
    assert "--image-size" in caught.value.hint
    assert not (tmp_path / "run" / "model").exists()


def test_an_odd_batch_that_cannot_be_halved_ends_too(tmp_path):
    """Three samples in parts of two or more are one part."""
    DEVICE["most"] = 2
    with pytest.raises(RunStoppedError, match="out of memory at phase 1, step 1"):
        start(tmp_path / "run", request(drawn_splits(3), "whole+narrow:1"), zoo())


def test_without_a_run_folder_it_stops():
    DEVICE["most"] = 4
    with pytest.raises(RunStoppedError, match="8 samples at once did not fit"):
        train_here(make_run([phase(Narrow(), epochs=1)]))


def test_accumulated_micro_batches_are_split_each(tmp_path):
    DEVICE["most"] = 4
    start(tmp_path / "run", asked("norm", "train.accumulate=2"), zoo())
    first = sorted({(m, len(ids)) for p, s, m, ids in SEEN if s == 0 and len(ids) <= 4})
    assert first == [(0, 4), (1, 4), (2, 4), (3, 4)]


def test_other_streams_are_split_alike(tmp_path):
    class Two(Narrow):
        from zoo_registry.strategy import Stream

        streams = (Stream(name="test", views=("eval",), ratio=2),)

        def penalty(self, model, batches, run):
            found = super().penalty(model, batches, run)
            sizes.append((run.step, len(batches["train"]), len(batches["test"]), tuple(batches["test"].ids)))
            return found

    sizes: list = []
    run = make_run([phase(Two(), epochs=1)])
    run.limits.steps.append((0, 2, 4))
    train_here(run)
    assert [(step, train, test) for step, train, test, _ in sizes] == [
        (0, 8, 16), (1, 8, 16), (2, 4, 8), (2, 4, 8), (3, 2, 4),
    ]  # fmt: skip
    split, sizes = [ids for *_, ids in sizes], []
    whole = make_run([phase(Two(), epochs=1)])
    train_here(whole)
    assert [i for ids in split for i in ids] == [i for *_, ids in sizes for i in ids]


@pytest.mark.slow
def test_an_evaluation_that_does_not_fit_gives_the_same_metrics(tmp_path):
    start(tmp_path / "plain", asked(), zoo())
    DEVICE["pass"] = 3
    told = Told()
    start(tmp_path / "run", asked(), zoo(), reporter=told)
    said = [note for note in told.notes if "out of memory" in note]
    assert said == [
        "out of memory while evaluating 8 samples at once: beginning anew with 4",
        "out of memory while evaluating 4 samples at once: beginning anew with 2",
    ]
    assert json.loads((tmp_path / "run" / "limits.json").read_text())["evaluations"] == [[0, 4, 4], [0, 4, 2]]
    for one, two in zip(rows(tmp_path / "plain"), rows(tmp_path / "run"), strict=True):
        assert one.get("val", {}) == pytest.approx(two.get("val", {}), abs=1e-5)
    found = [json.loads((tmp_path / name / "report.json").read_text())["test"]["samples"] for name in ("plain", "run")]
    assert found == [12, 12]


@pytest.mark.slow
def test_an_evaluation_of_one_sample_that_does_not_fit_stops(tmp_path):
    DEVICE["pass"] = 0
    with pytest.raises(RunStoppedError, match="a single sample does not fit") as caught:
        start(tmp_path / "run", asked(), zoo())
    assert caught.value.exit_code == 8


def test_what_fits_is_not_asked_twice():
    tried = []

    def work(size):
        tried.append(size)
        if size > 5:
            raise MemoryError
        return size

    known, said = Limits(), []
    assert fitting(work, known, said.append, phase=1, step=7, size=16) == 4
    assert fitting(work, known, said.append, phase=1, step=9, size=16) == 4
    assert tried == [16, 8, 4, 4]
    assert len(said) == 2
    assert limit_at(known.evaluations, 1, 6) is None
    with pytest.raises(ValueError, match="of another kind"):
        fitting(
            lambda _: (_ for _ in ()).throw(ValueError("of another kind")), known, said.append, phase=1, step=1, size=4
        )


def test_limits_survive_on_disk(tmp_path):
    known = Limits(tmp_path / "limits.json")
    error = smaller_steps(known, nn.Linear(1, 1), phase=0, step=3, size=9)
    assert isinstance(error, limits_module.SmallerStepsError)
    found = Limits(tmp_path / "limits.json")
    assert found.steps == [(0, 3, 5)]
    assert found.split([range(9), range(9, 12)], 0, 2) == [range(9), range(9, 12)]
    assert found.split([range(9), range(9, 12)], 1, 0) == [range(4), range(4, 9), range(9, 12)]
    assert (found.begins(0, 3), found.begins(0, 4)) == (5, None)


@pytest.mark.parametrize(("error", "memory"), [
    (torch.OutOfMemoryError("x"), True), (MemoryError(), True), (ValueError("out of memory"), False),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:119] DefaultCPUAllocator: can't allocate memory"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), True),
    (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
])  # fmt: skip
def test_which_errors_are_about_memory(error, memory):
    assert is_out_of_memory(error) == memory


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_real_device_that_is_too_small(tmp_path):
    """The allocator is told to keep to a small share of the device."""
    total = torch.cuda.get_device_properties(0).total_memory
    data = drawn_splits(512)
    torch.cuda.set_per_process_memory_fraction(2.5e8 / total)
    try:
        told = Told()
        from zoo import finetuning

        finetuning.start(
            request(data, "whole:1", "norm", "train.batch_size=512", image_size=448),
            zoo(), out=tmp_path / "run", device="cuda", reporter=told,
        )  # fmt: skip
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("out of memory" in note for note in told.notes)
    assert (tmp_path / "run" / "model" / "manifest.json").exists()
