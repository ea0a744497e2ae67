"""Runs of recipes: one, a sweep in many processes, and the studies made of them."""

from ncollapse.recipes import MeasureConfig, Recipe, RecipeError, override, recipe_settings
from ncollapse.recipes.catalog import RECIPES, changes, recipe_by_name
from ncollapse.records.errors import RunDirectoryError
from ncollapse.stop_signals import RunStopped, stop_signals
from ncollapse.studies.ncc_depth import DepthComparison, MinimalDepth, compare_ncc_depths, minimal_ncc_depth
from ncollapse.studies.run import run_recipe
from ncollapse.studies.sweep import SweepOutcome, SweepRun, plan_sweep, run_sweep

__all__ = [
    "RECIPES",
    "DepthComparison",
    "MeasureConfig",
    "MinimalDepth",
    "Recipe",
    "RecipeError",
    "RunDirectoryError",
    "RunStopped",
    "SweepOutcome",
    "SweepRun",
    "changes",
    "compare_ncc_depths",
    "minimal_ncc_depth",
    "override",
    "plan_sweep",
    "recipe_by_name",
    "recipe_settings",
    "run_recipe",
    "run_sweep",
    "stop_signals",
]
