"""The specs of the heads."""

from __future__ import annotations

from zoo_registry import HeadSpec, Paper

from zoo_basics.options import heads as options

_KORNBLITH = Paper(
    title="Do Better ImageNet Models Transfer Better?", year=2019, link="https://arxiv.org/abs/1805.08974"
)
_SNELL = Paper(title="Prototypical Networks for Few-shot Learning", year=2017, link="https://arxiv.org/abs/1703.05175")
_GIDARIS = Paper(
    title="Dynamic Few-Shot Visual Learning without Forgetting", year=2018, link="https://arxiv.org/abs/1804.09458"
)

HEADS = (
    HeadSpec(
        name="linear",
        summary="one linear layer with softmax; folds into a plain classifier",
        factory="zoo_basics.heads.linear:build",
        options=options.LinearOptions,
        paper=_KORNBLITH,
    ),
    HeadSpec(
        name="mlp",
        summary="hidden layers shared by all columns, then one linear layer with softmax",
        factory="zoo_basics.heads.mlp:build",
        options=options.MlpOptions,
    ),
    HeadSpec(
        name="cosine",
        summary="softmax over scaled cosines between features and class vectors; steady with few labels",
        factory="zoo_basics.heads.cosine:build",
        options=options.CosineOptions,
        paper=_GIDARIS,
    ),
    HeadSpec(
        name="prototype",
        summary="nearest class mean, computed without gradients (strategy fit); folds into a plain classifier",
        factory="zoo_basics.heads.prototype:build",
        options=options.PrototypeOptions,
        gradient=False,
        paper=_SNELL,
    ),
    HeadSpec(
        name="multilabel",
        summary="one linear layer with a sigmoid per class: any number of labels a sample",
        factory="zoo_basics.heads.multilabel:build",
        options=options.MultilabelOptions,
        tasks=("multilabel",),
    ),
    HeadSpec(
        name="regression",
        summary="one linear layer onto standardised values",
        factory="zoo_basics.heads.regression:build",
        options=options.RegressionOptions,
        tasks=("regression",),
    ),
)
