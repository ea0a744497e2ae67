"""Networks of torchvision, timm and transformers by name."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch

from ncollapse.extras import missing_extra
from ncollapse.near_words import near_words
from ncollapse.targets.functions import as_user_error


def make_library_network(library: str, name: str, num_classes: int | None) -> Any:
    """Make a network of a library, with weights as it draws them, or as a folder of transformers holds them."""
    make, extra = LIBRARIES[library]
    imported = _imported(library, extra)
    with as_user_error(f"making {library}:{name}"):
        return make(imported, name, num_classes)


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


def _from_torchvision(torchvision: Any, name: str, num_classes: int | None) -> Any:
    known = torchvision.models.list_models()
    if name.lower() not in known:
        raise ValueError(f"torchvision has no network {name!r}. {near_words(name, known)}`torchvision.models` lists them.")
    return torchvision.models.get_model(name, weights=None, **_head(num_classes))


def _from_timm(timm: Any, name: str, num_classes: int | None) -> Any:
    known = timm.list_models()
    if name not in known:
        architecture, dot, _ = name.partition(".")
        pretrained = f"The weights that it names are not downloaded: take {architecture!r} and --checkpoint. " if dot else ""
        raise ValueError(f"timm has no network {name!r}. {pretrained}{near_words(name, known)}`timm.list_models()` lists them.")
    return timm.create_model(name, pretrained=False, **_head(num_classes))


def _head(num_classes: int | None) -> dict[str, int]:
    return {} if num_classes is None else {"num_classes": num_classes}


def _from_transformers(transformers: Any, name: str, num_classes: int | None) -> Any:
    try:
        # Nothing is downloaded: a misspelled folder is an error at once. Code that a folder brings along is not run.
        config = transformers.AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"transformers:FOLDER needs a folder that save_pretrained wrote, or a model of the hub that was downloaded before, "
            f"got {name!r} ({str(error).splitlines()[0]}). Check the name, or download the model first."
        ) from error
    listed = config.architectures
    known = str(listed[0]) if isinstance(listed, list | tuple) and listed else ""
    network: Any = getattr(transformers, known, None)
    # Any name may stand there, also that of a function or of a class that asks for code.
    if not (isinstance(network, type) and issubclass(network, transformers.PreTrainedModel)):
        raise ValueError(
            f"The configuration in {name!r} must name an architecture of transformers, got {known[:100] or 'none'}. "
            "Build it in a function of your own and name that as module:function."
        )
    with _no_progress_bar(transformers.utils.logging):
        # Its own class, with the head it was saved with. Pickled weights are refused.
        return getattr(transformers, known).from_pretrained(
            name, use_safetensors=True, local_files_only=True, trust_remote_code=False
        )


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


LIBRARIES: dict[str, tuple[Callable[[Any, str, int | None], Any], str]] = {
    "torchvision": (_from_torchvision, "vision"),
    "timm": (_from_timm, "vision"),
    "transformers": (_from_transformers, "text"),
}
