"""Images of one's own: a folder for each class, as torchvision's ImageFolder has them, all of one size. Needs no torch."""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ncollapse.data.places import DataFileError, DataSet, not_found, read_data, search_places
from ncollapse.recipes.data import Split

OWN_IMAGES = DataSet(
    name="images",
    title="A folder of images",
    system_folder=Path("/usr/share/datasets/images"),
    hint="with train/CLASS/*.png (or .jpg) in it, test/CLASS likewise",
)
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp"})
_FORMATS = ("PNG", "JPEG", "BMP")
# A file of a few kilobytes can unfold to gigabytes: sizes are looked at before pixels.
_LARGEST_FILE, _MOST_PIXELS = 1 << 26, 1 << 24
# 16 GiB of float32.
_MOST_NUMBERS = 1 << 32


@dataclass(frozen=True)
class ImageFolder:
    """A split of a folder of images."""

    classes: tuple[str, ...]  # names of the folders of the training part, in order
    files: tuple[tuple[Path, int], ...]  # every file with the number of its class
    shape: tuple[int, int, int]  # channels, rows and columns of all images: those of the first training image


def find_images(split: Split, root: str | None) -> ImageFolder:
    """Find a split of a folder of images; only the first image of all is opened."""
    for place in search_places(OWN_IMAGES.system_folder, root):
        for folder in (place / OWN_IMAGES.name, place):
            if (folder / "train").is_dir() and (folder / split).is_dir():
                return _listed(folder, split)
    raise not_found(OWN_IMAGES, split, root, downloadable=False)


def _listed(folder: Path, split: Split) -> ImageFolder:
    classes = _classes(folder / "train")
    if len(classes) < 2:
        raise DataFileError(f"{folder / 'train'} must hold a folder of images for each of two classes or more, got {classes}.")
    unknown = set(_classes(folder / split)) - set(classes)
    if unknown:
        raise DataFileError(
            f"{folder / split} must hold the classes of the training part, got {sorted(unknown)[:5]} besides. Remove them, or "
            "add such images to the training part."
        )
    first = _images(folder / "train" / classes[0])[0]
    files = [(path, label) for label, name in enumerate(classes) for path in _images(folder / split / name)]
    return ImageFolder(tuple(classes), tuple(files), _read(first).shape)


def _classes(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES) if folder.is_dir() else []
    if not found:
        raise DataFileError(f"{folder} must hold images {', '.join(sorted(_SUFFIXES))}, got none. Every class needs some.")
    return found


def read_images(folder: ImageFolder) -> NDArray[np.float32]:
    """Read all images as numbers in [0, 1], channels first; each must have the size and the colors of the first one."""
    numbers = len(folder.files) * int(np.prod(folder.shape))
    if numbers > _MOST_NUMBERS:
        raise DataFileError(
            f"A set of images must have at most {_MOST_NUMBERS:,} pixel values, got {numbers:,}. Take smaller or fewer images."
        )
    pixels = np.empty((len(folder.files), *folder.shape), dtype=np.float32)
    for index, (path, _) in enumerate(folder.files):
        image = _read(path)
        if image.shape != folder.shape:
            raise DataFileError(
                f"{path} must have {_size(folder.shape)} as the first image has, got {_size(image.shape)}. Bring all images to "
                "one size, and to gray or color."
            )
        pixels[index] = image / np.float32(255)
    return pixels


def _read(path: Path) -> NDArray[np.uint8]:
    """Read an image as bytes (channels, rows, columns): one channel if it is gray, else red, green and blue."""
    try:
        with Image.open(io.BytesIO(read_data(path, _LARGEST_FILE)), formats=_FORMATS) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise DataFileError(f"{path} must have at most {_MOST_PIXELS:,} pixels, got {image.width} × {image.height}.")
            pixels = np.asarray(image.convert("L" if image.mode in {"1", "L"} else "RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, DataFileError):
            raise
        raise DataFileError(
            f"{path} must be an image ({', '.join(_FORMATS)}), reading it failed ({error}). Remove it."
        ) from error
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} × {shape[1]} pixels in {'gray' if shape[0] == 1 else 'color'}"
