"""The specs of the strategies: plain data, free of torch and peft."""

from __future__ import annotations

from zoo_registry import Defaults, Paper, StrategySpec

_NEEDS = frozenset({"linear_layers"})
_TOUCHES = frozenset({"backbone"})

STRATEGIES: tuple[StrategySpec, ...] = (
    StrategySpec(
        name="lora",
        summary="low-rank updates of the linear layers and the head learn, then merge into the weights",
        factory="zoo_peft.strategies.lora:build",
        options="zoo_peft.options:LoraOptions",
        needs=_NEEDS,
        touches=_TOUCHES,
        defaults=Defaults(rate=2e-3, decay=1e-4, warmup=0.1, epochs=10),
        paper=Paper(
            title="LoRA: Low-Rank Adaptation of Large Language Models",
            year=2022,
            link="https://arxiv.org/abs/2106.09685",
        ),
    ),
    StrategySpec(
        name="dora",
        summary="LoRA for the directions of the linear layers' weights, and a magnitude per output",
        factory="zoo_peft.strategies.dora:build",
        options="zoo_peft.options:LoraOptions",
        needs=_NEEDS,
        touches=_TOUCHES,
        defaults=Defaults(rate=2e-3, decay=1e-4, warmup=0.1, epochs=10),
        paper=Paper(
            title="DoRA: Weight-Decomposed Low-Rank Adaptation", year=2024, link="https://arxiv.org/abs/2402.09353"
        ),
    ),
    StrategySpec(
        name="ia3",
        summary="one factor per key, value and hidden activation, and the head, learn: the fewest parameters",
        factory="zoo_peft.strategies.ia3:build",
        options="zoo_peft.options:Ia3Options",
        needs=_NEEDS,
        touches=_TOUCHES,
        defaults=Defaults(rate=3e-3, decay=0.0, warmup=0.1, epochs=10),
        paper=Paper(
            title="Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
            year=2022,
            link="https://arxiv.org/abs/2205.05638",
        ),
    ),
    StrategySpec(
        name="adalora",
        summary="LoRA whose rank goes to the layers that matter most, within a budget that shrinks",
        factory="zoo_peft.strategies.adalora:build",
        options="zoo_peft.options:AdaloraOptions",
        needs=_NEEDS,
        touches=_TOUCHES,
        defaults=Defaults(rate=5e-3, decay=1e-4, warmup=0.1, epochs=10),
        paper=Paper(
            title="AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning",
            year=2023,
            link="https://arxiv.org/abs/2303.10512",
        ),
    ),
)
