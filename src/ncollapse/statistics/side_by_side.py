"""Several small layers of one size worked on together, since calls cost more than their numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ncollapse.statistics.batch import LabelGroups, Workspace
from ncollapse.statistics.moments import ClassMoments, merge_stacked_groups_
from ncollapse.tensor_fields import stacked_tensors

# Numbers of a layer's class means up to which it is stacked with others, and of the features that are added up at once.
_MOST_STACKED, _MOST_TOGETHER = 2**16, 2**19


def stacked_moments(moments: Mapping[str, ClassMoments]) -> dict[tuple[str, ...], ClassMoments]:
    """Stack the moments of small layers of one size; each large one stays alone, as it is."""
    alike: dict[object, list[str]] = {}
    for name, value in moments.items():
        size = value.means.shape
        alike.setdefault(size if size.numel() <= _MOST_STACKED else name, []).append(name)
    return {
        tuple(names): moments[names[0]] if len(names) == 1 else stacked_tensors(ClassMoments, [moments[name] for name in names])
        for names in alike.values()
    }


class RunningMoments:
    """Running class moments of small layers, those of one dimension in one memory."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, ...], _SideBySide] = {}

    def takes(self, features: Tensor) -> bool:
        """Return whether a layer's features (N, d) are few enough."""
        return 2 * features.numel() <= _MOST_TOGETHER

    def add_(
        self, moments: dict[str, ClassMoments], layers: Mapping[str, Tensor], groups: LabelGroups, workspace: Workspace
    ) -> None:
        """Merge one batch of layers into their moments in place, as ``ClassMoments.merge_groups_`` does."""
        by_dim: dict[int, list[str]] = {}
        for name, features in layers.items():
            by_dim.setdefault(features.shape[1], []).append(name)
        for names in by_dim.values():
            size = max(1, _MOST_TOGETHER // max(1, layers[names[0]].numel()))
            for start in range(0, len(names), size):
                together = tuple(names[start : start + size])
                running = self._of(together, moments)
                merge_stacked_groups_(*running.whole, [layers[name] for name in together], groups, workspace)

    def _of(self, names: tuple[str, ...], moments: dict[str, ClassMoments]) -> _SideBySide:
        """Return the memory of some layers, made anew if their moments have been replaced since."""
        known = self._known.get(names)
        if known is None or any(moments[name] is not layer for name, layer in zip(names, known.layers, strict=True)):
            known = self._known[names] = _SideBySide([moments[name] for name in names])
            moments |= zip(names, known.layers, strict=True)
        return known


class _SideBySide:
    """Counts (K, L), means (K, L, d) and scatter traces (K, L), and the moments of each layer as views of them."""

    def __init__(self, layers: Sequence[ClassMoments]) -> None:
        counts = torch.stack([layer.counts for layer in layers], dim=1)
        means = torch.stack([layer.means for layer in layers], dim=1)
        traces = torch.stack([layer.scatter_traces for layer in layers], dim=1)
        self.whole = counts, means, traces
        self.layers = [ClassMoments(*parts) for parts in zip(*(part.unbind(1) for part in self.whole), strict=True)]
