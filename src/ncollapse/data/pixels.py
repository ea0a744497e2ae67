"""Images as rows of numbers: the handwritten digits, images of one's own, and how pixels are scaled."""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ncollapse.data.image_folders import OWN_IMAGES, find_images, read_images
from ncollapse.data.labeled import LabeledData
from ncollapse.recipes.data import Scaling, Split


def digits(scaling: Scaling = "norm64") -> LabeledData:
    """Return the real handwritten digits that scikit-learn ships: 1,797 images of 8 x 8 pixels, 10 classes of 174 to 183.

    ``standard`` and ``norm64`` are one and the same here (d = 64): global mean 0, E|x|^2 = 64.

    Reference:
        E. Alpaydin and C. Kaynak (1998), Optical Recognition of Handwritten Digits, UCI repository (its test part).
    """
    pixels, labels = _read_digits()
    inputs = scale_pixels(pixels, mean=float(pixels.mean()), std=float(pixels.std()), scaling=scaling)
    return LabeledData(inputs, torch.from_numpy(labels.astype(np.int64)), num_classes=10, name="digits", image_shape=(1, 8, 8))


@cache
def _read_digits() -> tuple[NDArray[np.float64], NDArray[np.int_]]:
    """Read the digits, pixels in [0, 1], once: a sweep trains many small networks on them. Nobody writes to these arrays."""
    # Inside, since it takes a second and only this data set needs it.
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    return pixels / 16.0, labels


def own_images(split: Split, *, root: str | None, scaling: Scaling) -> LabeledData:
    """Return a split of a folder of images, scaled by the mean and the deviation of each channel of the training part."""
    training = find_images("train", root)
    wanted = training if split == "train" else find_images(split, root)
    pixels = read_images(training)
    mean, std = (found.tolist() for found in _moments(pixels))
    inputs = scale_pixels(pixels if split == "train" else read_images(wanted), mean=mean, std=std, scaling=scaling)
    labels = torch.tensor([label for _, label in wanted.files], dtype=torch.int64)
    return LabeledData(inputs, labels, len(wanted.classes), OWN_IMAGES.name, image_shape=wanted.shape)


def scale_pixels(
    pixels: NDArray[np.floating], *, mean: float | Sequence[float], std: float | Sequence[float], scaling: Scaling
) -> Tensor:
    """Flatten images and bring them to the scale that training expects."""
    flat = torch.from_numpy(pixels.reshape(len(pixels), -1).astype(np.float32))
    if scaling == "none":
        return flat
    gain = math.sqrt(64 / flat.shape[1]) if scaling == "norm64" else 1.0
    means, stds = ([value] if isinstance(value, float) else value for value in (mean, std))
    for channel, center, spread in zip(flat.chunk(len(means), dim=1), means, stds, strict=True):
        channel.sub_(center).mul_(gain / spread)
    return flat


def _moments(pixels: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and standard deviation of every channel; one without variance is left as it is."""
    std = pixels.std(axis=(0, 2, 3), dtype=np.float64)
    return pixels.mean(axis=(0, 2, 3), dtype=np.float64), np.where(std > 0, std, 1.0)
