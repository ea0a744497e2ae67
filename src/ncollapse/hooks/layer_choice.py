"""Taps for the layers that a user passes as names, patterns, modules or taps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

from ncollapse.hooks.tap import INPUT, Tap

LayerChoice = str | Tap | nn.Module | Sequence[str | Tap | nn.Module]

_NAMES_SHOWN = 30


def chosen_taps(layers: LayerChoice, modules: Mapping[str, nn.Module]) -> tuple[list[str], tuple[Tap, ...]]:
    """Return the chosen layers in words, and their taps."""
    words: list[str] = []
    found: dict[Tap, None] = {}
    for item in _items(layers):
        tap = item if isinstance(item, Tap) else Tap(name_of(item, modules, "layers"))
        # Exact names go first, since a module's name may contain characters that have a meaning in patterns.
        exact = tap.name in modules or (tap.name.endswith(INPUT) and tap.name.removesuffix(INPUT) in modules)
        names = [tap.name] if exact else _matching(tap.name, modules)
        if not names:
            raise ValueError(f"layers must name or match modules, got {tap.name!r}. {available_names(modules, tap.name)}")
        words.append(tap.label)
        found.update(dict.fromkeys(Tap(name, tap.pool) for name in names))
    if not found:
        raise ValueError(f"layers must name at least one module, got none. {available_names(modules)}")
    return words, tuple(found)


def _items(layers: LayerChoice) -> list[str | Tap | nn.Module]:
    if isinstance(layers, nn.ModuleList):
        return list(layers)  # a container that never runs itself
    return [layers] if isinstance(layers, str | Tap | nn.Module) else list(layers)


def name_of(item: str | nn.Module, modules: Mapping[str, nn.Module], argument: str) -> str:
    """Return a module's name in its network; return names unchanged."""
    if isinstance(item, str):
        return item
    if not isinstance(item, nn.Module):
        raise TypeError(
            f"{argument} must be given by name or module, got {type(item).__name__}. "
            "Pass names as in model.named_modules(), or the modules themselves."
        )
    name = next((name for name, module in modules.items() if module is item), None)
    if name is None:
        raise ValueError(
            f"{argument} must be modules inside the network, got a {type(item).__name__} that is not one of them. "
            f"Pass a module of the same network object, or its name. {available_names(modules)}"
        )
    return name


def available_names(modules: Mapping[str, nn.Module], wanted: str = "") -> str:
    """List module names for an error message, similar ones first."""
    near = difflib.get_close_matches(wanted, modules, n=5)
    listed = list(modules)[:_NAMES_SHOWN]
    more = f" and {len(modules) - len(listed)} more (model.named_modules())" if len(modules) > len(listed) else ""
    return (f"Near: {', '.join(near)}. " if near else "") + f"Layers available here: {', '.join(listed)}{more}."


def _matching(pattern: str, names: Iterable[str]) -> list[str]:
    """Return matching names: "*" matches within a part, "**" across dots, "?" one character, "[ab]" one of a and b."""
    translated = "".join(
        {"**": ".*", "*": "[^.]*", "?": "[^.]"}.get(part, part if part.startswith("[") else re.escape(part))
        for part in re.split(r"(\*\*|\*|\?|\[[^\]]+\])", pattern)
    )
    return [name for name in names if re.fullmatch(translated, name)]
