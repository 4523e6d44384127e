"""The specs of the strategies that average weights."""

from __future__ import annotations

from zoo_registry import Paper, StrategySpec

from zoo_basics.specs.tuning import EVERYTHING

_MEAN_TEACHER = Paper(
    title="Mean teachers are better role models: Weight-averaged consistency targets improve semi-supervised "
    "deep learning results",
    year=2017,
    link="https://arxiv.org/abs/1703.01780",
)
_SWA = Paper(
    title="Averaging Weights Leads to Wider Optima and Better Generalization",
    year=2018,
    link="https://arxiv.org/abs/1803.05407",
)
_WISE_FT = Paper(title="Robust fine-tuning of zero-shot models", year=2022, link="https://arxiv.org/abs/2109.01903")

AVERAGING: tuple[StrategySpec, ...] = (
    StrategySpec(
        name="ema",
        summary="validates and ends with an exponential moving average of the weights",
        factory="zoo_basics.strategies.ema:build",
        options="zoo_basics.options.averaging:EmaOptions",
        role="averaging",
        defaults=EVERYTHING,
        paper=_MEAN_TEACHER,
    ),
    StrategySpec(
        name="swa",
        summary="ends with the plain average of the weights along the last part of the phase",
        factory="zoo_basics.strategies.swa:build",
        options="zoo_basics.options.averaging:SwaOptions",
        role="averaging",
        defaults=EVERYTHING,
        paper=_SWA,
    ),
    StrategySpec(
        name="wise-ft",
        summary="ends between the weights at the phase's start and those it came to; robust under shift",
        factory="zoo_basics.strategies.wise_ft:build",
        options="zoo_basics.options.averaging:WiseFtOptions",
        role="averaging",
        defaults=EVERYTHING,
        paper=_WISE_FT,
    ),
)
