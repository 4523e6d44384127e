"""The recipe: everything that decides a run's result, as plain data that can be shown, stored and run again."""

from __future__ import annotations

from zoo.recipe.parse import parse_strategy
from zoo.recipe.recipe import Component, DataOptions, PhaseRecipe, Recipe, TrainOptions
from zoo.recipe.toml import read_recipe, write_recipe

__all__ = [
    "Component",
    "DataOptions",
    "PhaseRecipe",
    "Recipe",
    "TrainOptions",
    "parse_strategy",
    "read_recipe",
    "write_recipe",
]
