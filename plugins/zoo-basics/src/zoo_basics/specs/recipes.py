"""Named recipes: phases of strategies that papers put together."""

from __future__ import annotations

from zoo_registry import Paper, RecipePhase, RecipeSpec

RECIPES: tuple[RecipeSpec, ...] = (
    RecipeSpec(
        name="lp-ft",
        summary="a linear probe, then everything from there: distorts features less than fine-tuning at once",
        phases=(RecipePhase(strategies=("basics/linear",)), RecipePhase(strategies=("basics/full",))),
        paper=Paper(
            title="Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution",
            year=2022,
            link="https://arxiv.org/abs/2202.10054",
        ),
    ),
    RecipeSpec(
        name="ulmfit",
        summary="gradual unfreezing at layer-wise rates: the gentlest way through all blocks",
        phases=(RecipePhase(strategies=("basics/gradual", "basics/llrd")),),
        paper=Paper(
            title="Universal Language Model Fine-tuning for Text Classification",
            year=2018,
            link="https://arxiv.org/abs/1801.06146",
        ),
    ),
    RecipeSpec(
        name="robust",
        summary="lp-ft that ends between the probe and the fine-tuned weights: for data that will shift",
        phases=(
            RecipePhase(strategies=("basics/linear",)),
            RecipePhase(strategies=("basics/full", "basics/wise-ft")),
        ),
        paper=Paper(
            title="Robust fine-tuning of zero-shot models",
            year=2022,
            link="https://arxiv.org/abs/2109.01903",
        ),
    ),
    RecipeSpec(
        name="few-shot",
        summary="nearest class mean on frozen features: one to five labels a class, in seconds and without a rate",
        phases=(RecipePhase(strategies=("basics/fit",)),),
        head="basics/prototype",
        paper=Paper(
            title="SimpleShot: Revisiting Nearest-Neighbor Classification for Few-Shot Learning",
            year=2019,
            link="https://arxiv.org/abs/1911.04623",
        ),
    ),
)
