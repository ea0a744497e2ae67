"""Experiments as data, and what runs them."""

from ncollapse.studies.own_network import measure_own
from ncollapse.studies.progressive_collapse import RECIPES, changes, recipe_by_name
from ncollapse.studies.recipe import MeasureConfig, Recipe, RecipeError, override, recipe_settings
from ncollapse.studies.run import measure_run, run_recipe
from ncollapse.studies.rundir import RunDirectory, RunDirectoryError

__all__ = [
    "RECIPES",
    "MeasureConfig",
    "Recipe",
    "RecipeError",
    "RunDirectory",
    "RunDirectoryError",
    "changes",
    "measure_own",
    "measure_run",
    "override",
    "recipe_by_name",
    "recipe_settings",
    "run_recipe",
]
