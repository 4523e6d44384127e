"""``ema``, ``swa`` and ``wise-ft`` against timm's and torch's averages, and their place in the real loop."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from timm.utils import ModelEmaV3
from tiny_runs import Halt, make_run, phase, same_bits, train_here
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn
from zoo_registry import Registry, Strategy, UsageError
from zoo_registry.options import parse_options
from zoo_registry.strategy import compose

from zoo.evaluation.predictions import iterate_batches
from zoo.training.checkpoint import clone_state

REGISTRY = Registry()


def part(name: str, **options):
    """The spec and the strategy."""
    entry = REGISTRY.strategy(f"basics/{name}")
    return entry.spec, entry.factory()(entry.spec, parse_options(entry.spec.options, options, where=name))


class Beside(Strategy):
    """Keeps another average of the same weights: ``begin(model)`` makes it, ``step(average, model, run)`` feeds it."""

    role = "penalty"
    touches = frozenset()

    def __init__(self, begin, step) -> None:
        self.begin, self.step = begin, step

    def prepare(self, model, run):
        self.average = self.begin(model)

    def after_step(self, model, run):
        self.step(self.average, model, run)


class Kept(Strategy):
    """Looks at the weights that a phase ends with, before anybody's ``finish``."""

    touches = frozenset()

    def finish(self, model, run):
        self.state = clone_state(model.state_dict())


def close(found, wanted) -> None:
    """Every tensor found equals the one wanted, in float64 arithmetic up to rounding."""
    assert found
    for name, tensor in found.items():
        assert torch.allclose(tensor, wanted[name].to(tensor.dtype), rtol=1e-5, atol=1e-7), name


# ------------------------------------------------------------------ ema


