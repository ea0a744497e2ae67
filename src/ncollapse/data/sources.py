"""Image sets of the MNIST family: which files they are, in which layouts, and what is known of their content."""

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ncollapse.data.images import ImagesAndLabels, idx_content, most_compressed, read_idx
from ncollapse.data.keras_archives import read_keras_archive
from ncollapse.data.places import DataFileError, DataSet, download_folder, fetch, not_found, search_places
from ncollapse.recipes.data import Split

_NUM_CLASSES = 10
_FILE_NAMES: dict[Split, tuple[str, str]] = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@dataclass(frozen=True)
class ImageSet(DataSet):
    """What is known of one data set of the MNIST family."""

    folder: str
    mean: float
    std: float
    mirrors: tuple[str, ...]
    md5: dict[str, str]
    num_samples: dict[Split, int] = field(default_factory=lambda: {"train": 60_000, "test": 10_000})
    image_shape: tuple[int, int] = (28, 28)

    def most_bytes(self, split: Split) -> int:
        """Size of the file of images, header included; that of labels is smaller."""
        return 16 + self.num_samples[split] * math.prod(self.image_shape)


MNIST = ImageSet(
    name="mnist",
    title="MNIST",
    folder="MNIST",
    system_folder=Path("/usr/share/datasets/mnist"),
    mean=0.1307,
    std=0.3081,
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    md5={
        "train-images-idx3-ubyte": "6bbc9ace898e44ae57da46a324031adb",
        "train-labels-idx1-ubyte": "a25bea736e30d166cdddb491f175f624",
        "t10k-images-idx3-ubyte": "2646ac647ad5339dbf082846283269ea",
        "t10k-labels-idx1-ubyte": "27ae3e4e09519cfbb04c329615203637",
    },
    hint="or put its four files *-ubyte.gz, or Keras' mnist.npz, into the folder that root names (files of Fashion-MNIST, "
    "which have the same names, are passed over)",
)

FASHION_MNIST = ImageSet(
    name="fashion_mnist",
    title="Fashion-MNIST",
    folder="FashionMNIST",
    system_folder=Path("/usr/share/datasets/fashion-mnist"),
    mean=0.2860,
    std=0.3530,
    mirrors=(
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    ),
    md5={
        "train-images-idx3-ubyte": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "train-labels-idx1-ubyte": "9018921c3c673c538a1fc5bad174d6f9",
        "t10k-images-idx3-ubyte": "8181f5470baa50b63fa0f6fddb340f0a",
        "t10k-labels-idx1-ubyte": "15d484375f8d13e6eb1aabb0c3f46965",
    },
    hint="or, on Debian, run: apt-get install dataset-fashion-mnist",
)


def load_image_set(image_set: ImageSet, split: Split, *, root: str | None, download: bool) -> ImagesAndLabels:
    """Find and read one half of an image set."""
    found = find_image_set(image_set, split, root)
    if len(found) == 1:
        images, labels = read_keras_archive(found[0], split, [(image_set.num_samples[split], *image_set.image_shape)])
        # IDX files have checksums, these have not.
        if not 0 <= int(labels.min()) <= int(labels.max()) < _NUM_CLASSES:
            raise DataFileError(
                f"{found[0]} must hold labels of {_NUM_CLASSES} classes, got {int(labels.min())} to {int(labels.max())}. "
                "The file is damaged or of another kind: delete it and fetch it again."
            )
        return images, labels
    most = image_set.most_bytes(split)
    if found:
        # Checked against the set's checksums, whoever put the files there.
        images, labels = (read_idx(path, image_set.md5[path.name.removesuffix(".gz")], most) for path in found)
        return images, labels
    if not download:
        raise not_found(image_set, split, root, downloadable=True)
    target = download_folder(root) / image_set.folder / "raw"
    images, labels = (_download(image_set, name, target, most) for name in _FILE_NAMES[split])
    return images, labels


def find_image_set(image_set: ImageSet, split: Split, root: str | None) -> tuple[Path, ...]:
    """Find the files of images and labels, or one archive of both, or nothing."""
    # In each place the layouts are ``<Folder>/raw/<file>[.gz]`` (torchvision's), ``<file>[.gz]`` and an archive ``<name>.npz``
    # like Keras' ``mnist.npz``.
    for place in search_places(image_set.system_folder, root):
        for directory in (place / image_set.folder / "raw", place):
            found = _find_pair(directory, _FILE_NAMES[split])
            if found and not any(_holds(other, found[1]) for other in (MNIST, FASHION_MNIST) if other.name != image_set.name):
                return found
        archive = place / f"{image_set.name}.npz"
        if archive.is_file():
            return (archive,)
    return ()


def _holds(image_set: ImageSet, labels: Path) -> bool:
    """Whether a file of labels is that of a set: two sets of the family have files of the same names."""
    try:
        read_idx(labels, image_set.md5[labels.name.removesuffix(".gz")], image_set.most_bytes("train"))
    except (DataFileError, OSError):
        return False
    return True


def _find_pair(directory: Path, names: tuple[str, str]) -> tuple[Path, ...] | None:
    found: list[Path] = []
    for name in names:
        # Both spellings may lie side by side, as torchvision leaves them: the uncompressed one is read faster.
        spellings = (directory / name, directory / f"{name}.gz")
        found += [path for path in spellings if path.is_file()][:1]
    return tuple(found) if len(found) == len(names) else None


def _download(image_set: ImageSet, name: str, target: Path, most: int) -> NDArray[np.uint8]:
    """Fetch one file, keep it in ``target``, and return its content."""

    def accept(raw: bytes, address: str) -> NDArray[np.uint8]:
        return idx_content(raw, source=address, md5=image_set.md5[name], most=most)

    addresses = [f"{mirror}{name}.gz" for mirror in image_set.mirrors]
    return fetch(image_set.title, addresses, accept, target / f"{name}.gz", image_set.hint, most_compressed(most))
