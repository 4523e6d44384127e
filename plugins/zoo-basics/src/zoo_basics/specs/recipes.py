"""Named recipes: phases of strategies that papers put together."""

from __future__ import annotations

from zoo_registry import Paper, RecipePhase, RecipeSpec

RECIPES: tuple[RecipeSpec, ...] = (
    RecipeSpec(
        name="lp-ft",
        summary="a linear probe, then everything from there: distorts the features less than fine-tuning at once",
        phases=(RecipePhase(strategies=("basics/linear",)), RecipePhase(strategies=("basics/full",))),
        paper=Paper(
            title="Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
            year=2022,
            link="https://arxiv.org/abs/2202.10054",
        ),
    ),
)
