"""The recipe that a run directory holds: read back, and compared with one that is to replace it."""

from __future__ import annotations

from dataclasses import replace

from ncollapse.recipes.recipe import Recipe, RecipeError
from ncollapse.recipes.settings import differences
from ncollapse.records.errors import RunDirectoryError
from ncollapse.records.run_directory import RunDirectory


def held_recipe(directory: RunDirectory) -> Recipe:
    """The recipe of the run in a folder."""
    try:
        return Recipe.from_json(directory.recipe.read_text())
    except FileNotFoundError as error:
        raise RunDirectoryError(f"{directory.path} holds no run (no recipe.json). Start one without --resume.") from error
    except RecipeError as error:
        raise RunDirectoryError(f"{directory.recipe} is damaged or of another version: {error}") from error


def check_replaceable(directory: RunDirectory, recipe: Recipe, overwrite: bool) -> None:
    """Nobody's results are lost but those that the same settings give again."""
    if directory.is_empty():
        return
    if not directory.recipe.exists():
        raise RunDirectoryError(f"{directory.path} is not empty and holds no run. Choose another place with --out.")
    held = held_recipe(directory)
    if not overwrite:
        raise RunDirectoryError(
            f"{directory.path} holds a run of {held.name!r} already. "
            "Continue it with --resume, or choose another place with --out."
        )
    other = differences(held, replace(recipe, seed=held.seed))
    if held.name != recipe.name or other:
        settings = f" with {', '.join(other)}" if other else ""
        raise RunDirectoryError(
            f"{directory.path} holds a run of {held.name!r}{settings}, which is not replaced by one of {recipe.name!r} with "
            "other settings. Choose another place with --out, or delete the folder."
        )
