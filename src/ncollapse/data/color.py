"""Color image sets, CIFAR-10, CIFAR-100, STL-10: which files they are, in which layouts, and what is known of their content."""

import hashlib
import io
import tarfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ncollapse.data.color_files import DataFile, read_cifar_binary, read_cifar_pickles, read_stl
from ncollapse.data.images import ImagesAndLabels
from ncollapse.data.keras_archives import read_keras_archive
from ncollapse.data.places import (
    DataFileError,
    DataSet,
    download_folder,
    fetch,
    not_found,
    read_data,
    search_places,
)
from ncollapse.recipes.data import Split

_CIFAR_MIRRORS = ("https://www.cs.toronto.edu/~kriz/", "https://cave.cs.toronto.edu/kriz/")
_SYSTEM_FOLDER = Path("/usr/share/datasets")
# The largest file that is read whole, test_X.bin of STL-10, has 221 MB; archives have 170 MB.
_LARGEST = 1 << 28


@dataclass(frozen=True)
class Layout:
    """One form in which a set is handed out."""

    folder: str
    files: dict[Split, tuple[str, ...]]
    read: Callable[[Sequence[DataFile], int], ImagesAndLabels]
    archive: str | None = None
    md5: str = ""


@dataclass(frozen=True)
class ColorSet(DataSet):
    """What is known of one set of color images."""

    num_classes: int
    shape: tuple[int, int, int]
    num_samples: dict[Split, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    layouts: tuple[Layout, ...]
    mirrors: tuple[str, ...]


CIFAR10 = ColorSet(
    name="cifar10",
    title="CIFAR-10",
    num_classes=10,
    shape=(3, 32, 32),
    num_samples={"train": 50_000, "test": 10_000},
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    layouts=(
        Layout(
            folder="cifar-10-batches-bin",
            files={"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)},
            read=partial(read_cifar_binary, label_bytes=1),
            archive="cifar-10-binary.tar.gz",
            md5="c32a1d4ab5d03f1284b67883e8d87530",
        ),
        Layout(
            folder="cifar-10-batches-py",
            files={"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)},
            read=partial(read_cifar_pickles, label_key=b"labels"),
            archive="cifar-10-python.tar.gz",
            md5="c58f30108f718f92721af3b95e74349a",
        ),
    ),
    mirrors=_CIFAR_MIRRORS,
    hint="or put cifar-10-binary.tar.gz or cifar-10-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html there",
    system_folder=_SYSTEM_FOLDER / "cifar10",
)

CIFAR100 = ColorSet(
    name="cifar100",
    title="CIFAR-100",
    num_classes=100,
    shape=(3, 32, 32),
    num_samples={"train": 50_000, "test": 10_000},
    mean=(0.5071, 0.4867, 0.4408),
    std=(0.2675, 0.2565, 0.2761),
    layouts=(
        Layout(
            folder="cifar-100-binary",
            files={"train": ("train.bin",), "test": ("test.bin",)},
            read=partial(read_cifar_binary, label_bytes=2),
            archive="cifar-100-binary.tar.gz",
            md5="03b5dce01913d631647c71ecec9e9cb8",
        ),
        Layout(
            folder="cifar-100-python",
            files={"train": ("train",), "test": ("test",)},
            read=partial(read_cifar_pickles, label_key=b"fine_labels"),
            archive="cifar-100-python.tar.gz",
            md5="eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ),
    mirrors=_CIFAR_MIRRORS,
    hint="or put cifar-100-binary.tar.gz or cifar-100-python.tar.gz of www.cs.toronto.edu/~kriz/cifar.html there",
    system_folder=_SYSTEM_FOLDER / "cifar100",
)

STL10 = ColorSet(
    name="stl10",
    title="STL-10",
    num_classes=10,
    shape=(3, 96, 96),
    num_samples={"train": 5_000, "test": 8_000},
    mean=(0.4467, 0.4398, 0.4066),
    std=(0.2603, 0.2566, 0.2713),
    layouts=(
        Layout(
            folder="stl10_binary",
            files={"train": ("train_X.bin", "train_y.bin"), "test": ("test_X.bin", "test_y.bin")},
            read=read_stl,
        ),
    ),
    mirrors=(),
    hint="or unpack stl10_binary.tar.gz of ai.stanford.edu/~acoates/stl10 (2.6 GB) there",
    system_folder=_SYSTEM_FOLDER / "stl10",
)


def load_color_set(color_set: ColorSet, split: Split, *, root: str | None, download: bool) -> ImagesAndLabels:
    """Find and read one half of a color image set."""
    found = find_color_set(color_set, split, root)
    if found is None:
        if not download or not color_set.mirrors:
            raise not_found(color_set, split, root, downloadable=bool(color_set.mirrors))
        layout, files = color_set.layouts[0], _download(color_set, split, download_folder(root))
    elif found.layout is None:
        (npz,) = found.paths
        count, (channels, rows, columns) = color_set.num_samples[split], color_set.shape
        shapes = [(count, rows, columns, channels), (count, channels, rows, columns)]
        return _checked(color_set, read_keras_archive(npz, split, shapes), str(npz))
    else:
        layout, files = found.layout, _read_files(found.paths, found.layout, split)
    return _checked(color_set, layout.read(files, color_set.num_samples[split]), files[0].source)


class FoundSet(NamedTuple):
    """Where a set lies: in the files of a layout, in its archive, or (without a layout) in one file of arrays."""

    paths: tuple[Path, ...]
    layout: Layout | None


def find_color_set(color_set: ColorSet, split: Split, root: str | None) -> FoundSet | None:
    """Look for one half of a set."""
    # In each place the layouts are ``<folder>/<files>``, the folder's compressed archive, and ``<name>.npz`` with the arrays
    # ``x_train``, ``y_train``, ``x_test`` and ``y_test``. Archives are checked against the published checksum, whoever put them
    # there, files against their size.
    for place in search_places(color_set.system_folder, root):
        for layout in color_set.layouts:
            paths = _paths(place, layout, split)
            if paths:
                return FoundSet(paths, layout)
        npz = place / f"{color_set.name}.npz"
        if npz.is_file():
            return FoundSet((npz,), None)
    return None


def _paths(place: Path, layout: Layout, split: Split) -> tuple[Path, ...]:
    """Find the files of one half in one layout, or its archive; none if they are not there."""
    folders = [place / layout.folder, *([place] if place.name == layout.folder else [])]
    for folder in folders:
        paths = tuple(folder / name for name in layout.files[split])
        if all(path.is_file() for path in paths):
            return paths
    archive = None if layout.archive is None else place / layout.archive
    return (archive,) if archive is not None and archive.is_file() else ()


def _read_files(paths: Sequence[Path], layout: Layout, split: Split) -> list[DataFile]:
    if paths[0].name == layout.archive:
        return _from_archive(read_data(paths[0], _LARGEST), str(paths[0]), layout, split)
    return [DataFile(str(path), read_data(path, _LARGEST)) for path in paths]


def _from_archive(raw: bytes, source: str, layout: Layout, split: Split) -> list[DataFile]:
    found = hashlib.md5(raw, usedforsecurity=False).hexdigest()
    if found != layout.md5:
        raise DataFileError(
            f"{source} must hold an archive with md5 {layout.md5}, got {found} ({len(raw)} bytes). The file is damaged: "
            "delete it and fetch it again, or unpack it if it is meant to be another."
        )
    try:
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            # Members are read into memory, nothing is unpacked: their paths lead nowhere. Their sizes are those of the
            # published archive, whose checksum this one has.
            return [
                DataFile(f"{source}/{name}", archive.extractfile(f"{layout.folder}/{name}").read())  # type: ignore[union-attr]
                for name in layout.files[split]
            ]
    except (tarfile.TarError, KeyError, AttributeError, EOFError, OSError, zlib.error) as error:
        raise DataFileError(
            f"{source} must hold an archive of {layout.folder}, reading it failed ({error}). Delete it and fetch it again."
        ) from error


def _download(color_set: ColorSet, split: Split, folder: Path) -> list[DataFile]:
    layout = color_set.layouts[0]
    addresses = [f"{mirror}{layout.archive}" for mirror in color_set.mirrors]

    def accept(raw: bytes, address: str) -> list[DataFile]:
        return _from_archive(raw, address, layout, split)

    return fetch(color_set.title, addresses, accept, folder / str(layout.archive), color_set.hint, _LARGEST)


def _checked(color_set: ColorSet, found: ImagesAndLabels, source: str) -> ImagesAndLabels:
    """Images with their channels first and labels in range, whoever wrote them."""
    images, labels = found
    channels, rows, columns = color_set.shape
    if images.shape[1:] == (rows, columns, channels):
        images = images.transpose(0, 3, 1, 2)
    if images.shape[1:] != color_set.shape or len(images) != len(labels):
        raise DataFileError(
            f"{source} must hold {color_set.title}, images of {color_set.shape} with one label each, got images "
            f"{images.shape} and {len(labels)} labels. The file is of another kind: delete it and fetch it again."
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < color_set.num_classes:
        raise DataFileError(
            f"{source} must hold labels of {color_set.num_classes} classes, got {int(labels.min())} to {int(labels.max())}. "
            "The file is damaged or of another kind: delete it and fetch it again."
        )
    return images, labels
