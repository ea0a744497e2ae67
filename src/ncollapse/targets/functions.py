"""Functions of the user's by name, "module:function", and whatever they raise as an error of the user's."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ncollapse.near_words import near_words


def import_function(name: str) -> Callable[..., Any]:
    """Import "module:function"."""
    module_name, _, function_name = name.partition(":")
    with as_user_error(f"importing {module_name}"):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        got = "none of that name" if function is None else type(function).__name__
        public = [word for word in dir(module) if not word.startswith("_")]
        advice = near_words(function_name, public) or "Check the spelling."
        raise ValueError(f"{name} must name a function of module {module_name!r}, got {got}. {advice.rstrip()}")
    found: Callable[..., Any] = function
    return found


@contextmanager
def as_user_error(doing: str, advice: str = "") -> Iterator[None]:
    """Turn what the user's code raises into a ValueError; what is an error of the user's already keeps its words."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError):
        raise
    except Exception as error:
        words = f"{doing} raised {type(error).__name__}: {error}"
        raise ValueError(f"{words.rstrip('.')}. {advice}" if advice else words) from error
