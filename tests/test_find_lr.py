"""The learning-rate finder: what a known curve suggests, what the ramp does to a real phase, and the command."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import tiny_zoo
import torch
from PIL import Image
from tiny_runs import request
from zoo_registry import Registry, Strategy, StrategySpec, UsageError
from zoo_registry.discovery import Plugin
from zoo_runs import done, zoo

from zoo import api
from zoo.cli.rates import next_words
from zoo.planning import make_plan
from zoo.rates.find import find_rates
from zoo.rates.suggest import Divergence, ramp_rates, rounded, smooth, suggest
from zoo.training.progress import Reporter

RATES = ramp_rates(1e-6, 1.0, 100)
LOGS = np.log10(RATES)


def curve(centre: float, noise: float = 0.0, blow_up: float = 5.0) -> list[float]:
    """A loss that falls from 2.3 by a logistic curve in log rate, steepest at ``centre``, and explodes later."""
    fall = 2.3 - 2.0 / (1 + np.exp(-(LOGS - centre) / 0.3))
    rise = np.where(centre + 2 < LOGS, (LOGS - centre - 2) * blow_up, 0.0)
    return list(fall + rise + np.random.default_rng(0).normal(0, noise, 100))


def test_the_ramp_grows_by_equal_factors():
    assert (RATES[0], RATES[-1]) == (1e-6, pytest.approx(1.0))
    np.testing.assert_allclose(np.diff(LOGS), 6 / 99)


@pytest.mark.parametrize("centre", [-4.0, -3.0, -2.2])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_steepest_point_of_a_known_curve_is_found(centre: float, noise: float):
    found = suggest(RATES, curve(centre, noise))
    assert math.log10(found.steepest) == pytest.approx(centre, abs=0.13 if noise else 0.07)
    assert centre < math.log10(found.lowest) <= centre + 2.1
    assert math.log10(found.valley) < math.log10(found.lowest)


def test_the_steepest_point_agrees_with_a_spline_of_the_same_losses():
    """An independent smoother and derivative."""
    from scipy.interpolate import UnivariateSpline

    losses = curve(-2.7, 0.03)
    spline = UnivariateSpline(LOGS, losses, k=4, s=100 * 0.03**2)
    grid = np.linspace(-6, -1, 2001)
    expected = grid[np.argmin(spline.derivative()(grid))]
    assert math.log10(suggest(RATES, losses).steepest) == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize(
    "losses", [[2.3] * 100, list(np.linspace(1, 5, 100)), list(np.random.default_rng(3).normal(2, 0.1, 100)), [1.0]]
)
def test_a_loss_that_does_not_fall_suggests_nothing(losses: list[float]):
    found = suggest(RATES[: len(losses)], losses)
    assert found.steepest is None
    assert len(found.smoothed) == len(losses)


def test_smoothing_keeps_a_line_and_averages_noise():
    line = [3.0 - 0.02 * i for i in range(50)]
    np.testing.assert_allclose(smooth(line, 3.0), line, atol=1e-12)
    noise = list(np.random.default_rng(1).normal(0, 1, 400))
    assert np.std(smooth(noise, 3.0)[10:-10]) < 0.4


def test_a_ramp_is_over_when_the_loss_runs_away_and_not_for_one_bad_batch():
    diverges = Divergence(100)
    assert not any(diverges(2.0) for _ in range(30))
    assert not diverges(12.0)
    assert not any(diverges(1.0) for _ in range(30))
    assert any(diverges(1.5**i) for i in range(20))


class TwoRates(Strategy):
    """The head learns ten times as fast as the body; the noise of a generator goes into the loss."""

    def parameter_groups(self, model, rate):
        body = list(model.backbone.parameters())
        return [
            {"params": body, "rate": rate * 0.1, "decay": 0.0},
            {"params": list(model.head.parameters()), "rate": rate, "decay": 0.0},
        ]

    def penalty(self, model, batches, run):
        draw = torch.rand((), generator=run.generator("noise"))
        return {"drawn": draw * 0.01 * next(model.head.parameters()).square().sum()}


def two_rates(spec, options):
    return TwoRates()


class Nothing(Strategy):
    """Fits without gradients."""


def nothing(spec, options):
    return Nothing()


@pytest.fixture
def registry() -> Registry:
    plugin = Plugin(namespace="own", distribution="zoo-own", version="1")
    tiny = tiny_zoo.registry().plugins
    here = [spec for p in tiny for spec in p.specs["strategy"]]
    assert here
    plugin.specs["strategy"] = [
        StrategySpec(name="two", summary="two rates of a test", factory=f"{TwoRates.__module__}:two_rates"),
        StrategySpec(name="nofit", summary="no gradient", factory=f"{TwoRates.__module__}:nothing", gradient=False),
    ]
    return Registry([*tiny, plugin])


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    import sys
    from types import SimpleNamespace

    monkeypatch.setitem(sys.modules, TwoRates.__module__, SimpleNamespace(two_rates=two_rates, nothing=nothing))


class Counting(Reporter):
    def __init__(self) -> None:
        self.steps, self.phases = 0, []

    def begin_phase(self, index, count, label, total_steps):
        self.phases.append((index, count, total_steps))

    def step(self, step, epoch, loss, samples):
        self.steps += 1


def plan_of(registry: Registry, strategy: str, *settings: str):
    return make_plan(request(None, strategy, "norm", "train.workers=0", *settings), registry)


def test_a_ramp_keeps_the_groups_ratios_and_two_searches_agree(registry):
    told = Counting()
    plan = plan_of(registry, "two:3", "train.lr=0.004")
    found = find_rates(plan, registry, steps=60, device="cpu", reporter=told)
    [ramp] = found.phases
    assert ramp.relative == pytest.approx((1.0, 0.1))
    assert ramp.rate == 0.004
    assert ramp.label == "two:3"
    assert ramp.rates == tuple(ramp_rates(1e-6, 1.0, 60)[: len(ramp.rates)])
    assert len(ramp.losses) == len(ramp.rates) == told.steps
    assert told.phases == [(0, 1, 60)]
    again = find_rates(plan_of(registry, "two:3", "train.lr=0.004"), registry, steps=60, device="cpu")
    assert again.to_json() == found.to_json()
    other = find_rates(plan_of(registry, "two:3", "train.lr=0.04"), registry, steps=60, device="cpu")
    assert other.phases[0].losses == pytest.approx(ramp.losses, rel=1e-4)  # the recipe's own rate does not matter


def test_the_optimiser_really_takes_the_rates(registry):
    """AdamW without decay moves a weight of steady gradient by the rate: the first step tells it exactly."""
    plan = plan_of(registry, "two:3", "train.clip=0")
    moved = {}

    class Watching(Counting):
        def step(self, step, epoch, loss, samples):
            pass

    from zoo.training import step as step_module

    original = step_module.Stepper.take

    def take(self, batches):
        before = {n: p.detach().clone() for n, p in self.model.named_parameters()}
        result = original(self, batches)
        if self.run.step == 0:
            moved.update({n: float((p.detach() - before[n]).abs().max()) for n, p in self.model.named_parameters()})
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(step_module.Stepper, "take", take)
        find_rates(plan, registry, steps=10, low=1e-3, high=1e-2, device="cpu", reporter=Watching())
    head = max(v for n, v in moved.items() if n.startswith("head."))
    body = max(v for n, v in moved.items() if n.startswith("backbone."))
    assert head == pytest.approx(1e-3, rel=0.01)
    assert body == pytest.approx(1e-4, rel=0.01)


def test_each_phase_or_the_one_asked_for_and_what_is_refused(registry):
    found = find_rates(plan_of(registry, "freeze:2,two:2"), registry, steps=12, device="cpu")
    assert [ramp.phase for ramp in found.phases] == [0, 1]
    assert any("phase 2 was tried from the weights" in note for note in found.notes)
    found = find_rates(plan_of(registry, "freeze:2,two:2"), registry, phase=2, steps=12, device="cpu")
    assert [ramp.phase for ramp in found.phases] == [1]
    with pytest.raises(UsageError, match="no phase 3"):
        find_rates(plan_of(registry, "freeze:2,two:2"), registry, phase=3, device="cpu")
    with pytest.raises(UsageError, match="a ramp from 1 to"):
        find_rates(plan_of(registry, "two:2"), registry, low=1.0, high=0.1, device="cpu")


def test_a_ramp_longer_than_the_phase_ends_where_the_loss_runs_away(registry):
    found = find_rates(plan_of(registry, "two:1"), registry, steps=80, high=1e6, device="cpu")
    [ramp] = found.phases
    assert ramp.end in ("diverged", "not finite")
    assert len(ramp.losses) < 80
    assert all(math.isfinite(loss) for loss in ramp.losses)


def test_the_next_command_is_the_one_typed_with_the_rate_put_in():
    words = ["photos/", "--find-lr", "--lr", "1", "--phase=2", "--json", "--strategy", "full:3", "--lr=2"]
    assert next_words(words, ["--lr", "0.003"]) == ["photos/", "--strategy", "full:3", "--lr", "0.003"]
    assert rounded(0.0031622) == 0.0032


QUICK = ("digits:", "--backbone", "starter/cnn", "--set", "data.labels_per_class=3", "--workers", "0")


def test_the_command_writes_two_files_suggests_and_leaves_room_for_the_run(tmp_path: Path):
    out = tmp_path / "run"
    said = done("finetune", *QUICK, "--strategy", "linear:2", "--find-lr", "--out", out, "--json").json
    assert sorted(p.name for p in out.iterdir()) == ["find-lr.json", "find-lr.png"]
    kept = json.loads((out / "find-lr.json").read_text())
    assert {k: v for k, v in said.items() if k not in ("files", "next")} == kept
    rate = kept["phases"][0]["suggestion"]
    assert 1e-4 < rate < 1
    assert said["next"].endswith(f"--out {out} --lr {rate:g}")
    assert "--find-lr" not in said["next"]
    with Image.open(out / "find-lr.png") as image:
        assert image.size[0] > 500
    done("finetune", *QUICK, "--strategy", "linear:2", "--out", out, "--lr", rate)
    assert (out / "model" / "manifest.json").exists()
    assert (out / "find-lr.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--strategy", "fit", "--head", "prototype", "--find-lr"), "no gradient steps"),
        (("--phase", 2), "--phase is for --find-lr"),
        (("--find-lr", "--dry-run"), "two different looks ahead"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, message, tmp_path: Path):
    refused = zoo("finetune", *QUICK, *arguments, "--out", tmp_path / "run", "--json")
    assert refused.code == 2
    assert message in refused.json["error"]["message"]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_python_finds_the_same_and_writes_only_where_told(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    asked = {
        "backbone": "starter/cnn", "strategy": "linear:2", "workers": 0, "settings": ("data.labels_per_class=3",),
    }  # fmt: skip
    found = api.find_lr("digits:", steps=20, **asked)
    assert list(tmp_path.iterdir()) == []
    assert api.find_lr("digits:", steps=20, out=tmp_path / "x", **asked).to_json() == found.to_json()
    assert (tmp_path / "x" / "find-lr.png").is_file()
