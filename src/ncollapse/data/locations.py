"""Locations of the data sets on this computer, found without reading them. Needs no torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from ncollapse.data.color import CIFAR10, CIFAR100, STL10, find_color_set
from ncollapse.data.image_folders import find_images
from ncollapse.data.places import DataNotFoundError, not_found
from ncollapse.data.sources import FASHION_MNIST, MNIST, find_image_set
from ncollapse.data.text_sets import TEXT_SETS, find_text_set
from ncollapse.recipes.data import DataName

_IMAGE_SETS = {image_set.name: image_set for image_set in (FASHION_MNIST, MNIST)}
_COLOR_SETS = {color_set.name: color_set for color_set in (CIFAR10, CIFAR100, STL10)}


class Location(NamedTuple):
    """Whether a data set is there, and in words where it is or how to get it."""

    is_found: bool
    words: str


def locate(name: DataName) -> Location:
    """Find the training half of a data set."""
    if name == "digits":
        found = find_spec("sklearn") is not None
        return Location(found, "ships with scikit-learn" if found else "not found: scikit-learn is not installed")
    try:
        path = _find(name)
    except (DataNotFoundError, OSError) as error:
        before, here, places = " ".join(str(error).split()).partition(" was needed and not found in: ")
        return Location(False, f"not found in {places}" if here else f"not found: {before}")
    return Location(True, "drawn, needs no files" if path is None else f"found: {path}")


def _find(name: DataName) -> Path | None:
    """Return the first file of a set, or the folder of texts; None for drawn data."""
    if name in TEXT_SETS:
        return find_text_set(TEXT_SETS[name], "train", None)
    if name in _IMAGE_SETS:
        image_set = _IMAGE_SETS[name]
        found = find_image_set(image_set, "train", None)
        if not found:
            raise not_found(image_set, "train", None, downloadable=True)
        return found[0]
    if name in _COLOR_SETS:
        color_set = _COLOR_SETS[name]
        files = find_color_set(color_set, "train", None)
        if files is None:
            raise not_found(color_set, "train", None, downloadable=bool(color_set.mirrors))
        return files.paths[0]
    if name == "images":
        return find_images("train", None).files[0][0]
    return None
