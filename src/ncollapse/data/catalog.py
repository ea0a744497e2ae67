"""The samples that a recipe asks for."""

import math
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from ncollapse.data.color import CIFAR10, CIFAR100, STL10, ColorSet, load_color_set
from ncollapse.data.image_folders import find_images
from ncollapse.data.labeled import LabeledData
from ncollapse.data.pixels import digits, own_images, scale_pixels
from ncollapse.data.shape_images import geo_mnist
from ncollapse.data.signals import mnist_1d
from ncollapse.data.sources import FASHION_MNIST, MNIST, ImageSet, load_image_set
from ncollapse.data.synthetic import gaussian_mixture
from ncollapse.data.text import NUM_SPECIAL, load_text_set
from ncollapse.data.text_sets import TEXT_SETS, TextSet
from ncollapse.recipes.data import COARSE, DataConfig


def load_samples(config: DataConfig) -> LabeledData:
    """Return the samples that a recipe asks for; the same config gives the same samples, bit by bit.

    Raises:
        DataNotFoundError: If an image set lies in none of the places looked in, or its download failed.
        DataFileError: If a file is damaged.
        ValueError: If a class has fewer than ``per_class`` samples.

    Example:
        >>> data = load_samples(DataConfig("gaussian_mixture", per_class=5))
        >>> data.num_samples, data.input_dim, data.num_classes
        (20, 20, 4)
    """
    data = _read(config)
    kept = list(range(data.num_classes))
    if config.largest_classes is not None:
        training = data if config.split == "train" else _read(replace(config, split="train"))
        data = data.largest_classes(config.largest_classes, training)
        kept = sorted(training.classes_by_size()[: data.num_classes].tolist())
    if config.name == "digits" and config.split == "test" and config.per_class is not None:
        data = _left_over(data, config.per_class)
    elif config.per_class is not None:
        data = data.per_class(config.per_class)
    if config.imbalance > 1 and config.split == "train":
        counts = torch.bincount(data.labels, minlength=data.num_classes)
        data = data.first_of_each(config.class_counts(int(counts.min()), data.num_classes))
    if config.labels == "coarse":
        data = data.merge_classes([COARSE[config.name][k] for k in kept])
    if config.corrupt > 0:
        data = data.corrupt_labels(config.corrupt, config.seed)
    return data


def _read(config: DataConfig) -> LabeledData:
    data = _LOADERS[config.name](config)
    if config.downscale == 1:
        return data
    # Means of m² pixels times m are coordinates in an orthonormal basis: what they keep of a squared norm is unchanged.
    return data.downscaled(config.downscale, gain=config.downscale if config.scaling == "norm64" else 1)


def _left_over(data: LabeledData, per_class: int) -> LabeledData:
    """Return the test part of the digits."""
    rest = data.after_the_first(per_class)
    if len(rest.labels.unique()) < data.num_classes:
        raise ValueError(
            f"data.per_class must leave samples of every class for the test part of the digits, got {per_class} with classes "
            "of 174 to 183. Set data.per_class to 173 or less."
        )
    return rest


def empty_like_data(config: DataConfig) -> LabeledData:
    """Return what is known of the samples that a recipe asks for before they are read: data of the same shape without samples.

    The vocabulary of texts is the largest possible one. Of your own texts, whose classes are not known, there are as many
    classes as are kept, or two.

    Raises:
        ValueError: If there are fewer classes than are to be kept.

    Example:
        >>> empty_like_data(DataConfig("digits")).sample_shape
        (1, 8, 8)
    """
    labels = torch.zeros(0, dtype=torch.int64)
    if config.name in TEXT_SETS:
        num_classes = TEXT_SETS[config.name].num_classes or config.largest_classes or 2
        ids = torch.zeros(0, config.length, dtype=torch.int64)
        data = LabeledData(ids, labels, num_classes, config.name, vocabulary=config.vocabulary + NUM_SPECIAL)
    else:
        shape, num_classes = _form_of_own_images(config) if config.name == "images" else _FORMS[config.name]
        image_shape = shape if len(shape) == 3 else None
        data = LabeledData(torch.zeros(0, math.prod(shape)), labels, num_classes, config.name, image_shape)
    if config.downscale > 1:
        data = data.downscaled(config.downscale)
    if config.largest_classes is not None:
        data = data.largest_classes(config.largest_classes)
    if config.minority is not None:
        config.class_counts(config.per_class or sys.maxsize, data.num_classes)
    if config.labels == "coarse":
        # Which classes are the largest is not known here.
        data = data.merge_classes(COARSE[config.name][: data.num_classes])
    return data


def _form_of_own_images(config: DataConfig) -> tuple[tuple[int, ...], int]:
    found = find_images("train", config.root)
    return found.shape, len(found.classes)


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
    "mnist_1d": ((40,), 10),
}
_LOADERS: dict[str, Callable[[DataConfig], LabeledData]] = {
    **{name: partial(_load_texts, text_set) for name, text_set in TEXT_SETS.items()},
    "digits": lambda config: digits(config.scaling),
    "images": lambda config: own_images(config.split, root=config.root, scaling=config.scaling),
    "fashion_mnist": lambda config: _load_images(FASHION_MNIST, config),
    "mnist": lambda config: _load_images(MNIST, config),
    "cifar10": lambda config: _load_color(CIFAR10, config),
    "cifar100": lambda config: _load_color(CIFAR100, config),
    "stl10": lambda config: _load_color(STL10, config),
    "gaussian_mixture": lambda config: gaussian_mixture(
        per_class=config.per_class or 100, seed=config.seed, split=config.split
    ),
    "geo_mnist": lambda config: geo_mnist(config.per_class or 480, seed=config.seed, split=config.split),
    "mnist_1d": lambda config: mnist_1d(config.split),
}
