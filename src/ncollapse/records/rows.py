"""The lines of the tables in a run directory; the fields of a type are the columns of its file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

# Of `classes.csv` and `pairs.csv`: metrics of single classes and of pairs of classes.
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
        learning_rate: The learning rate of this epoch.
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


@dataclass(frozen=True)
class ClassFinding:
    """What a diagnosis says of one class at the last layer."""

    index: int  # the class index of the labels
    name: str
    count: int  # training samples
    group: str  # "many", "some" or "few" samples, where classes differ in size; else ""
    variance: float  # mean squared distance of training samples from their class mean
    nearest: int  # index of the class whose mean is nearest
    distance: float  # distance to it, relative to the root mean square over all pairs
    cdnv: float  # mean CDNV with the other classes
    train: float  # share of its training samples whose nearest class center is their own
    test: float  # the same on the held-out samples; nan without any


class PairFinding(NamedTuple):
    """What a diagnosis says of two classes at the last layer: distance, CDNV, and how often one is taken for the other."""

    first: int
    second: int
    distance: float
    cdnv: float
    confusion: float


class GroupFinding(NamedTuple):
    """The classes with many, some or few training samples: how many, of what sizes, NCC accuracy, mean distance of pairs."""

    name: str
    num_classes: int
    fewest: int
    most: int
    accuracy: float
    distance: float


@dataclass(frozen=True)
class DiagnosisRecord:
    """A diagnosis in plain numbers."""

    layers: tuple[str, ...]  # names in order of depth
    dims: tuple[int, ...]  # numbers of features
    notes: Mapping[str, str]  # how wide layers were averaged, by layer
    rows: tuple[Row, ...]  # the tidy table; the ids of metrics are in docs/diagnosis.md
    accuracy: Mapping[str, float]  # of the network, by split; nan if it returns no logits
    decided: str  # the split that verdicts are about: "test" where it was given, else "train"
    # The split that merged classes are about: that of the verdicts if all classes have 5 samples there, else "train".
    judged: str
    num_samples: Mapping[str, int]  # by split
    # The first layer whose nearest-center error on the training set is at most 0.005; None if there is none.
    effective_depth: int | None
    names: Mapping[int, str]  # of the measured classes by index
    classes: tuple[ClassFinding, ...]
    pairs: tuple[PairFinding, ...]
    groups: tuple[GroupFinding, ...]
    merged: tuple[tuple[int, ...], ...]  # groups of classes whose samples are taken for one another
    distances: Sequence[Sequence[float]]  # relative distances of class means at the last layer, in the order of `classes`
    cka: Sequence[Sequence[float]]  # linear CKA of all pairs of layers
    strangers: tuple[str, ...]  # names of the foreign data sets
    tasks: tuple[str, ...]  # names of the new labels
    chosen: str  # how the layers were found

    def value(self, metric: str, layer: str, split: str | None = None) -> float:
        """Return one value of the table, nan if it has none; the split is that of the verdicts unless named."""
        split = self.decided if split is None else split
        found = (row.value for row in self.rows if (row.metric, row.layer, row.split) == (metric, layer, split))
        return next(found, float("nan"))

    def class_lines(self) -> list[tuple[object, ...]]:
        """Return the lines of ``classes.csv``, with ``CLASS_COLUMNS``."""
        held_out = self.decided if self.decided != "train" else None
        lines: list[tuple[object, ...]] = []
        for item in self.classes:
            values = [("train", "count", item.count), ("train", "variance", item.variance), ("train", "ncc", item.train)]
            values += [("train", "nearest_distance", item.distance), ("train", "cdnv", item.cdnv)]
            values += [] if held_out is None else [(held_out, "ncc", item.test)]
            lines += [(None, split, self.layers[-1], item.index, metric, value) for split, metric, value in values]
        return lines

    def pair_lines(self) -> list[tuple[object, ...]]:
        """Return the lines of ``pairs.csv``, with ``PAIR_COLUMNS``."""
        return [
            (None, split, self.layers[-1], pair.first, pair.second, metric, value)
            for pair in self.pairs
            for split, metric, value in (
                ("train", "distance", pair.distance),
                ("train", "cdnv", pair.cdnv),
                (self.judged, "confusion", pair.confusion),
            )
        ]
