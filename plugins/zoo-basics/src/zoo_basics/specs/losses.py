"""The specs of the strategies that change the loss: objective, penalty."""

from __future__ import annotations

from dataclasses import replace

from zoo_registry import Paper, StrategySpec

from zoo_basics.specs.tuning import EVERYTHING

_L2_SP = Paper(
    title="Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    year=2018,
    link="https://arxiv.org/abs/1802.01483",
)
_DELTA = Paper(
    title="DELTA: DEep Learning Transfer using Feature Map with Attention for Convolutional Networks",
    year=2019,
    link="https://arxiv.org/abs/1901.09229",
)
_BSS = Paper(
    title="Catastrophic Forgetting Meets Negative Transfer: Batch Spectral Shrinkage for Safe Transfer Learning",
    year=2019,
    link="https://proceedings.neurips.cc/paper/2019/hash/c6bff625bdb0393992c9d4db0c6bbe45-Abstract.html",
)
_HINTON = Paper(
    title="Distilling the Knowledge in a Neural Network", year=2015, link="https://arxiv.org/abs/1503.02531"
)
_SAM = Paper(
    title="Sharpness-Aware Minimization for Efficiently Improving Generalization",
    year=2021,
    link="https://arxiv.org/abs/2010.01412",
)
_FOCAL = Paper(title="Focal Loss for Dense Object Detection", year=2017, link="https://arxiv.org/abs/1708.02002")
_MENON = Paper(title="Long-tail learning via logit adjustment", year=2021, link="https://arxiv.org/abs/2007.07314")

_EVERYTHING = replace(EVERYTHING, decay=None)
"""For a phase without a tuning strategy, in which everything learns: as ``full``."""

LOSSES: tuple[StrategySpec, ...] = (
    StrategySpec(
        name="l2-sp",
        summary="pulls the backbone to its pretrained weights and the head to zero, in place of weight decay",
        factory="zoo_basics.strategies.l2_sp:build",
        options="zoo_basics.options.losses:L2SpOptions",
        role="penalty",
        touches=frozenset({"loss"}),
        defaults=replace(EVERYTHING, decay=0.0),
        paper=_L2_SP,
    ),
    StrategySpec(
        name="delta",
        summary="keeps the feature maps near those of the pretrained network on the same input",
        factory="zoo_basics.strategies.delta:build",
        options="zoo_basics.options.losses:DeltaOptions",
        role="penalty",
        needs=frozenset({"blocks"}),
        touches=frozenset({"input", "loss"}),
        defaults=_EVERYTHING,
        paper=_DELTA,
    ),
    StrategySpec(
        name="bss",
        summary="shrinks the smallest singular values of a batch's features: what transfers badly does no harm",
        factory="zoo_basics.strategies.bss:build",
        options="zoo_basics.options.losses:BssOptions",
        role="penalty",
        touches=frozenset({"features", "loss"}),
        defaults=_EVERYTHING,
        paper=_BSS,
    ),
    StrategySpec(
        name="distill",
        summary="follows a teacher, another model of the zoo, beside the labels (knowledge distillation)",
        factory="zoo_basics.strategies.distill:build",
        options="zoo_basics.options.losses:DistillOptions",
        role="penalty",
        touches=frozenset({"input", "loss"}),
        defaults=_EVERYTHING,
        paper=_HINTON,
        example={"teacher": "teacher"},
    ),
    StrategySpec(
        name="sam",
        summary="sharpness-aware minimisation: looks for flat minima, at two passes a step",
        factory="zoo_basics.strategies.sam:build",
        options="zoo_basics.options.losses:SamOptions",
        role="penalty",
        touches=frozenset({"loss"}),
        defaults=_EVERYTHING,
        paper=_SAM,
    ),
    StrategySpec(
        name="focal",
        summary="focal loss: what is already right counts less, hard samples count more",
        factory="zoo_basics.strategies.focal:build",
        options="zoo_basics.options.losses:FocalOptions",
        role="objective",
        touches=frozenset({"loss"}),
        defaults=_EVERYTHING,
        paper=_FOCAL,
    ),
    StrategySpec(
        name="logit-adjustment",
        summary="adds the log of each class's share to its logit while training: rare classes are not outvoted",
        factory="zoo_basics.strategies.logit_adjustment:build",
        options="zoo_basics.options.losses:LogitAdjustmentOptions",
        role="objective",
        touches=frozenset({"loss"}),
        defaults=_EVERYTHING,
        paper=_MENON,
    ),
)
