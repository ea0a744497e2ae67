"""MNIST-1D: ten short curves, each padded, stretched, shifted, sheared and buried in noise."""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ncollapse.data.labeled import LabeledData

# The curves, one a class, as heights at 12 equal steps.
_CURVES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)
_NUM_SAMPLES, _NUM_TRAINING, _LENGTH = 5000, 4000, 40
_LEAST_PADDING, _MOST_PADDING, _SHIFTS = 36, 60, 48


def mnist_1d(split: Literal["train", "test"] = "train") -> LabeledData:
    """Return MNIST-1D: 4,000 training or 1,000 test signals of length 40 in ten classes, in the order of the published file.

    There is one such data set, drawn with one seed; both parts together have mean 0 and standard deviation 1, and are not
    scaled further. Classes are not exactly balanced: the smallest has 394 training signals.

    Reference:
        Greydanus & Kobak (2024), ICML, "Scaling down deep learning with MNIST-1D"; their recipe, drawn with their seed. The
        values are those of their package.

    Example:
        >>> data = mnist_1d()
        >>> data.inputs.shape, data.num_classes
        (torch.Size([4000, 40]), 10)
    """
    signals, labels = _drawn()
    part = slice(None, _NUM_TRAINING) if split == "train" else slice(_NUM_TRAINING, None)
    inputs = torch.from_numpy(signals[part].astype(np.float32))
    return LabeledData(inputs, torch.from_numpy(labels[part]), num_classes=len(_CURVES), name="mnist_1d")


@cache
def _drawn() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw all signals, in the published order of draws, from a generator of its own."""
    random = np.random.RandomState(42)
    curves = np.array(_CURVES)
    curves = (curves - curves.mean(1, keepdims=True)) / curves.std(1, keepdims=True)
    curves = (curves - curves[:, :1]) / 6
    labels = np.arange(len(curves)).repeat(_NUM_SAMPLES // len(curves))
    signals = np.stack([_signal(curves[label], random) for label in labels])
    order = random.permutation(_NUM_SAMPLES)
    signals = signals[order]
    return (signals - signals.mean()) / signals.std(), labels[order]


def _signal(curve: NDArray[np.float64], random: np.random.RandomState) -> NDArray[np.float64]:
    # Imported here: it takes a seventh of a second, and most data sets need none of it.
    from scipy.ndimage import gaussian_filter1d

    padding = _LEAST_PADDING + int(random.rand() * (_MOST_PADDING - _LEAST_PADDING + 1))
    # What is exactly 0 is padding, and where noise goes: the curve's own zeros are moved off it.
    signal = _stretched(np.concatenate([curve + 1e-8, np.zeros(padding)]), len(curve) + _MOST_PADDING)
    signal *= 1 + 0.4 * (random.rand() - 0.5)
    signal = np.roll(signal, random.choice(_SHIFTS))
    background = gaussian_filter1d(0.25 * random.randn(len(signal)), 2)
    signal = np.where(signal != 0, signal, background) + 0.02 * random.randn(len(signal))
    signal -= 0.75 * (random.rand() - 0.5) * np.linspace(-0.5, 0.5, len(signal))
    return _stretched(signal, _LENGTH)


def _stretched(signal: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    return np.interp(np.linspace(0, 1, length), np.linspace(0, 1, len(signal)), signal)
