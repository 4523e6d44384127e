"""The specs of the strategies that say what learns (tuning) and at which rates."""

from __future__ import annotations

from zoo_registry import Defaults, Paper, StrategySpec

_YOSINSKI = Paper(
    title="How transferable are features in deep neural networks?", year=2014, link="https://arxiv.org/abs/1411.1792"
)
_KORNBLITH = Paper(
    title="Do Better ImageNet Models Transfer Better?", year=2019, link="https://arxiv.org/abs/1805.08974"
)
_RCNN = Paper(
    title="Rich feature hierarchies for accurate object detection and semantic segmentation",
    year=2014,
    link="https://arxiv.org/abs/1311.2524",
)
_SNELL = Paper(title="Prototypical Networks for Few-shot Learning", year=2017, link="https://arxiv.org/abs/1703.05175")
_FRANKLE = Paper(
    title="Training BatchNorm and Only BatchNorm: On the Expressive Power of Random Features in CNNs",
    year=2021,
    link="https://arxiv.org/abs/2003.00152",
)
_BITFIT = Paper(
    title="BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models",
    year=2022,
    link="https://arxiv.org/abs/2106.10199",
)
_ULMFIT = Paper(
    title="Universal Language Model Fine-tuning for Text Classification",
    year=2018,
    link="https://arxiv.org/abs/1801.06146",
)

EVERYTHING = Defaults(rate=1e-3, decay=0.05, warmup=0.1, epochs=10)
"""Where everything learns; also of a phase without a tuning strategy, which is as ``full``."""

TUNING = (
    StrategySpec(
        name="full",
        summary="everything learns: fine-tuning, or training from scratch",
        factory="zoo_basics.strategies.full:build",
        touches=frozenset({"backbone"}),
        defaults=EVERYTHING,
        paper=_RCNN,
    ),
    StrategySpec(
        name="linear",
        summary="the backbone is frozen, BatchNorm statistics too; the head learns (a linear probe)",
        factory="zoo_basics.strategies.linear:build",
        defaults=Defaults(rate=3e-3, decay=1e-4, warmup=0.0, epochs=20),
        paper=_KORNBLITH,
    ),
    StrategySpec(
        name="partial",
        summary="the last blocks of the backbone and the head learn, the rest is frozen",
        factory="zoo_basics.strategies.partial:build",
        options="zoo_basics.options.tuning:PartialOptions",
        needs=frozenset({"blocks"}),
        touches=frozenset({"backbone"}),
        defaults=Defaults(rate=3e-3, decay=0.05, warmup=0.1, epochs=10),
        paper=_YOSINSKI,
    ),
    StrategySpec(
        name="gradual",
        summary="the head learns first, then one more block at a time from the end (gradual unfreezing)",
        factory="zoo_basics.strategies.gradual:build",
        options="zoo_basics.options.tuning:GradualOptions",
        needs=frozenset({"blocks"}),
        touches=frozenset({"backbone"}),
        defaults=EVERYTHING,
        paper=_ULMFIT,
    ),
    StrategySpec(
        name="bitfit",
        summary="bias terms of the backbone and the head learn, the rest is frozen",
        factory="zoo_basics.strategies.bitfit:build",
        touches=frozenset({"backbone"}),
        defaults=Defaults(rate=3e-3, decay=1e-4, warmup=0.1, epochs=20),
        paper=_BITFIT,
    ),
    StrategySpec(
        name="norm",
        summary="normalisation layers of the backbone and the head learn, the rest is frozen",
        factory="zoo_basics.strategies.norm:build",
        options="zoo_basics.options.tuning:NormOptions",
        touches=frozenset({"backbone"}),
        defaults=Defaults(rate=3e-3, decay=1e-4, warmup=0.1, epochs=20),
        paper=_FRANKLE,
    ),
    StrategySpec(
        name="fit",
        summary="no steps: the backbone is frozen and the head computes itself from the features of train",
        factory="zoo_basics.strategies.fit:build",
        head_needs=frozenset({"fit"}),
        gradient=False,
        paper=_SNELL,
    ),
    StrategySpec(
        name="llrd",
        summary="layer-wise learning rates: the nearer a block is to the input, the slower; goes with any tuning",
        factory="zoo_basics.strategies.llrd:build",
        options="zoo_basics.options.tuning:LlrdOptions",
        role="rates",
        needs=frozenset({"blocks"}),
        defaults=EVERYTHING,
        paper=_ULMFIT,
    ),
)
