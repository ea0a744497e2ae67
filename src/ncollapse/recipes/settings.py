"""The fields of a recipe by name: listed, compared and set, as ``--set`` writes them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

from ncollapse.near_words import near_words
from ncollapse.recipes.recipe import Recipe, RecipeError, parse_recipe


def recipe_settings(recipe: Recipe) -> list[str]:
    """Return every field with its value, as ``override`` takes them; the words (name, title, description) are left out."""
    return [f"{name}={_written(value)}" for name, value in _flat(recipe).items()]


def _flat(recipe: Recipe) -> dict[str, Any]:
    content = dataclasses.asdict(recipe)
    for words in ("name", "title", "description"):
        del content[words]
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= {f"{key}.{leaf}": item for leaf, item in value.items()} if isinstance(value, dict) else {key: value}
    return flat


def differences(recipe: Recipe, other: Recipe) -> list[str]:
    """List what was set differently."""
    base = _flat(other)
    return [f"{name}={_written(value)}" for name, value in _flat(recipe).items() if name not in base or value != base[name]]


def _written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def override(recipe: Recipe, settings: Sequence[str]) -> Recipe:
    """Return a recipe with fields changed by name.

    Args:
        settings: Items like "train.epochs=50", "seed=3", "train.clip_norm=null", "train.milestones=0.5,0.8": a dotted field and
            its value in JSON. Quotes around words and brackets around lists are optional. Where ``train.epochs`` is set and
            ``measure.epochs`` is not, the listed epochs beyond the end are left out.

    Raises:
        RecipeError: If an item has no "=", a field does not exist (near ones are named), or a value has the wrong type.

    Example:
        >>> from ncollapse.studies import recipe_by_name
        >>> override(recipe_by_name("demo"), ["train.epochs=50"]).train.epochs
        50
    """
    changed = _changed(recipe, settings)
    try:
        return parse_recipe(changed)
    except RecipeError as error:
        # Those without which the others fit.
        culprits = [setting for setting in settings if _fit(recipe, [other for other in settings if other != setting])]
        raise RecipeError(f"{error} (set by {', '.join(culprits or settings)})") from error


def _fit(recipe: Recipe, settings: Sequence[str]) -> bool:
    try:
        parse_recipe(_changed(recipe, settings))
    except RecipeError:
        return False
    return True


def _changed(recipe: Recipe, settings: Sequence[str]) -> str:
    """Return a recipe with changed fields as JSON."""
    content = dataclasses.asdict(recipe)
    fields, named = _leaves(content), set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise RecipeError(f"A setting must look like train.epochs=50, got {setting!r}. Write FIELD=VALUE.")
        if key not in fields:
            raise RecipeError(
                f"Recipe {recipe.name!r} has no field {key!r}. {near_words(key, fields)}"
                f"See all with: ncollapse recipes {recipe.name}."
            )
        group, _, leaf = key.rpartition(".")
        (content[group] if group else content)[leaf] = _parse(
            text, _takes_list(getattr(recipe, group), leaf) if group else False
        )
        named.add(key)
    epochs = content["train"]["epochs"]
    if "train.epochs" in named and "measure.epochs" not in named and isinstance(epochs, int):
        content["measure"]["epochs"] = recipe.measure.until(epochs)
    return json.dumps(content)


def _leaves(content: dict[str, Any]) -> list[str]:
    names: list[str] = []
    for key, value in content.items():
        names.extend([f"{key}.{leaf}" for leaf in value] if isinstance(value, dict) else [key])
    return names


def _takes_list(config: Any, leaf: str) -> bool:
    """Return whether the values of a field are lists."""
    kind = get_type_hints(type(config))[leaf]
    return tuple in {get_origin(member) for member in (kind, *get_args(kind))}


def _parse(text: str, takes_list: bool) -> Any:
    if takes_list and not text.startswith("[") and text != "null":
        text = f"[{text}]"
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
