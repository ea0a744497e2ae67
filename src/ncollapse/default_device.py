"""The default device: the CPU for tensors of this library, and the user's own for those of the user's network and loader."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import wraps
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

# After torch.set_default_device("cuda") a random generator, a table of counts or an index of this library would be made on
# another device than what it is used with. The device that the user has set; None if it is the CPU, or outside of this library.
_users: ContextVar[torch.device | None] = ContextVar("_users", default=None)


def on_the_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function of this library make its tensors on the CPU, whatever the default device is."""

    @wraps(function)
    def called(*args: P.args, **given: P.kwargs) -> R:
        # Not torch.get_default_device, which fails in torch 2.6 once the user has gone back to the CPU by None.
        device = torch.empty(0).device
        if device.type == "cpu":
            return function(*args, **given)
        before = _users.set(device)
        try:
            with torch.device("cpu"):
                return function(*args, **given)
        finally:
            _users.reset(before)

    return called


def as_the_user() -> AbstractContextManager[object]:
    """Return a context for what is the user's: networks, loaders and functions make tensors where the user says."""
    return _users.get() or nullcontext()


def back_on_the_cpu() -> AbstractContextManager[object]:
    """Return a context for hooks of this library, which run inside of the user's network."""
    return nullcontext() if _users.get() is None else torch.device("cpu")
