"""GeoMNIST: images of ellipses, rectangles and triangles, turned, jittered in size and blurred."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch

from ncollapse.data.labeled import LabeledData
from ncollapse.data.seeding import Stream, stream_generator

_SIDE = 32


def geo_mnist(per_class: int = 480, *, seed: int = 0, split: Literal["train", "test"] = "train") -> LabeledData:
    """Return three classes of 32×32 shapes, ellipse, rectangle and triangle, in random order; pixels are in [0, 1].

    Image i of a class has a size jitter ρ linearly spaced in [-1, 1] and is turned by an angle that rises linearly from 0° to
    176°; then it is blurred with σ uniform in [0.9, 1.1]. The ellipse has semi-axes 6+ρ and 2(6+ρ), the rectangle reaches from
    (12+ρ, 8+ρ) to (20+ρ, 24+ρ), the triangle has rows (16, 26, 6)+ρ and columns (16−8√3, 24, 24)+ρ.

    Args:
        seed: Decides the blur and the order.
        split: ``train`` and ``test`` differ in the blur, and in the size that meets each angle: in ``test`` the jitter falls.

    Raises:
        ValueError: If there are no images.

    Reference:
        Zhang, Wang & Su (2021), NeurIPS; their generator re-described, the test split is ours.

    Example:
        >>> data = geo_mnist(per_class=5)
        >>> data.inputs.shape, data.labels.bincount().tolist()
        (torch.Size([15, 1024]), [5, 5, 5])
    """
    if per_class < 1:
        raise ValueError(f"geo_mnist needs per_class of 1 or more, got {per_class}. Pass a positive integer.")
    generator = stream_generator(seed, Stream.GEO_MNIST, index=int(split == "test"))
    widths = (0.9 + 0.2 * torch.rand(3 * per_class, generator=generator, dtype=torch.float64)).tolist()
    jitters = np.linspace(-1, 1, per_class)[:: 1 if split == "train" else -1]
    angles = np.linspace(0, 176, per_class)
    images = [
        _draw(shape, jitter, angle, widths[shape * per_class + index])
        for shape in range(3)
        for index, (jitter, angle) in enumerate(zip(jitters, angles, strict=True))
    ]
    inputs = torch.from_numpy(np.stack(images).astype(np.float32)).flatten(1)
    order = torch.randperm(3 * per_class, generator=generator)
    labels = torch.arange(3).repeat_interleave(per_class)
    return LabeledData(inputs[order], labels[order], num_classes=3, name="geo_mnist", image_shape=(1, _SIDE, _SIDE))


def _draw(shape: int, jitter: float, angle: float, width: float) -> np.ndarray:
    # Imported here: it takes a seventh of a second, and most data sets need none of it.
    from scipy.ndimage import gaussian_filter, rotate

    rows, columns = np.mgrid[:_SIDE, :_SIDE].astype(float)
    inside = (_ellipse, _rectangle, _triangle)[shape](rows, columns, jitter)
    turned = rotate(inside.astype(float), angle, reshape=False, order=1)
    return np.clip(gaussian_filter(turned, width), 0, 1)


def _ellipse(rows: np.ndarray, columns: np.ndarray, jitter: float) -> np.ndarray:
    return ((rows - 16) / (6 + jitter)) ** 2 + ((columns - 16) / (2 * (6 + jitter))) ** 2 <= 1


def _rectangle(rows: np.ndarray, columns: np.ndarray, jitter: float) -> np.ndarray:
    return (abs(rows - 16 - jitter) <= 4) & (abs(columns - 16 - jitter) <= 8)


def _triangle(rows: np.ndarray, columns: np.ndarray, jitter: float) -> np.ndarray:
    corners = [(16 + jitter, 16 - 8 * math.sqrt(3) + jitter), (26 + jitter, 24 + jitter), (6 + jitter, 24 + jitter)]
    sides = [
        (there[0] - here[0]) * (columns - here[1]) - (there[1] - here[1]) * (rows - here[0])
        for here, there in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    return np.all([side <= 0 for side in sides], axis=0) | np.all([side >= 0 for side in sides], axis=0)
