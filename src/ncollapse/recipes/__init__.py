"""Experiments as data: what a recipe is made of, and the recipes of the papers. Needs no torch."""

from ncollapse.recipes.catalog import RECIPES, changes, recipe_by_name
from ncollapse.recipes.data import DataConfig
from ncollapse.recipes.networks import (
    ConvResNetConfig,
    FCResNetConfig,
    LayerNormResNetConfig,
    ModelConfig,
    TransformerConfig,
)
from ncollapse.recipes.recipe import MeasureConfig, Recipe, RecipeError
from ncollapse.recipes.settings import override, recipe_settings
from ncollapse.recipes.training import TrainConfig

__all__ = [
    "RECIPES",
    "ConvResNetConfig",
    "DataConfig",
    "FCResNetConfig",
    "LayerNormResNetConfig",
    "MeasureConfig",
    "ModelConfig",
    "Recipe",
    "RecipeError",
    "TrainConfig",
    "TransformerConfig",
    "changes",
    "override",
    "recipe_by_name",
    "recipe_settings",
]
