"""The recipe that a run directory holds: read back, and compared with one that is to replace it."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from ncollapse.recipes.recipe import Recipe, RecipeError
from ncollapse.recipes.settings import differences
from ncollapse.records.errors import ReportError, RunDirectoryError
from ncollapse.records.file_names import ENVIRONMENT
from ncollapse.records.json_files import read_json
from ncollapse.records.run_directory import RunDirectory
from ncollapse.train.weights_file import CheckpointError

# More settings than this are counted.
_MOST_NAMED = 6


def held_recipe(directory: RunDirectory) -> Recipe:
    """Read the recipe of the run in a folder."""
    try:
        if not os.path.lexists(directory.recipe) and not directory.has_recipe():
            raise RunDirectoryError(f"{directory.path} holds no run (no recipe.json). {_advice(directory)}")
        if directory.recording() is not None:
            raise RunDirectoryError(
                f"{directory.path} holds what was recorded of a training by other code, and no network. Name the "
                "network and its checkpoint, or use `ncollapse report`."
            )
        return Recipe.from_json(directory.read_recipe())
    except ReportError as error:
        raise RunDirectoryError(str(error)) from error
    except (RecipeError, UnicodeDecodeError) as error:
        raise RunDirectoryError(f"{directory.recipe} is damaged or of another version: {error}") from error


def _advice(directory: RunDirectory) -> str:
    """Say what to do with a folder that holds no run; that of a measurement has no network in it."""
    try:
        network = read_json(directory.path / ENVIRONMENT, dict[str, Any]).get("network")
    except ReportError:
        network = None
    if network is None:
        return "Name the folder that `ncollapse run` or `ncollapse sweep` wrote."
    return f"It holds a measurement of the network {network}: name that network to measure it again, or use `ncollapse report`."


def check_resumable(directory: RunDirectory, recipe: Recipe) -> None:
    """Check that a run is resumed with its own settings."""
    # In its first save a run may not have written its recipe.
    if directory.is_cut_off() and directory.fingerprint() == recipe.fingerprint():
        return
    held = held_recipe(directory)
    if held.fingerprint() == recipe.fingerprint():
        return
    own, asked = differences(held, recipe), differences(recipe, held)
    if held.name == recipe.name and len(own) <= _MOST_NAMED:
        words = f"a run of {held.name!r} with {', '.join(own)}, got {', '.join(asked)}"
    else:
        words = f"a run of {held.name!r}, got {recipe.name!r} with {len(asked)} other settings"
    longer = "A finished run is not extended, since its learning rates depend on its length. "
    raise CheckpointError(
        f"{directory.path} holds {words}. {longer if any(item.startswith('train.epochs=') for item in asked) else ''}"
        "Resume it with its own settings, or choose another place with --out."
    )


def check_replaceable(directory: RunDirectory, recipe: Recipe, overwrite: bool) -> None:
    """Nobody's results are lost but those that the same settings give again."""
    if directory.is_empty() or (overwrite and directory.is_cut_off()):
        return
    if not directory.has_recipe():
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
