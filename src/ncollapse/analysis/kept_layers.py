"""The layers whose features are in memory at once: as many of the first ones as fit a budget."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


class KeptLayers:
    """The layers of one pass over all data sets; those that do not fit are dropped, for another pass."""

    # How many samples there are is known only at the end, so layers are dropped while they are read, the last one first. One
    # layer is always kept.

    def __init__(self, budget: int, names: Iterable[str] | None = None) -> None:
        self.names = None if names is None else list(names)
        self.dropped: list[str] = []
        self._budget, self._bytes = budget, dict[str, int]()
        self._parts: list[dict[str, Tensor]] = []

    def take(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return copies of one batch's kept layers, on the CPU, and drop layers from all batches as far as they do not fit."""
        self.names = list(features) if self.names is None else self.names
        # A network may write into the same memory again.
        part = {name: features[name].to("cpu", copy=True) for name in self.names if name in features}
        self._parts.append(part)
        for name, layer in part.items():
            self._bytes[name] = self._bytes.get(name, 0) + layer.nbytes
        while len(self.names) > 1 and sum(self._bytes.values()) > self._budget:
            last = self.names.pop()
            self.dropped.insert(0, last)
            self._bytes.pop(last, None)
            for held in self._parts:
                held.pop(last, None)
        return part

    def joined(self, parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Join the batches of a data set, one layer after the other, so that only one is in memory twice."""
        whole = {name: torch.cat([part.pop(name) for part in parts]) for name in list(parts[0])}
        self._parts.append(whole)
        return whole
