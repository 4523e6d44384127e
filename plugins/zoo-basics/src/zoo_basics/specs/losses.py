"""The specs of the strategies that change the loss: objective, penalty."""

from __future__ import annotations

from zoo_registry import Defaults, Paper, StrategySpec

from zoo_basics.options import losses as options

_L2_SP = Paper(
    title="Explicit Inductive Bias for Transfer Learning with Convolutional Networks",
    year=2018,
    link="https://arxiv.org/abs/1802.01483",
)

LOSSES: tuple[StrategySpec, ...] = (
    StrategySpec(
        name="l2-sp",
        summary="pulls the backbone to its pretrained weights and the head to zero, in place of weight decay",
        factory="zoo_basics.strategies.l2_sp:build",
        options=options.L2SpOptions,
        role="penalty",
        touches=frozenset({"loss"}),
        defaults=Defaults(rate=3e-4, decay=0.0, warmup=0.1, epochs=10),
        paper=_L2_SP,
    ),
)
