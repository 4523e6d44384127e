"""``--batch auto``: what it finds, what it says, and that nothing else knows of it."""

from __future__ import annotations

import pytest
import torch
from tiny_runs import start
from tiny_zoo import Drawn, registry
from zoo_registry import RunStoppedError, Strategy, StrategySpec, UsageError

from zoo.cli.main import main
from zoo.planning import Request, make_plan
from zoo.preview import batch as batch_module
from zoo.preview.batch import Found, ceiling, find_batch
from zoo.recipe import read_recipe
from zoo.training.progress import Reporter

CPU = torch.device("cpu")
DEVICE = {"most": 10**9}


class Narrow(Strategy):
    """A device that takes so many samples."""

    role = "penalty"

    def penalty(self, model, batches, run):
        if len(batches["train"]) > DEVICE["most"]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {}


def build_narrow(spec, options):
    """Factory."""
    return Narrow()


@pytest.fixture
def narrow():
    spec = StrategySpec(
        name="narrow", summary="of a test", factory=f"{__name__}:build_narrow", role="penalty",
        touches=frozenset({"backbone"}),
    )  # fmt: skip
    yield registry(spec)
    DEVICE["most"] = 10**9


def asked(count=700, strategy="whole:1", **more):
    data = {"train": Drawn(count), "val": Drawn(15, seed=1)}
    more.setdefault("train", {"augment": "none", "batch_size": "auto"})
    return Request(data=data, backbone="tiny/norm", head="tiny/head", strategy=strategy, pretrained=False, **more)


def plan_of(known, request):
    return make_plan(request, known, choose_batch=lambda plan: plan.recipe.train.batch_size)


@pytest.mark.parametrize(("samples", "most"), [(5, 8), (90, 8), (700, 64), (2559, 128), (2560, 256), (10**6, 256)])
def test_an_epoch_keeps_its_steps(samples, most):
    assert ceiling(samples, CPU).size == most


def test_a_cuda_device_may_take_more():
    assert ceiling(10**6, torch.device("cuda")).size == 1024


@pytest.mark.parametrize(("most", "size"), [(8, 8), (15, 8), (16, 16), (40, 32), (10**9, 64)])
def test_the_largest_that_fits_is_found(narrow, monkeypatch, most, size):
    monkeypatch.setattr(batch_module, "GAIN", 0.0)
    DEVICE["most"] = most
    found = find_batch(plan_of(narrow, asked(strategy="whole+narrow:1")), narrow, CPU)
    assert found.size == size
    assert ("do not fit into memory" in found.why) == (most < 64)


@pytest.mark.slow
def test_the_most_demanding_phase_decides(narrow, monkeypatch):
    monkeypatch.setattr(batch_module, "GAIN", 0.0)
    DEVICE["most"] = 20
    found = find_batch(plan_of(narrow, asked(strategy="whole:1,whole+narrow:1")), narrow, CPU)
    assert found == Found(16, "32 do not fit into memory")


def test_not_even_the_smallest_fits(narrow):
    DEVICE["most"] = 3
    with pytest.raises(RunStoppedError, match="not even 8 samples fit") as caught:
        find_batch(plan_of(narrow, asked(strategy="whole+narrow:1")), narrow, CPU)
    assert caught.value.exit_code == 8


def test_on_a_cpu_a_size_is_not_tried_that_memory_would_not_hold(narrow, monkeypatch):
    """The estimate for twice the samples is twice of what autograd kept."""
    monkeypatch.setattr(batch_module, "GAIN", 0.0)
    kept = []
    step = batch_module._Search._step

    def noted(self, size):
        seconds = step(self, size)
        kept.append((size, self.kept, self._beside()))
        return seconds

    monkeypatch.setattr(batch_module._Search, "_step", noted)
    assert find_batch(plan_of(narrow, asked()), narrow, CPU).size == 64
    sizes, bytes_kept, beside = zip(*kept, strict=True)
    assert sizes == (8, 16, 32, 64)
    assert bytes_kept[2] == pytest.approx(2 * bytes_kept[1], rel=0.1)
    kept.clear()
    room = 2 * (beside[0] + 2.5 * bytes_kept[0])
    monkeypatch.setattr(batch_module, "free_bytes", lambda device: room)
    found = find_batch(plan_of(narrow, asked()), narrow, CPU)
    assert found.size == 16
    assert "50% of" in found.why
    assert [size for size, *_ in kept] == [8, 16]


def test_on_a_cpu_what_is_no_faster_is_not_taken(narrow, monkeypatch):
    monkeypatch.setattr(batch_module, "_take", lambda run, stepper, streams: 0.01 * len(streams["train"]))
    found = find_batch(plan_of(narrow, asked()), narrow, CPU)
    assert found == Found(32, "64 at once are no faster")


def test_the_search_ends_in_time(narrow, monkeypatch):
    monkeypatch.setattr(batch_module, "SECONDS", 0.0)
    found = find_batch(plan_of(narrow, asked()), narrow, CPU)
    assert found == Found(8, "trying 16 would take too long")


def test_cached_features_leave_the_default(narrow):
    found = find_batch(plan_of(narrow, asked(strategy="freeze:1")), narrow, CPU)
    assert found.size == 64
    assert "memory is no question" in found.why


def test_what_was_found_is_said_and_stored(tmp_path, narrow, monkeypatch):
    class Told(Reporter):
        notes: list[str] = []  # noqa: RUF012

        def note(self, text):
            self.notes.append(text)

    monkeypatch.setattr(batch_module, "GAIN", 0.0)
    start(tmp_path / "run", asked(120), narrow, reporter=Told())
    assert any(note.startswith("batch: 8 (so that an epoch over 120 samples") for note in Told.notes)
    assert read_recipe(tmp_path / "run" / "recipe.toml").train.batch_size == 8


def test_the_search_leaves_no_trace_in_random_numbers(narrow):
    plan = plan_of(narrow, asked())
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    find_batch(plan, narrow, CPU)
    assert bool((torch.random.get_rng_state() == before).all())


def test_the_last_word_counts(narrow):
    settings = ("train.batch_size=4", "train.batch_size=auto")
    chosen = lambda plan: 24  # noqa: E731
    assert make_plan(asked(settings=settings), narrow, choose_batch=chosen).recipe.train.batch_size == 24
    assert make_plan(asked(settings=settings[:1]), narrow).recipe.train.batch_size == 4


def test_lengths_follow_the_batch_that_was_chosen(narrow):
    plain = make_plan(asked(strategy="whole", train={"batch_size": 8}), narrow).recipe.phases
    chosen = make_plan(asked(strategy="whole"), narrow, choose_batch=lambda plan: 8).recipe.phases
    assert chosen[0].epochs == plain[0].epochs


def test_where_nothing_can_be_measured_it_is_refused(narrow):
    with pytest.raises(UsageError, match="auto"):
        make_plan(asked(), narrow)


@pytest.mark.parametrize("flag", ["--batch", "--batch-size"])
def test_the_command_line_takes_it(flag, capsys):
    words = ["--backbone", "starter/cnn", "--strategy", "linear:1", "--dry-run", "--measure", "0"]
    assert main(["finetune", "digits:", *words, flag, "auto", "--set", "data.labels_per_class=5"]) == 0
    assert "batch: 8 (" in capsys.readouterr().out


def test_a_wrong_word_is_refused_as_before(capsys):
    assert main(["finetune", "digits:", "--batch", "automatic", "--dry-run"]) == 2
    assert "automatic" in capsys.readouterr().err
