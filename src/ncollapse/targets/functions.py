"""Functions of the user's by name, "module:function", and whatever they raise as an error of the user's."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ncollapse.near_words import near_words


def import_function(name: str) -> Callable[..., Any]:
    """Import "module:function", a function that can be called without arguments."""
    module_name, _, function_name = name.partition(":")
    with as_user_error(f"importing {module_name}"):
        module = _import_module(module_name, function_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        got, advice = type(function).__name__, "Write a function that returns it."
        if function is None:
            public = [word for word in dir(module) if not word.startswith("_")]
            got, advice = "none of that name", near_words(function_name, public) or "Check the spelling."
        raise ValueError(f"{name} must name a function of module {module_name!r}, got {got}. {advice.rstrip()}")
    found: Callable[..., Any] = function
    _check_arguments(name, found)
    return found


def _import_module(name: str, function_name: str) -> ModuleType:
    if name.endswith(".py"):
        written = ".".join(Path(name).with_suffix("").parts)
        raise ValueError(f"A module is named as in an import, got the file {name}. Write {written}:{function_name}.")
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # Another module than the named one is missing inside it.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        near = near_words(name, [file.stem for file in Path().glob("*.py")])
        raise ImportError(
            f"No module named {error.name!r} in the current folder, on PYTHONPATH or among what is installed. "
            f"{near or 'Check the spelling and the folder.'}".rstrip()
        ) from error


def _check_arguments(name: str, function: Callable[..., Any]) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:
        # Some functions written in C do not say what they take.
        return
    try:
        signature.bind()
    except TypeError as error:
        raise TypeError(
            f"{name} must be a function that can be called without arguments, got {function.__name__}{signature}. "
            "Write a function of yours that fills them in."
        ) from error


def write_as_function(name: str) -> str:
    """Say how to write a name with a dot, such as module.function, as a function."""
    module, _, function = name.rpartition(".")
    return f"Write {module}:{function}. " if module and name.replace(".", "").isidentifier() else ""


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
