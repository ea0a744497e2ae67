"""The lines of the tables in a run directory; the fields of a type are the columns of its file."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

# Reserved, for `classes.csv` and `pairs.csv`: metrics of single classes and of pairs of classes.
CLASS_COLUMNS = ("epoch", "split", "layer", "class", "metric", "value")
PAIR_COLUMNS = ("epoch", "split", "layer", "class", "other", "metric", "value")
_OPTIONAL = {"epoch", "step", "standard_error"}


class Row(NamedTuple):
    """One line of the tidy table: one metric of one layer.

    Attributes:
        epoch: Epochs of training before the measurement; None if unknown.
        step: Optimizer steps before the measurement; None if unknown.
        split: The data split, "train" by default.
        depth: Index of the layer, 0 for the first.
        layer: Its name.
        metric: Metric id.
        value: A float; nan when undefined.
        standard_error: Standard error of the value; None where it was not estimated.
        flags: Words that qualify the value (keys of ``ncollapse.FLAGS``).
    """

    epoch: float | None
    step: int | None
    split: str
    depth: int
    layer: str
    metric: str
    value: float
    standard_error: float | None
    flags: tuple[str, ...]

    @classmethod
    def measured(
        cls, split: str, depth: int, layer: str, metric: str, value: float, standard_error: float | None, flags: tuple[str, ...]
    ) -> Row:
        """Return a row of a measurement that belongs to no epoch or step."""
        return cls(None, None, split, depth, layer, metric, value, standard_error, flags)


class EpochRecord(NamedTuple):
    """One line of ``history.csv``: what the training loop saw in one epoch.

    Attributes:
        epoch: Counted from 1.
        loss: Mean over the samples, each at the time of its step and in training mode; without weight decay.
        accuracy: Fraction of samples classified correctly, at the time of their step and in training mode.
        learning_rate: Of this epoch.
        grad_norm: Norm of the whole gradient before clipping, mean over the steps.
    """

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    grad_norm: float


def known_columns(rows: Iterable[Row]) -> tuple[str, ...]:
    """Return the columns that hold something: a single measurement has neither epoch nor step."""
    rows = tuple(rows)
    return tuple(name for name in Row._fields if name not in _OPTIONAL or any(getattr(row, name) is not None for row in rows))
