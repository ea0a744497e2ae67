"""A small seeded sample of a measurement, for pictures: the coordinates of the same few rows at every layer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class KgonSample:
    """A few samples of each class, in order of classes, then of the loader."""

    labels: Tensor  # index of each sample's class among the measured ones, shape (n,)
    indices: Tensor  # place of each sample among those that the loader yielded with a label, from 0, shape (n,)
    # Uᵀ(h - μ) of one layer after the other, side by side, U being the basis of the layer's `ClassCenters`; layers without
    # centers have none. Shape (n, sum of the sizes of the bases).
    coordinates: Tensor
    # Of each layer of the path, where it lies along the chord of the sample's path, and off the chord towards the layer that is
    # farthest from it, in chords; shape (n, layers, 2). None without paths.
    paths: Tensor | None = None


def in_own_planes(points: Tensor) -> Tensor:
    """Return paths (n, L, d) in the plane of their chord and their largest deviation from it, (n, L, 2), in chords."""
    # Every path begins at (0, 0) and ends at (1, 0); nan where both ends coincide.
    steps = points - points[:, :1]
    chord = steps[:, -1]
    squared = chord.square().sum(dim=1, keepdim=True)
    along = torch.einsum("nld,nd->nl", steps, chord) / squared
    off = steps - along[:, :, None] * chord[:, None]
    farthest = off.square().sum(dim=2).argmax(dim=1)
    # A path that is straight to the bit has no second axis, and no height.
    axis = torch.nn.functional.normalize(off[torch.arange(len(off), device=off.device), farthest], dim=1)
    return torch.stack([along, torch.einsum("nld,nd->nl", off, axis) / squared.sqrt()], dim=2)
