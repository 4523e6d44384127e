"""The specs of the heads."""

from __future__ import annotations

from zoo_registry import HeadSpec, Paper

_KORNBLITH = Paper(
    title="Do Better ImageNet Models Transfer Better?", year=2019, link="https://arxiv.org/abs/1805.08974"
)
_SNELL = Paper(title="Prototypical Networks for Few-shot Learning", year=2017, link="https://arxiv.org/abs/1703.05175")
_GIDARIS = Paper(
    title="Dynamic Few-Shot Visual Learning without Forgetting", year=2018, link="https://arxiv.org/abs/1804.09458"
)
_BERTINETTO = Paper(
    title="Meta-learning with differentiable closed-form solvers", year=2019, link="https://arxiv.org/abs/1805.08136"
)
_SUN = Paper(
    title="Out-of-Distribution Detection with Deep Nearest Neighbors",
    year=2022,
    link="https://arxiv.org/abs/2204.06507",
)
_LEE = Paper(
    title="Set Transformer: A Framework for Attention-based Permutation-Invariant Neural Networks",
    year=2019,
    link="https://arxiv.org/abs/1810.00825",
)
_RIDNIK = Paper(
    title="Asymmetric Loss For Multi-Label Classification", year=2021, link="https://arxiv.org/abs/2009.14119"
)
_SHI = Paper(
    title="Deep Neural Networks for Rank-Consistent Ordinal Regression Based On Conditional Probabilities",
    year=2021,
    link="https://arxiv.org/abs/2111.08851",
)
_KENDALL = Paper(
    title="Multi-Task Learning Using Uncertainty to Weigh Losses for Scene Geometry and Semantics",
    year=2018,
    link="https://arxiv.org/abs/1705.07115",
)

HEADS = (
    HeadSpec(
        name="linear",
        summary="one linear layer with softmax; folds into a plain classifier",
        factory="zoo_basics.heads.linear:build",
        options="zoo_basics.options.heads:LinearOptions",
        paper=_KORNBLITH,
    ),
    HeadSpec(
        name="mlp",
        summary="hidden layers shared by all columns, then one linear layer with softmax",
        factory="zoo_basics.heads.mlp:build",
        options="zoo_basics.options.heads:MlpOptions",
    ),
    HeadSpec(
        name="cosine",
        summary="softmax over scaled cosines between features and class vectors; steady with few labels",
        factory="zoo_basics.heads.cosine:build",
        options="zoo_basics.options.heads:CosineOptions",
        paper=_GIDARIS,
    ),
    HeadSpec(
        name="prototype",
        summary="nearest class mean, computed without gradients (strategy fit); folds into a plain classifier",
        factory="zoo_basics.heads.prototype:build",
        options="zoo_basics.options.heads:PrototypeOptions",
        gradient=False,
        paper=_SNELL,
    ),
    HeadSpec(
        name="ridge",
        summary="ridge regression in closed form, penalty chosen by leave-one-out (strategy fit); folds",
        factory="zoo_basics.heads.ridge:build",
        options="zoo_basics.options.heads:RidgeOptions",
        tasks=("classification", "regression"),
        gradient=False,
        paper=_BERTINETTO,
    ),
    HeadSpec(
        name="knn",
        summary="nearest training samples (strategy fit); abstains from what lies far from all of them",
        factory="zoo_basics.heads.knn:build",
        options="zoo_basics.options.heads:KnnOptions",
        gradient=False,
        paper=_SUN,
    ),
    HeadSpec(
        name="attention",
        summary="learned queries attend to the tokens or places of a map, then one linear layer with softmax",
        factory="zoo_basics.heads.attention:build",
        options="zoo_basics.options.heads:AttentionOptions",
        features=("tokens", "map"),
        paper=_LEE,
    ),
    HeadSpec(
        name="multilabel",
        summary="one linear layer with a sigmoid per class: any number of labels a sample",
        factory="zoo_basics.heads.multilabel:build",
        options="zoo_basics.options.heads:MultilabelOptions",
        tasks=("multilabel",),
        paper=_RIDNIK,
    ),
    HeadSpec(
        name="ordinal",
        summary="classes with an order (grades, ages): probabilities from questions 'above rank k?'",
        factory="zoo_basics.heads.ordinal:build",
        options="zoo_basics.options.heads:OrdinalOptions",
        example={"order": ("first", "second", "third")},
        paper=_SHI,
    ),
    HeadSpec(
        name="regression",
        summary="one linear layer onto standardised values",
        factory="zoo_basics.heads.regression:build",
        options="zoo_basics.options.heads:RegressionOptions",
        tasks=("regression",),
    ),
    HeadSpec(
        name="multi-task",
        summary="columns of different kinds at once, each weighed by its learned uncertainty",
        factory="zoo_basics.heads.multi_task:build",
        options="zoo_basics.options.heads:MultiTaskOptions",
        tasks=("classification", "multilabel", "regression"),
        paper=_KENDALL,
    ),
)
