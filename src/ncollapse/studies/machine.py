"""The machine that a run is on: its device, its threads, and what is noted of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ncollapse.groups import Processes
from ncollapse.machine import machine
from ncollapse.recipes.recipe import Recipe, RecipeError


def device_named(name: str, processes: Processes) -> torch.device:
    """Return the device of a recipe."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() and processes.may_use_gpus else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"device must be one that is available here, got {name!r}. Use auto or cpu.") from error
    return device


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many CPU threads in the body."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(recipe: Recipe, device: torch.device, processes: int) -> dict[str, Any]:
    """Record what the numbers of a run may depend on besides its recipe."""
    return {**machine(device), "threads": recipe.threads, "processes": processes, "seed": recipe.seed}
