"""Experiments as data, and what runs them."""

from ncollapse.studies.progressive_collapse import RECIPES, recipe_by_name
from ncollapse.studies.recipe import MeasureConfig, Recipe, RecipeError, override
from ncollapse.studies.run import measure_run, run_recipe
from ncollapse.studies.rundir import RunDirectory, RunDirectoryError

__all__ = [
    "RECIPES",
    "MeasureConfig",
    "Recipe",
    "RecipeError",
    "RunDirectory",
    "RunDirectoryError",
    "measure_run",
    "override",
    "recipe_by_name",
    "run_recipe",
]
