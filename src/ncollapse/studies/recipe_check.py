"""Whether a recipe's network fits its data and can be measured, seen before data is read and anything is trained."""

from __future__ import annotations

from typing import cast

from torch import nn

from ncollapse.data.catalog import empty_like_data
from ncollapse.models import build_model
from ncollapse.recipes.recipe import Recipe


def check_feasible(recipe: Recipe) -> None:
    """Build the network for samples of the kind that the data has."""
    # What depends on the samples themselves, such as how many there are in a class, is found out when they are read.
    data = empty_like_data(recipe.data)
    check_layers(build_model(recipe.model, data.sample_shape, data.num_classes, recipe.seed, data.vocabulary))


def check_layers(model: nn.Module) -> None:
    """Check that the recipe has layers to measure."""
    stages = cast(tuple[str, ...], model.collapse_stages)
    if len(stages) < 2:
        raise ValueError(
            f"A run measures collapse from layer to layer and needs two layers or more, got one, {stages[0]}. "
            "Give it a block: model.num_blocks of 1 or more, or in the last place of model.blocks."
        )
