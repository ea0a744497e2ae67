"""The machine that a run is on: its device, its threads, and what is noted of it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from ncollapse.studies.recipe import Recipe, RecipeError
from ncollapse.version import __version__

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def device_named(name: str, group: ProcessGroup | None = None) -> torch.device:
    """The device of a recipe."""
    if name == "auto":
        # Processes without a GPU each have joined over gloo.
        on_gpu = torch.cuda.is_available() and (group is None or dist.get_backend(group) != "gloo")
        return torch.device("cuda" if on_gpu else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise RecipeError(f"device {name!r} is not available here. Set device=auto or device=cpu.") from error
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
    """What the numbers of a run may depend on besides its recipe."""
    return {
        "ncollapse": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": recipe.threads,
        "processes": processes,
        "platform": platform.platform(),
        "seed": recipe.seed,
    }