@pytest.mark.parametrize("warmup", [True, False])
@pytest.mark.parametrize("tuning", [None, "gradual", "partial"])
def test_ema_is_timms(warmup, tuning):
    """BatchNorm statistics and counts, and blocks that begin to learn in the middle, included."""
    spec, ema = part("ema", decay=0.8, warmup=warmup)
    beside = Beside(
        lambda model: ModelEmaV3(model, decay=0.8, use_warmup=True),
        lambda timm, model, run: timm.update(model, step=run.step + 1 if warmup else None),
    )
    others = [part(tuning)] if tuning else []
    run = make_run([phase((spec, ema), beside, *others, epochs=4)])
    train_here(run)
    close(ema.mean, beside.average.module.state_dict())
    learned = {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert learned <= ema.mean.keys()
    if tuning == "partial":
        assert not any(name.startswith("backbone.stem") for name in ema.mean)
    else:
        assert "backbone.stem.1.running_var" in ema.mean
        assert ema.mean["backbone.stem.1.num_batches_tracked"] == run.model.backbone.stem[1].num_batches_tracked


def test_ema_is_not_stuck_at_the_start_of_a_short_run():
    _, ema = part("ema")
    assert ema.decay_at(1) == 0.0
    assert ema.decay_at(100) == pytest.approx(1 - 100 ** (-2 / 3))
    assert ema.decay_at(10**9) == 0.999
    assert part("ema", warmup=False)[1].decay_at(1) == 0.999


@pytest.mark.parametrize("keep", ["last", "best"])
def test_a_phase_validates_and_ends_with_the_ema(keep):
    spec, ema = part("ema", decay=0.9)
    kept, means = Kept(), []

    class Copies(Strategy):
        role = "penalty"

        def after_step(self, model, run):
            if (run.step + 1) % run.steps_per_epoch == 0:
                means.append(None)

        def begin_epoch(self, model, run):
            if run.epoch:
                means[-1] = clone_state(ema.mean)

    run = make_run([phase((spec, ema), kept, Copies(), epochs=3)], keep=keep)
    rows = train_here(run)
    means[-1] = ema.mean
    best = rows[-1].get("best_epoch", 2)
    assert ("best_epoch" in rows[-1]) == (keep == "best")
    for name, mean in means[best].items():
        assert torch.equal(kept.state[name], mean), name
    live = dict(run.model.named_parameters())
    assert live.keys() <= ema.mean.keys()


def test_ema_leaves_frozen_tensors_alone_and_works_on_cached_features():
    spec, ema = part("ema", decay=0.9)
    run = make_run([phase((spec, ema), part("linear"), augment="none", epochs=2)])
    before = clone_state(run.model.backbone.state_dict())
    rows = train_here(run)
    assert same_bits(run.model.backbone.state_dict(), before)
    assert rows[-1]["frozen_tensors"] == len(before)
    assert all(name.startswith("head.") for name in ema.mean)


def test_averages_of_half_precision_keep_small_shares():
    _, ema = part("ema", decay=0.999, warmup=False)
    model = nn.Module()
    model.layer = nn.Linear(2, 2, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.layer.weight.fill_(1.0)
    run = SimpleNamespace(start={}, epoch=0, step=0)
    ema.prepare(model, run)
    with torch.no_grad():
        model.layer.weight.fill_(2.0)
    for _ in range(100):
        ema.after_step(model, run)
    expected = 2 - 0.999**100  # in bfloat16 each step would round to nothing
    torch.testing.assert_close(ema.mean["layer.weight"], torch.full((2, 2), expected), rtol=1e-4, atol=0)
    model.load_state_dict(ema.evaluation_weights(model))
    assert model.layer.weight.dtype == torch.bfloat16


# ------------------------------------------------------------------ swa


@pytest.mark.parametrize(("every", "start"), [("epoch", 0.5), ("epoch", 0.0), ("step", 0.7), ("epoch", 1.0)])
def test_swa_is_torchs(every, start):
    spec, swa = part("swa", every=every, start=start)

    def step(average, model, run):
        done, per_epoch = run.step + 1, run.steps_per_epoch
        if done >= start * run.total_steps and (every == "step" or done % per_epoch == 0):
            average.update_parameters(model)

    beside = Beside(lambda model: AveragedModel(model, use_buffers=True), step)
    run = make_run([phase((spec, swa), beside, epochs=4)])
    rows = train_here(run)
    assert beside.average.n_averaged == swa.count == rows[-1]["findings"]["swa"]["averaged"]
    wanted = beside.average.module.state_dict()
    close({n: t for n, t in swa.mean.items() if t.is_floating_point()}, wanted)
    close(dict(run.model.named_parameters()), wanted)


def test_swa_is_the_result_whichever_epoch_was_best_and_statistics_are_computed_anew():
    spec, swa = part("swa", start=0.5)
    run = make_run([phase((spec, swa), epochs=4)], keep="best")
    rows = train_here(run)
    assert "best_epoch" not in rows[-1]
    state = run.model.state_dict()
    for name, _ in run.model.named_parameters():
        assert torch.equal(state[name], swa.mean[name])
    statistics_are_those_of_train(run)


def statistics_are_those_of_train(run) -> None:
    """The model's BatchNorm statistics equal those that torch computes for its weights."""
    found = clone_state(run.model.state_dict())
    batches = iterate_batches(run.train, run.pipeline, batch_size=run.options.batch_size)
    with torch.no_grad():
        run.model.backbone.eval()
        reference = nn.Sequential(run.model.backbone)
        for module in reference.modules():
            module.training = isinstance(module, nn.BatchNorm2d)
        reference.train = lambda mode=True: reference  # dropout rests, as in an evaluation
        update_bn([run.pipeline.feed(loaded.views["eval"]) for loaded in batches], reference)
    computed = run.model.state_dict()
    norms = [name for name in computed if "running_" in name]
    assert norms
    close({name: computed[name] for name in norms}, found)


# ------------------------------------------------------------------ wise-ft


def two_phases(*more, backbone="plain", **options):
    """A linear phase, then everything, and ``more`` in the second."""
    kept = Kept()
    phases = [phase(part("linear"), epochs=1, augment="none"), phase(*more, kept, epochs=2)]
    run = make_run(phases, backbone=backbone, **options)
    rows = train_here(run)
    return run, kept.state, rows


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_wise_ft_lies_between_start_and_end(alpha):
    run, end, rows = two_phases(part("wise-ft", alpha=alpha))
    assert rows[-1]["findings"] == {"wise-ft": {"alpha": alpha}}
    moved = 0
    for name, tensor in run.model.state_dict().items():
        wanted = (1 - alpha) * run.start[name].double() + alpha * end[name].double()
        torch.testing.assert_close(tensor.double(), wanted, rtol=1e-6, atol=1e-7)
        moved += not torch.equal(run.start[name], end[name])
    assert moved > 4


def test_wise_ft_interpolates_batch_norm_statistics():
    run, end, _ = two_phases(part("wise-ft", alpha=0.25), backbone="norm")
    for kind in ("weight", "running_mean", "running_var"):
        name = f"backbone.stem.1.{kind}"
        torch.testing.assert_close(run.model.state_dict()[name], 0.75 * run.start[name] + 0.25 * end[name])
        assert not torch.equal(run.start[name], end[name])


def test_wise_ft_recalibrates_batch_norm_where_asked_to():
    run, end, _ = two_phases(part("wise-ft", alpha=0.5, statistics="recalibrated"), backbone="norm")
    name = "backbone.stem.1.weight"
    torch.testing.assert_close(run.model.state_dict()[name], 0.5 * run.start[name] + 0.5 * end[name])
    assert not torch.equal(run.start["backbone.stem.0.weight"], end["backbone.stem.0.weight"])
    statistics_are_those_of_train(run)


@pytest.mark.parametrize("written", [("ema", "wise-ft"), ("wise-ft", "ema"), ("wise-ft", "swa")])
def test_wise_ft_works_on_the_average_in_any_written_order(written):
    options = {"ema": {"decay": 0.9}, "swa": {"start": 0.0}, "wise-ft": {"alpha": 0.4}}
    parts = {name: part(name, **options[name]) for name in written}
    run, _, _ = two_phases(*parts.values(), keep="last")
    average = next(strategy for name, (_, strategy) in parts.items() if name != "wise-ft")
    for name, tensor in run.model.state_dict().items():
        torch.testing.assert_close(tensor, torch.lerp(run.start[name], average.mean[name], 0.4))


def test_two_owners_of_the_average_are_refused():
    with pytest.raises(UsageError, match="ema and swa both bring evaluation weights"):
        compose([part("ema"), part("swa")])


@pytest.mark.parametrize(
    ("scores", "tolerance", "alpha"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 0.5, 1.0),
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 3.0, 0.7),
        ([3, 5, 9, 9, 9, 9, 9, 9, 9, 9], 0.0, 0.3),
        ([1, 2, 3, 9, 3, 2, 1, 1, 1, 1], 0.0, 0.4),
        ([float("nan")] * 4 + [2, 2, 2, 2, 2, 2], 0.0, 0.5),
        ([float("nan")] * 10, 0.0, 0.5),
    ],
)
def test_auto_takes_the_smallest_alpha_within_the_tolerance(scores, tolerance, alpha, monkeypatch):
    spec, wise = part("wise-ft", tolerance=tolerance)
    run = make_run([phase((spec, wise))], backbone="plain")
    given = iter(scores)
    monkeypatch.setattr(run, "score", lambda model: float(next(given)))
    start = clone_state(run.model.state_dict())
    run.start = start
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(1.0)
    wise.finish(run.model, run)
    assert next(given, None) is None
    assert wise.findings()["alpha"] == alpha
    name = "backbone.stem.0.weight"
    torch.testing.assert_close(run.model.state_dict()[name], start[name] + alpha)


