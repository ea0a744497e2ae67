"""Taps for the layers that a user passes as names, patterns, modules or taps."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import nn

from ncollapse.hooks.tap import INPUT, Tap

LayerChoice = str | Tap | nn.Module | Sequence[str | Tap | nn.Module]

_NAMES_SHOWN = 30


class Modules(dict[str, nn.Module]):
    """The modules of a network by name, each once, with the further names of shared ones and those that are scripted."""

    def __init__(self, model: nn.Module) -> None:
        named = {name: module for name, module in model.named_modules() if name}
        inside = [name for name, module in named.items() if isinstance(module, torch.jit.ScriptModule)]
        # Hooks do not run inside of scripted modules, and on them they have other arguments.
        self.scripted = [name for name in inside if not any(name.startswith(f"{outer}.") for outer in inside)]
        super().__init__({name: module for name, module in named.items() if name not in inside})
        first = {id(module): name for name, module in self.items()}
        every = model.named_modules(remove_duplicate=False)
        self.names = {name: first[id(module)] for name, module in every if id(module) in first}

    def resolve(self, name: str) -> str | None:
        """Return the first name of a module, or of its input, None if there is no such module."""
        if name in self.names:
            return self.names[name]
        outer = self.names.get(name.removesuffix(INPUT)) if name.endswith(INPUT) else None
        return None if outer is None else outer + INPUT

    def check_eager(self, name: str) -> None:
        """Raise an error if a name is that of a scripted module."""
        outer = next((part for part in self.scripted if name == part or name.startswith(f"{part}.")), None)
        if outer is not None:
            raise ValueError(
                f"Modules must be eager, but {outer!r} is scripted, so that hooks do not run. Pass the eager module."
            )


def chosen_taps(layers: LayerChoice, modules: Modules) -> tuple[list[str], tuple[Tap, ...]]:
    """Return the chosen layers in words, and their taps."""
    words: list[str] = []
    found: dict[Tap, None] = {}
    for item in _items(layers):
        tap = item if isinstance(item, Tap) else Tap(name_of(item, modules, "layers"))
        modules.check_eager(tap.name)
        # Exact names go first, since a module's name may contain characters that have a meaning in patterns.
        exact = modules.resolve(tap.name)
        names = [exact] if exact is not None else [modules.names[name] for name in _matching(tap.name, modules.names)]
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
        wanted = "a module inside" if argument == "classifier" else "modules inside"
        raise ValueError(
            f"{argument} must be {wanted} the network, got a {type(item).__name__} from elsewhere. "
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
