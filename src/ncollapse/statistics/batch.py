"""One batch of features and labels: validated, grouped by class, and cut into blocks for float64 work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Elements of one float64 work block. 2 MB stay in a cache, and are large enough that the calls cost little.
_BLOCK_ELEMENTS_CPU = 2**18
_BLOCK_ELEMENTS_ACCELERATOR = 2**25
# A matrix product of fewer and longer rows is several times slower.
_TILE_ROWS = 32


def check_whole(tensor: object, name: str) -> None:
    """Refuse a tensor of which each process holds a part: operations with plain tensors fail in words of PyTorch's own."""
    if hasattr(tensor, "full_tensor"):
        raise TypeError(f"{name} must be whole on every process, got a DTensor. Convert it with .full_tensor().")


def flatten_features(features: Tensor) -> Tensor:
    """View features as one row per sample."""
    check_whole(features, "features")
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = str(features.dtype) if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(
            f"features must be a floating-point tensor, got {kind}. Convert them with torch.as_tensor and .float()."
        )
    if features.layout != torch.strided or features.is_nested:
        raise TypeError("features must be a dense tensor, got a sparse or nested one. Convert it with .to_dense().")
    if features.ndim < 2:
        raise ValueError(f"features must have shape (N, d), got {tuple(features.shape)}. Add a dimension with [:, None].")
    if 0 in features.shape[1:]:
        raise ValueError(f"features must have at least one number per sample, got shape {tuple(features.shape)}. Leave it out.")
    return features.detach().flatten(1)


def check_labels(labels: Tensor, num_samples: int, num_classes: int, place: str = "") -> Tensor:
    """Check integer or boolean labels and return them as a flat int64 tensor; ``place`` (" in batch 3") goes into errors."""
    check_whole(labels, "labels")
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        kind = str(labels.dtype) if isinstance(labels, Tensor) else type(labels).__name__
        raise TypeError(
            f"labels must be an integer tensor of class indices, got {kind}{place}. "
            "Convert arrays with torch.as_tensor, one-hot rows with argmax(1)."
        )
    if labels.numel() != num_samples or labels.ndim > 2:
        raise ValueError(
            f"labels must hold one class index per sample, shape ({num_samples},), got {tuple(labels.shape)}{place}. "
            "Convert one-hot rows with argmax(1)."
        )
    flat = labels.reshape(-1).long()
    outside = (flat < 0) | (flat >= num_classes)
    if bool(outside.any()):
        position = int(outside.nonzero()[0])
        value = int(flat[position])
        hint = (
            f"Pass num_classes of {int(flat.max()) + 1} or more, or shift labels that start at 1"
            if value >= num_classes
            else f"For ignored samples pass ignore_index={value}"
        )
        raise ValueError(f"labels must be in [0, {num_classes}), got {value} at position {position}{place}. {hint}.")
    return flat


def row_blocks(features: Tensor, width: int | None = None, least: int = 1) -> Iterator[slice]:
    """Cut the rows of (N, d) features into blocks that fit a cache, so that float64 copies stay small."""
    rows = max(least, _block_elements(features) // max(1, features.shape[1] if width is None else width))
    for start in range(0, features.shape[0], rows):
        yield slice(start, start + rows)


class Workspace:
    """Memory for float64 blocks, allocated once and used for many batches."""

    # Sums are computed in float64, whatever the features' type. A float64 copy of a whole batch would at least double its
    # memory, and leave the cache before it is used. A block of 2 MB is converted, used and overwritten while it is in the
    # cache. The memory is kept between batches, since the system may hand out new memory page by page, which costs more than
    # summing the block.

    def __init__(self) -> None:
        self._rooms: dict[str, Tensor] = {}

    def room(self, purpose: str, like: Tensor, shape: torch.Size | None = None) -> Tensor:
        """Return uninitialized memory on a tensor's device, in its shape or another one, in float64."""
        shape = like.shape if shape is None else shape
        room, size = self._rooms.get(purpose), shape.numel()
        if room is None or room.numel() < size or room.device != like.device:
            room = self._rooms[purpose] = torch.empty(size, dtype=torch.float64, device=like.device)
        return room[:size].view(shape)

    def rows(self, layers: Sequence[Tensor]) -> Iterator[tuple[slice, Tensor]]:
        """Yield the rows of several layers of (N, d) features side by side, (n, L, d), in float64, block by block."""
        first = layers[0]
        for rows in row_blocks(first, len(layers) * first.shape[1]):
            size = len(first[rows])
            block = self.room("block", first, torch.Size((size, len(layers), first.shape[1])))
            for index, features in enumerate(layers):
                block[:, index].copy_(features[rows])
            yield rows, block

    def tiles(self, features: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield blocks as ``rows`` does, also cut along columns, so that no block is too flat for a matrix product."""
        limit = _block_elements(features)
        width = max(1, min(features.shape[1], limit // _TILE_ROWS))
        height = limit // width
        for top in range(0, features.shape[0], height):
            for left in range(0, features.shape[1], width):
                part = features[top : top + height, left : left + width]
                tile = self.room("block", part).copy_(part)
                yield slice(top, top + height), slice(left, left + width), tile


def _block_elements(features: Tensor) -> int:
    return _BLOCK_ELEMENTS_CPU if features.device.type == "cpu" else _BLOCK_ELEMENTS_ACCELERATOR


@dataclass(frozen=True, eq=False)
class LabelGroups:
    """The classes of one batch."""

    labels: Tensor
    present: Tensor  # classes with a row in the sums: all K if K <= N, else those that occur
    index: Tensor  # row of each sample in `present`
    counts: Tensor  # samples per row, may be 0
    new: Tensor  # classes without samples before this batch
    first: Tensor  # position of the first sample of each class in `new`

    @classmethod
    def from_labels(cls, labels: Tensor, num_classes: int, before: Tensor | None = None) -> LabelGroups:
        """Group checked labels."""
        if num_classes <= labels.numel():
            present, index = torch.arange(num_classes, device=labels.device), labels
        else:
            present, index = torch.unique(labels, return_inverse=True)
        counts = torch.bincount(index, minlength=present.numel())
        positions = torch.arange(labels.numel(), device=labels.device)
        first = torch.zeros_like(present).scatter_reduce_(0, index, positions, "amin", include_self=False)
        is_new = counts > 0 if before is None else (counts > 0) & (before[present] == 0)
        return cls(labels, present, index, counts, present[is_new], first[is_new])
