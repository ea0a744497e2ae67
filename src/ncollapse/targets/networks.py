"""Networks by name: what a function of the user's makes, or torchvision, timm and transformers know."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ncollapse.extras import missing_extra


def build_network(spec: str, num_classes: int) -> nn.Module:
    """Make a network; weights that are drawn are drawn with seed 0, so that all processes and calls have the same."""
    source, colon, name = spec.partition(":")
    if not colon:
        raise ValueError(
            f"MODEL must be a run directory, module:function, torchvision:NAME, timm:NAME or transformers:FOLDER, got {spec!r}"
        )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if source in _LIBRARIES:
            make, extra = _LIBRARIES[source]
            library = _imported(source, extra)
            with as_user_error(f"making {spec}"):
                model = make(library, name, num_classes)
        else:
            function = named_function(spec)
            with as_user_error(f"calling {spec}"):
                model = function()
    if not isinstance(model, nn.Module):
        raise TypeError(f"{spec} must return a torch.nn.Module, got {type(model).__name__}")
    return model


def named_function(spec: str) -> Callable[..., Any]:
    """Import "module:function"."""
    module_name, _, function_name = spec.partition(":")
    with as_user_error(f"importing {module_name}"):
        module = importlib.import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        got = "none of that name" if function is None else type(function).__name__
        raise ValueError(
            f"{spec} must name a function of module {module_name!r}, got {got}. {_near(function_name, dir(module))}"
        )
    named: Callable[..., Any] = function
    return named


@contextmanager
def as_user_error(doing: str, advice: str = "") -> Iterator[None]:
    """Whatever the user's code raises is the user's error; what is an error of theirs already keeps its words."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError):
        raise
    except Exception as error:
        words = f"{doing} raised {type(error).__name__}: {error}"
        raise ValueError(f"{words.rstrip('.')}. {advice}" if advice else words) from error


def _imported(library: str, extra: str) -> ModuleType:
    try:
        # A torchvision built for another torch raises RuntimeError, and timm imports it.
        with as_user_error(
            f"importing {library}", f"Is a torchvision installed that does not belong to torch {torch.__version__}?"
        ):
            return importlib.import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise ImportError(missing_extra(f"A network {library}:NAME", library, extra)) from error


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, [word for word in known if not word.startswith("_")], n=5)
    return f"Near: {', '.join(near)}." if near else "Check the spelling."


def _from_torchvision(torchvision: Any, name: str, num_classes: int) -> Any:
    known = torchvision.models.list_models()
    if name.lower() not in known:
        raise ValueError(f"torchvision has no network {name!r}. {_near(name, known)}")
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes)


def _from_timm(timm: Any, name: str, num_classes: int) -> Any:
    known = timm.list_models()
    if name not in known:
        architecture, dot, _ = name.partition(".")
        pretrained = f"The weights that it names are not downloaded: take {architecture!r} and --checkpoint. " if dot else ""
        raise ValueError(f"timm has no network {name!r}. {pretrained}{_near(name, known)}")
    return timm.create_model(name, pretrained=False, num_classes=num_classes)


def _from_transformers(transformers: Any, name: str, num_classes: int) -> Any:
    try:
        # Nothing is downloaded: a misspelled folder is an error at once.
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"transformers:FOLDER needs a folder that save_pretrained wrote, or a model of the hub that was downloaded before, "
            f"got {name!r} ({str(error).splitlines()[0]})"
        ) from error
    known = config.architectures or ()
    if not known or not hasattr(transformers, known[0]):
        raise ValueError(
            f"The configuration in {name!r} must name an architecture of transformers, got {', '.join(known) or 'none'}. "
            "Build it in a function of your own and name that as module:function."
        )
    with _no_progress_bar(transformers.utils.logging):
        # Its own class, with the head it was saved with. Pickled weights are refused.
        return getattr(transformers, known[0]).from_pretrained(name, use_safetensors=True, local_files_only=True)


@contextmanager
def _no_progress_bar(logging: Any) -> Iterator[None]:
    """One for each process would be drawn."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


_LIBRARIES: dict[str, tuple[Callable[[Any, str, int], Any], str]] = {
    "torchvision": (_from_torchvision, "vision"),
    "timm": (_from_timm, "vision"),
    "transformers": (_from_transformers, "text"),
}
