"""The settings of recipes by dotted name, and what several runs set differently."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ncollapse.recipe_fingerprint import NO_SETTINGS, YOUNGER
from ncollapse.records.reading import Run


def setting(run: Run, field: str) -> Any:
    """Return a setting of a run's recipe by its dotted name; None where the recipe has none."""
    group, _, leaf = field.rpartition(".")
    entries = run.recipe_entries.get(group) if group else run.recipe_entries
    return entries.get(leaf) if isinstance(entries, dict) else None


def flatten_settings(entries: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested entries as dotted names with their values as text."""
    flat: list[tuple[str, str]] = []
    for key, value in entries.items():
        if isinstance(value, dict):
            flat += flatten_settings(value, f"{prefix}{key}.")
        else:
            flat.append((f"{prefix}{key}", setting_text(value)))
    return flat


def setting_text(value: object) -> str:
    """Write a value as text, floats with six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list):
        return ", ".join(setting_text(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)


def settings_in_words(run: Run) -> Mapping[str, str]:
    """Return all settings of a run by dotted name, also those that its recipe is too old to say; none without a recipe."""
    # Kept with the run, as its cached properties are: every row of every claim asks for the settings of all runs.
    kept: dict[str, Mapping[str, str]] = vars(run)
    if "_settings_in_words" not in kept:
        # The recipe of somebody else's training may mean anything by what it does not say.
        younger = {} if run.is_recorded else {name: setting_text(value) for name, value in YOUNGER.items()}
        kept["_settings_in_words"] = younger | dict(flatten_settings(run.recipe_entries)) if run.recipe_entries else {}
    return kept["_settings_in_words"]


def differing_settings(runs: Sequence[Run]) -> list[list[tuple[str, str]]]:
    """List what the recipes of several runs set differently, apart from seeds; nothing for a run without a recipe."""
    words = NO_SETTINGS - {"name"} | {"seed"}
    settings = [{name: value for name, value in settings_in_words(run).items() if name not in words} for run in runs]
    known = [fields for fields, run in zip(settings, runs, strict=True) if run.recipe_entries]
    names = dict.fromkeys(name for fields in known for name in fields)
    differing = [name for name in names if len({fields.get(name) for fields in known}) > 1]
    return [
        [(name, fields.get(name, "not set")) for name in differing] if run.recipe_entries else []
        for fields, run in zip(settings, runs, strict=True)
    ]
