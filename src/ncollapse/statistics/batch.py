"""One batch of features and labels: validated, grouped by class, and cut into blocks for float64 work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Elements of one float64 work block: 512 KB stay in the cache that a core has for itself, also beside a busy neighbor.
_BLOCK_ELEMENTS_CPU = 2**16
_BLOCK_ELEMENTS_ACCELERATOR = 2**25
# Fewer and longer rows multiply several times slower.
_TILE_ROWS = 32


def flatten_features(features: Tensor) -> Tensor:
    """View features as one row a sample.

    Args:
        features: Floating-point tensor of shape (N, ...).

    Returns:
        The same values, shape (N, d).

    Raises:
        TypeError: If the features are not a floating-point tensor.
        ValueError: If they have no feature dimension.
    """
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = str(features.dtype) if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(
            f"features must be a floating-point tensor, got {kind}. Convert them with torch.as_tensor and .float()."
        )
    if features.ndim < 2:
        raise ValueError(f"features must have shape (N, d), got {tuple(features.shape)}. Add a dimension with [:, None].")
    return features.detach().flatten(1)


def check_labels(labels: Tensor, num_samples: int, num_classes: int) -> Tensor:
    """Check integer labels and return them as a flat int64 tensor.

    Args:
        labels: Integer class indices, shape (N,) or (N, 1).
        num_samples: N of the features they belong to.
        num_classes: K; labels must lie in [0, K).

    Returns:
        Labels of shape (N,), int64.

    Raises:
        TypeError: If the labels are not an integer tensor.
        ValueError: If their number is not N or a label lies outside [0, K).
    """
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
        kind = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"labels must be an integer tensor of class indices, got {kind}. "
            "Convert arrays with torch.as_tensor, one-hot rows with argmax(1)."
        )
    if labels.numel() != num_samples or labels.ndim > 2:
        raise ValueError(
            f"labels must hold one class index per sample, shape ({num_samples},), got {tuple(labels.shape)}. "
            "Convert one-hot rows with argmax(1)."
        )
    flat = labels.reshape(-1).long()
    outside = (flat < 0) | (flat >= num_classes)
    if bool(outside.any()):
        position = int(outside.nonzero()[0])
        value = int(flat[position])
        hint = (
            f"Pass num_classes={value + 1}, or shift labels that start at 1" if value >= num_classes else "Drop ignored samples"
        )
        raise ValueError(f"labels must be in [0, {num_classes}), got {value} at position {position}. {hint}.")
    return flat


def row_blocks(features: Tensor) -> Iterator[slice]:
    """Cut the rows of (N, d) features into blocks that fit a cache, so that float64 copies stay small.

    Args:
        features: Shape (N, d).

    Yields:
        Slices over the rows, in order.
    """
    rows = max(1, _block_elements(features) // max(1, features.shape[1]))
    for start in range(0, features.shape[0], rows):
        yield slice(start, start + rows)


def tiles(features: Tensor) -> Iterator[tuple[slice, slice]]:
    """Cut (N, d) features into blocks that fit a cache and are not too flat for a matrix product, in both directions.

    Args:
        features: Shape (N, d).

    Yields:
        Slices over the rows and over the columns.
    """
    limit = _block_elements(features)
    width = max(1, min(features.shape[1], limit // _TILE_ROWS))
    height = limit // width
    for top in range(0, features.shape[0], height):
        for left in range(0, features.shape[1], width):
            yield slice(top, top + height), slice(left, left + width)


def _block_elements(features: Tensor) -> int:
    return _BLOCK_ELEMENTS_CPU if features.device.type == "cpu" else _BLOCK_ELEMENTS_ACCELERATOR


@dataclass(frozen=True)
class LabelGroups:
    """The classes that occur in one batch, so that a batch costs what it holds and not what all K classes would.

    Attributes:
        present: Class indices that may occur, shape (P,), ascending.
        index: Position in ``present`` of every sample's class, shape (N,).
        counts: Samples of each of them, shape (P,), float64.
        first: Position in the batch of a sample of each of them, the first; any position for a class without samples.
    """

    present: Tensor
    index: Tensor
    counts: Tensor
    first: Tensor

    @classmethod
    def from_labels(cls, labels: Tensor, num_classes: int) -> LabelGroups:
        """Group checked labels.

        Args:
            labels: Shape (N,), int64, in [0, K).
            num_classes: K.

        Returns:
            All K classes when the batch has at least K samples, else those that occur.
        """
        if num_classes <= labels.numel():
            present, index = torch.arange(num_classes, device=labels.device), labels
        else:
            present, index = torch.unique(labels, return_inverse=True)
        counts = torch.bincount(index, minlength=present.numel()).double()
        positions = torch.arange(labels.numel(), device=labels.device)
        first = torch.zeros_like(present).scatter_reduce_(0, index, positions, "amin", include_self=False)
        return cls(present, index, counts, first)
