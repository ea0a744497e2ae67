"""One line of the tidy table."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One line of the tidy table.

    Attributes:
        split: The data split, "train" by default.
        depth: Index of the layer, 0 for the first.
        layer: Its name.
        metric: Metric id.
        value: A float; nan when undefined.
        flags: Words that qualify the value (keys of ``ncollapse.FLAGS``).
    """

    split: str
    depth: int
    layer: str
    metric: str
    value: float
    flags: tuple[str, ...]
