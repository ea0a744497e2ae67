"""All recipes by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ncollapse.near_words import near_words
from ncollapse.recipes.deep_regularized import DEEP_RECIPES
from ncollapse.recipes.progressive_collapse import PFC_RECIPES
from ncollapse.recipes.recipe import Recipe, RecipeError
from ncollapse.recipes.settings import differences

RECIPES: dict[str, Callable[[], Recipe]] = PFC_RECIPES | DEEP_RECIPES


def recipe_by_name(name: str) -> Recipe:
    """Return a recipe as listed by ``ncollapse recipes``.

    Raises:
        RecipeError: If there is none of that name; near ones are named.
    """
    if name not in RECIPES:
        raise RecipeError(f"No recipe {name!r}. {near_words(name, RECIPES)}List all with: ncollapse recipes.")
    return RECIPES[name]()


def changes(recipe: Recipe) -> list[str]:
    """Return the settings in which a recipe differs from the recipe of its name, whose description then no longer holds.

    Items such as "train.epochs=20"; none for a recipe of another name. The seed is left out, and so are measured epochs that
    differ only because the training is shorter.
    """
    if recipe.name not in RECIPES:
        return []
    named = RECIPES[recipe.name]()
    shortened = recipe.measure.epochs == named.measure.until(recipe.train.epochs)
    found = differences(replace(recipe, seed=0), named)
    return [item for item in found if not (shortened and item.startswith("measure.epochs="))]
