"""Data by name: the part of a recipe that says which samples a run uses."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch

from ncollapse.data.color import CIFAR10, CIFAR100, STL10, ColorSet, load_color_set
from ncollapse.data.geo_mnist import geo_mnist
from ncollapse.data.images import Scaling, digits, scale_pixels
from ncollapse.data.labeled import LabeledData
from ncollapse.data.places import Split
from ncollapse.data.sources import FASHION_MNIST, MNIST, ImageSet, load_image_set
from ncollapse.data.synthetic import gaussian_mixture
from ncollapse.data.text import IMDB, NUM_SPECIAL, OWN_TEXTS, WORDNET, TextSet, load_text_set

__all__ = ["DataConfig", "DataName", "load_data", "outline"]

DataName = Literal[
    "digits",
    "fashion_mnist",
    "mnist",
    "cifar10",
    "cifar100",
    "stl10",
    "gaussian_mixture",
    "geo_mnist",
    "wordnet",
    "imdb",
    "texts",
]


@dataclass(frozen=True)
class DataConfig:
    """Which samples a run uses.

    Attributes:
        name: ``digits`` ships with scikit-learn, ``fashion_mnist``, ``mnist``, ``cifar10``, ``cifar100`` and ``stl10`` are
            files, ``gaussian_mixture`` is drawn: the 4 classes in 20 dimensions that are the defaults of ``gaussian_mixture``;
            ``geo_mnist`` is drawn too: three kinds of shapes in 32×32 images. ``wordnet``, ``imdb`` and ``texts`` (your own)
            are texts: see ``text.load_text_set``.
        split: ``train`` or ``test``; the digits have no test part.
        per_class: Samples a class: the first of each class, or for the mixture how many to draw. None takes all
            (of the mixture 100, of geo_mnist 480).
        corrupt: Probability in [0, 1] that a label is replaced by a class drawn uniformly (maybe the same), in
            whichever split is loaded.
        scaling: Of pixels; what is drawn comes in its own units and ignores it. ``norm64`` is right for width 64 to
            256 at learning rates of 0.05 to 0.1, ``standard`` is the papers' standardization.
        root: Folder to look in first, and to download to. See ``places.search_places`` for the others.
        download: Whether image files that are in no known place may be fetched.
        seed: Of the mixture and of the corruption, 0 or more.
        largest_classes: Keeps the so many classes with the most training samples, 2 or more; None keeps all.
        vocabulary: Of texts: the most frequent words of the training part that have ids of their own, 1 or more.
        length: Of texts: words that are kept, 1 or more.

    Raises:
        ValueError: If a field is out of its range.
    """

    name: DataName = "digits"
    split: Split = "train"
    per_class: int | None = None
    corrupt: float = 0.0
    scaling: Scaling = "norm64"
    root: str | None = None
    download: bool = False
    seed: int = 0
    largest_classes: int | None = None
    vocabulary: int = 10_000
    length: int = 256

    def __post_init__(self) -> None:
        for field, choices in (("name", DataName), ("split", Split), ("scaling", Scaling)):
            if getattr(self, field) not in get_args(choices):
                raise ValueError(
                    f"data.{field} must be one of {', '.join(get_args(choices))}, got {getattr(self, field)!r}. "
                    "Pick one of them."
                )
        self._check_counts()
        if not 0 <= self.corrupt <= 1:
            raise ValueError(f"data.corrupt must be in [0, 1], got {self.corrupt}. Pass a fraction, not a percentage.")
        if self.name == "digits" and self.split == "test":
            raise ValueError(
                "data.split of the digits must be 'train', got 'test': scikit-learn ships one part only. Use split "
                "'train', or another data set."
            )

    def _check_counts(self) -> None:
        if self.per_class is not None and self.per_class < 1:
            raise ValueError(f"data.per_class must be 1 or more, got {self.per_class}. Leave it out to take all.")
        if self.seed < 0:
            raise ValueError(f"data.seed must be 0 or more, got {self.seed}. Pass a non-negative integer.")
        for field, least in (("largest_classes", 2), ("vocabulary", 1), ("length", 1)):
            value = getattr(self, field)
            if value is not None and value < least:
                raise ValueError(f"data.{field} must be {least} or more, got {value}. Leave it out for its default.")


def load_data(config: DataConfig) -> LabeledData:
    """Loads the samples that a recipe asks for.

    Args:
        config: What to load.

    Returns:
        Samples on the CPU, inputs float32; the same config gives the same samples, bit by bit.

    Raises:
        DataNotFoundError: If an image set lies in none of the places looked in, or its download failed.
        DataFileError: If a file is damaged.
        ValueError: If a class has fewer than ``per_class`` samples.

    Example:
        >>> data = load_data(DataConfig("gaussian_mixture", per_class=5))
        >>> data.num_samples, data.input_dim, data.num_classes
        (20, 20, 4)
    """
    data = _LOADERS[config.name](config)
    if config.largest_classes is not None:
        training = data if config.split == "train" else _LOADERS[config.name](replace(config, split="train"))
        data = data.largest_classes(config.largest_classes, training)
    if config.per_class is not None:
        data = data.per_class(config.per_class)
    if config.corrupt > 0:
        data = data.corrupt_labels(config.corrupt, config.seed)
    return data


def outline(config: DataConfig) -> LabeledData:
    """What is known of the samples that a recipe asks for before they are read.

    Args:
        config: Which samples.

    Returns:
        Data of the same shape without samples. Of texts the vocabulary is the largest that may be, and of your own, whose
        classes are not known, there are the so many that are kept, or two.

    Raises:
        ValueError: If there are fewer classes than are to be kept.

    Example:
        >>> outline(DataConfig("digits")).sample_shape
        (1, 8, 8)
    """
    labels = torch.zeros(0, dtype=torch.int64)
    if config.name in _TEXT_SETS:
        num_classes = _TEXT_SETS[config.name].num_classes or config.largest_classes or 2
        ids = torch.zeros(0, config.length, dtype=torch.int64)
        data = LabeledData(ids, labels, num_classes, config.name, vocabulary=config.vocabulary + NUM_SPECIAL)
    else:
        shape, num_classes = _FORMS[config.name]
        image_shape = shape if len(shape) == 3 else None
        data = LabeledData(torch.zeros(0, math.prod(shape)), labels, num_classes, config.name, image_shape)
    return data if config.largest_classes is None else data.largest_classes(config.largest_classes)


def _load_mixture(config: DataConfig) -> LabeledData:
    return gaussian_mixture(per_class=config.per_class or 100, seed=config.seed, split=config.split)


def _load_images(image_set: ImageSet, config: DataConfig) -> LabeledData:
    images, labels = load_image_set(image_set, config.split, root=config.root, download=config.download)
    # float32 from the start: 60,000 images in float64 would take 376 MB on their way.
    pixels = images / np.float32(255)
    inputs = scale_pixels(pixels, mean=image_set.mean, std=image_set.std, scaling=config.scaling)
    targets = torch.from_numpy(labels.astype(np.int64))
    return LabeledData(inputs, targets, num_classes=10, name=image_set.name, image_shape=(1, *images.shape[1:]))


def _load_color(color_set: ColorSet, config: DataConfig) -> LabeledData:
    images, labels = load_color_set(color_set, config.split, root=config.root, download=config.download)
    inputs = scale_pixels(images / np.float32(255), mean=color_set.mean, std=color_set.std, scaling=config.scaling)
    targets = torch.from_numpy(labels.astype(np.int64))
    return LabeledData(inputs, targets, color_set.num_classes, color_set.name, image_shape=color_set.shape)


def _load_texts(text_set: TextSet, config: DataConfig) -> LabeledData:
    return load_text_set(text_set, config.split, root=config.root, vocabulary=config.vocabulary, length=config.length)


_TEXT_SETS = {text_set.name: text_set for text_set in (WORDNET, IMDB, OWN_TEXTS)}
# Shape of a sample and number of classes of what is no text.
_FORMS: dict[str, tuple[tuple[int, ...], int]] = {
    "digits": ((1, 8, 8), 10),
    "fashion_mnist": ((1, 28, 28), 10),
    "mnist": ((1, 28, 28), 10),
    "cifar10": (CIFAR10.shape, CIFAR10.num_classes),
    "cifar100": (CIFAR100.shape, CIFAR100.num_classes),
    "stl10": (STL10.shape, STL10.num_classes),
    "gaussian_mixture": ((20,), 4),
    "geo_mnist": ((1, 32, 32), 3),
}
_LOADERS: dict[str, Callable[[DataConfig], LabeledData]] = {
    **{name: partial(_load_texts, text_set) for name, text_set in _TEXT_SETS.items()},
    "digits": lambda config: digits(config.scaling),
    "fashion_mnist": lambda config: _load_images(FASHION_MNIST, config),
    "mnist": lambda config: _load_images(MNIST, config),
    "cifar10": lambda config: _load_color(CIFAR10, config),
    "cifar100": lambda config: _load_color(CIFAR100, config),
    "stl10": lambda config: _load_color(STL10, config),
    "gaussian_mixture": _load_mixture,
    "geo_mnist": lambda config: geo_mnist(config.per_class or 480, seed=config.seed, split=config.split),
}