def test_auto_is_chosen_by_validation():
    run, _, rows = two_phases(part("wise-ft", tolerance=0.0), backbone="norm")
    found = rows[-1]["findings"]["wise-ft"]
    assert run.score(run.model) == pytest.approx(found["score"])
    assert found["best"] == found["score"]


def test_a_random_head_keeps_what_it_learned():
    spec, wise = part("wise-ft", alpha=0.25)
    kept = Kept()
    run = make_run([phase((spec, wise), kept)], backbone="plain")
    assert "random" in wise.explain(run.model, SimpleNamespace(base=run.base, start=run.base))[-1]
    train_here(run)
    for name, tensor in run.model.state_dict().items():
        if name.startswith("head."):
            assert torch.equal(tensor, kept.state[name])
        else:
            torch.testing.assert_close(tensor, torch.lerp(run.start[name], kept.state[name], 0.25))
    trained, _, _ = two_phases((spec, wise))
    assert len(wise.explain(trained.model, trained)) == 1


@pytest.mark.parametrize("value", ["best", "1.5", "-0.1"])
def test_alpha_is_a_share_or_auto(value):
    with pytest.raises(UsageError, match="alpha"):
        part("wise-ft", alpha=value)


# ------------------------------------------------------------------ resume


CASES = {
    "ema": (("gradual", {}), ("ema", {"decay": 0.9})),
    "ema+wise-ft": (("ema", {"decay": 0.9}), ("wise-ft", {})),
    "swa": (("swa", {"start": 0.3, "every": "step"}),),
}


@pytest.mark.parametrize("case", CASES)
def test_resumed_bits_agree(case, tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)

    def made():
        second = phase(*(part(name, **options) for name, options in CASES[case]), epochs=3)
        return make_run([phase(part("linear"), epochs=1, augment="none"), second])

    whole = made()
    rows = train_here(whole)
    total = sum(row["steps"] for row in rows if row["event"] == "phase")
    for halt in (5, total // 2 + 1, total - 1):
        folder = tmp_path / str(halt)
        folder.mkdir()
        with pytest.raises(Halt):
            train_here(made(), folder, halt)
        resumed = made()
        assert train_here(resumed, folder) == rows
        assert same_bits(resumed.model.state_dict(), whole.model.state_dict())
