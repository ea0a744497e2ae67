"""The choice and collection of the rows that pictures show: a seeded draw of a few samples of each class."""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from ncollapse.measurement.kgon_sample import KgonSample, in_own_planes
from ncollapse.polygon import named_classes
from ncollapse.statistics.batch import row_blocks
from ncollapse.statistics.parts import ranks_in_class

# Rows of a class, and in all.
_MOST_OF_A_CLASS, _MOST = 20, 500
# Up to this many pairs of a class and a rank it is written down for each whether it was drawn.
_MOST_KEYS = 2**20


def rows_by_class(counts: Sequence[int]) -> list[int]:
    """Return how many rows of each class are shown; of many classes, the named ones have their share first."""
    named = {*named_classes(counts)}
    sizes = [min(count, _MOST_OF_A_CLASS) if label in named else 0 for label, count in enumerate(counts)]
    others = [label for label, count in enumerate(counts) if count and label not in named]
    room = _MOST - sum(sizes)
    if room < len(others):
        others = random.Random(0).sample(others, room)
    for label in others:
        sizes[label] = min(counts[label], _MOST_OF_A_CLASS, room // len(others))
    return sizes


class KgonRows:
    """The rows of a sample, chosen by their rank within their class, and collected batch by batch."""

    # The ranks are drawn from the counts alone, before the data is read again, by a generator of our own. So memory is that of
    # the sample, the choice is the same at every epoch, and no random state of the user's moves.

    def __init__(self, counts: Tensor) -> None:
        draw, sizes = random.Random(0), counts.tolist()
        self._stride = max([1, *sizes])
        numbers = rows_by_class(sizes)
        drawn = [(label, rank) for label, number in enumerate(numbers) for rank in draw.sample(range(sizes[label]), number)]
        self._keys = torch.tensor([label * self._stride + rank for label, rank in drawn], dtype=torch.int64)
        # One more for what a changed second pass has beyond the counts.
        size = len(sizes) * self._stride + 1
        self._is_drawn = torch.zeros(size, dtype=torch.bool).index_fill_(0, self._keys, 1) if size <= _MOST_KEYS else None
        self._before, self._seen = torch.zeros_like(counts), 0
        self._rows = torch.zeros(0, dtype=torch.int64)
        self._labels: list[Tensor] = []
        self._indices: list[Tensor] = []
        self._coordinates: dict[str, list[Tensor]] = {}
        self._paths: list[Tensor] = []

    def begin_batch(self, labels: Tensor, positions: Tensor | None, num_rows: int) -> None:
        """Choose the rows of the next batch; ``positions`` are those of the labels among all its rows, None if they are all."""
        labels = labels.cpu()
        keys = labels * self._stride + ranks_in_class(labels, self._before)
        self._before += torch.bincount(labels, minlength=len(self._before))
        is_drawn = (
            torch.isin(keys, self._keys) if self._is_drawn is None else self._is_drawn[keys.clamp_(max=len(self._is_drawn) - 1)]
        )
        self._rows = rows = is_drawn.nonzero().flatten()
        self._in_order: list[int] = rows.tolist()
        self._labels.append(labels[rows])
        self._indices.append(self._seen + (rows if positions is None else positions.cpu()[rows]))
        self._seen += num_rows

    def add_layer(self, name: str, residual: Tensor, means: Tensor, start: int = 0) -> None:
        """Add the coordinates at one layer of the rows of the batch from ``start`` on, given relative to the class means."""
        inside = slice(*(bisect_left(self._in_order, end) for end in (start, start + len(residual))))
        own = means.index_select(0, self._labels[-1][inside].to(means.device))
        chosen = residual.index_select(0, (self._rows[inside] - start).to(residual.device))
        self._coordinates.setdefault(name, []).append((chosen + own).cpu())

    def add_paths(self, layers: Sequence[Tensor], means: Sequence[Tensor]) -> None:
        """Add the rows' paths, given the features of the path's layers and their means."""
        rows = self._rows.to(layers[0].device)
        for block in row_blocks(rows.unsqueeze(1), len(layers) * layers[0][:1].numel()):
            pairs = zip(layers, means, strict=True)
            points = [layer.index_select(0, rows[block]).double() - mean for layer, mean in pairs]
            self._paths.append(in_own_planes(torch.stack(points, dim=1)).cpu())

    def finish(self, layers: Collection[str]) -> KgonSample | None:
        """Return the sample, sorted by class, with the layers in this order; None if this process has no samples."""
        if not self._labels or any(name not in self._coordinates for name in layers):
            return None
        labels = torch.cat(self._labels)
        order = torch.argsort(labels, stable=True)
        parts = [torch.cat(self._coordinates[name]) for name in layers]
        coordinates = torch.cat([torch.zeros(len(labels), 0, dtype=torch.float64), *parts], dim=1)
        paths = torch.cat(self._paths)[order] if self._paths else None
        return KgonSample(labels[order], torch.cat(self._indices)[order], coordinates[order], paths)
