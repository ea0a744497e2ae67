"""Networks by name: what a function of the user's makes, or torchvision, timm and transformers know."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn


def build_network(spec: str, num_classes: int) -> nn.Module:
    """Make a network.

    Args:
        spec: "module:function", the function without arguments, modules of the current folder being found; or
            "torchvision:NAME", "timm:NAME", with fresh weights and K outputs; or "transformers:NAME", a model of the hub or a
            folder, with its saved weights (safetensors only).
        num_classes: K.

    Returns:
        The network.

    Raises:
        ValueError: If there is no such function or name, or it raises.
        TypeError: If the function returns something else.
        ImportError: If the library is not installed.
    """
    source, colon, name = spec.partition(":")
    if not colon:
        raise ValueError(
            f"MODEL must be a run directory, module:function, torchvision:NAME, timm:NAME or transformers:NAME, got {spec!r}"
        )
    if source in _LIBRARIES:
        make, extra = _LIBRARIES[source]
        with own_errors(f"importing {source}"):
            library = _imported(source, extra)
        with own_errors(f"making {spec}"):
            model = make(library, name, num_classes)
    else:
        function = named_function(spec)
        with own_errors(f"calling {spec}"):
            model = function()
    if not isinstance(model, nn.Module):
        raise TypeError(f"{spec} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def named_function(spec: str) -> Callable[..., Any]:
    """Import "module:function", the current folder being on the path as with ``python -m``.

    Args:
        spec: The name.

    Returns:
        The function.

    Raises:
        ValueError: If the module has no such name, or raises.
        ImportError: If there is no such module.
    """
    module_name, _, function_name = spec.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        with own_errors(f"importing {module_name}"):
            module = importlib.import_module(module_name)
    finally:
        sys.path.pop(0)
    if not hasattr(module, function_name):
        raise ValueError(f"Module {module_name!r} has no {function_name!r}")
    function: Callable[..., Any] = getattr(module, function_name)
    return function


@contextmanager
def own_errors(doing: str) -> Iterator[None]:
    """Whatever the user's code raises is the user's error; what is an error of theirs already keeps its words.

    Args:
        doing: What was done, for the words.

    Yields:
        Nothing.

    Raises:
        ValueError: As it comes, and for errors of other kinds.
        TypeError: As it comes.
        OSError: As it comes.
        ImportError: As it comes.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError):
        raise
    except Exception as error:
        raise ValueError(f"{doing} raised {type(error).__name__}: {error}") from error


def _imported(library: str, extra: str) -> ModuleType:
    try:
        return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ImportError(
            f'{library}:NAME needs {library}, which is not installed. Install it with: pip install "ncollapse[{extra}]"'
        ) from error


def _from_torchvision(torchvision: Any, name: str, num_classes: int) -> Any:
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes)


def _from_timm(timm: Any, name: str, num_classes: int) -> Any:
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def _from_transformers(transformers: Any, name: str, num_classes: int) -> Any:
    config = transformers.AutoConfig.from_pretrained(name)
    known = config.architectures or ()
    if not known or not hasattr(transformers, known[0]):
        raise ValueError(f"The configuration of {name!r} must name its architecture, got {known}. Write a module:function.")
    # Its own class, with the head it was saved with. Pickled weights are refused.
    return getattr(transformers, known[0]).from_pretrained(name, use_safetensors=True)


_LIBRARIES: dict[str, tuple[Callable[[Any, str, int], Any], str]] = {
    "torchvision": (_from_torchvision, "vision"),
    "timm": (_from_timm, "vision"),
    "transformers": (_from_transformers, "text"),
}
