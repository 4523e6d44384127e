"""The specs of the strategies that change the data: augment, sampling, batch."""

from __future__ import annotations

from zoo_registry import Paper, StrategySpec

from zoo_basics.specs.tuning import EVERYTHING

_MIXUP = Paper(title="mixup: Beyond Empirical Risk Minimization", year=2018, link="https://arxiv.org/abs/1710.09412")
_CUTMIX = Paper(
    title="CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    year=2019,
    link="https://arxiv.org/abs/1905.04899",
)
_SZEGEDY = Paper(
    title="Rethinking the Inception Architecture for Computer Vision",
    year=2016,
    link="https://arxiv.org/abs/1512.00567",
)
_CUI = Paper(
    title="Class-Balanced Loss Based on Effective Number of Samples", year=2019, link="https://arxiv.org/abs/1901.05555"
)
_JIANG = Paper(
    title="Instance Weighting for Domain Adaptation in NLP", year=2007, link="https://aclanthology.org/P07-1034"
)
_TRIVIAL = Paper(
    title="TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation",
    year=2021,
    link="https://arxiv.org/abs/2103.10158",
)
_RAND = Paper(
    title="RandAugment: Practical automated data augmentation with a reduced search space",
    year=2020,
    link="https://arxiv.org/abs/1909.13719",
)

DATA: tuple[StrategySpec, ...] = (
    StrategySpec(
        name="trivial-augment",
        summary="changes each training image once, by a drawn operation of drawn strength",
        factory="zoo_basics.strategies.auto_augment:build_trivial",
        options="zoo_basics.options.data:TrivialAugmentOptions",
        role="augment",
        touches=frozenset({"input"}),
        defaults=EVERYTHING,
        paper=_TRIVIAL,
    ),
    StrategySpec(
        name="rand-augment",
        summary="changes each training image by several drawn operations of one strength",
        factory="zoo_basics.strategies.auto_augment:build_rand",
        options="zoo_basics.options.data:RandAugmentOptions",
        role="augment",
        touches=frozenset({"input"}),
        defaults=EVERYTHING,
        paper=_RAND,
    ),
    StrategySpec(
        name="class-balanced",
        summary="draws rare classes more often, by their number or effective number of samples",
        factory="zoo_basics.strategies.class_balanced:build",
        options="zoo_basics.options.data:ClassBalancedOptions",
        role="sampling",
        defaults=EVERYTHING,
        paper=_CUI,
    ),
    StrategySpec(
        name="weighted",
        summary="draws samples by weights that the user gives to classes or, in a table, to samples",
        factory="zoo_basics.strategies.weighted:build",
        options="zoo_basics.options.data:WeightedOptions",
        example={"classes": ("across=2",)},
        role="sampling",
        defaults=EVERYTHING,
        paper=_JIANG,
    ),
    StrategySpec(
        name="mixup",
        summary="blends inputs and labels of two samples at a time",
        factory="zoo_basics.strategies.mixup:build",
        options="zoo_basics.options.data:MixupOptions",
        role="batch",
        touches=frozenset({"input", "loss"}),
        defaults=EVERYTHING,
        paper=_MIXUP,
    ),
    StrategySpec(
        name="cutmix",
        summary="fills a box of each image from another one and shares the label by area",
        factory="zoo_basics.strategies.cutmix:build",
        options="zoo_basics.options.data:CutmixOptions",
        role="batch",
        touches=frozenset({"input", "loss"}),
        defaults=EVERYTHING,
        paper=_CUTMIX,
    ),
    StrategySpec(
        name="label-smoothing",
        summary="spreads a share of every label over all classes",
        factory="zoo_basics.strategies.label_smoothing:build",
        options="zoo_basics.options.data:LabelSmoothingOptions",
        role="batch",
        touches=frozenset({"loss"}),
        defaults=EVERYTHING,
        paper=_SZEGEDY,
    ),
)
