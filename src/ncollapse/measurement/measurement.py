"""A measurement: the tidy rows of one data split at all layers, and the statistics behind them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Generic, TypeVar, overload

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import GeodesicCurve, LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.depth.progression import effective_depth
from ncollapse.extras import missing_extra
from ncollapse.measurement.text import TextTable
from ncollapse.metrics.entry import FLAGS, LayerStatistics, evaluate_metrics
from ncollapse.metrics.registry import METRICS
from ncollapse.metrics.selection import CORE
from ncollapse.near_words import near_words
from ncollapse.records.depth import EPSILON, EffectiveDepth
from ncollapse.records.rows import Row, known_columns

if TYPE_CHECKING:
    import pandas as pd


# More classes without samples than this are counted.
_MOST_NAMED = 8


@dataclass(frozen=True, eq=False)
class Paths:
    """The additions of ``path=True`` to a measurement; path, line and arcs are None if a stream exceeded its budget."""

    layers: tuple[str, ...]
    geodesic: GeodesicCurve
    path: PathStatistics | None
    line: LineDecisions | None
    arcs: ClassArcs | None

    def __repr__(self) -> str:
        through = (
            f"{len(self.layers)} layers from {self.layers[0]!r} to {self.layers[-1]!r}" if self.layers else "the line alone"
        )
        return f"Paths({through})"


Kind = TypeVar("Kind")


class _OfPaths(Generic[Kind]):
    """An attribute of a measurement with ``path=True``; an ``AttributeError`` says what is missing without."""

    def __init__(self, doc: str) -> None:
        self.__doc__ = doc

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, measurement: None, owner: type) -> _OfPaths[Kind]: ...
    @overload
    def __get__(self, measurement: Measurement, owner: type) -> Kind: ...
    def __get__(self, measurement: Measurement | None, owner: type) -> _OfPaths[Kind] | Kind:
        if measurement is None:
            return self
        if measurement.paths is None:
            raise AttributeError(f"{self.name} needs a measurement along the samples' paths. Measure again with path=True.")
        found: Kind | None = getattr(measurement.paths, self.name)
        if found is None:
            raise AttributeError(
                f"{self.name} needs the features once the class means are final, but they exceeded the stream's memory budget. "
                "Raise memory_budget, or use measure."
            )
        return found


@dataclass(frozen=True, eq=False, repr=False)
class Measurement:
    """Collapse of every measured layer on one data split.

    ``print(m)`` shows the core metrics with the layers as rows, ``m["pfc1"]`` is one metric by layer, and ``m.rows`` is
    everything. Two measurements are equal only if they are the same object; compare their ``rows``.

    With ``path=True`` a measurement also has ``path`` (the samples' paths from the first layer to the last), ``geodesic`` (the
    straight line between them), ``line`` (nearest-center decisions on that line) and ``arcs`` (a graph on the classes that
    decides whether the map onto the last class means is optimal). Without it these raise an ``AttributeError``.

    Attributes:
        rows: The tidy table, by depth, then in the order of the registry.
        layers: Layer names in order of execution.
        num_samples: Number of samples of the measured classes.
        num_classes: Number of measured classes, the K of the metrics.
        num_labels: Number of classes that labels may have, ``num_classes`` of the call.
        classes: Indices of the measured classes, ascending.
        convention: Class weights of the covariances.
        passes: Forward passes over the data, 1 or 2.
        kept_bytes: Memory of the kept features, 0 after a second pass.
        chosen: How the layers were chosen, in words.
        statistics: The statistics behind the metrics, by layer. A metric that was not computed is evaluated on them on request.
        shown: Metrics that ``print`` shows: the named ones, or the core.
        paths: The additions of ``path=True``; None without it.
    """

    rows: tuple[Row, ...]
    layers: tuple[str, ...]
    split: str
    num_samples: int
    num_classes: int
    num_labels: int
    classes: tuple[int, ...]
    convention: str
    passes: int
    kept_bytes: int
    chosen: str
    statistics: Mapping[str, LayerStatistics]
    shown: tuple[str, ...] = CORE
    paths: Paths | None = None

    @property
    def path_layers(self) -> tuple[str, ...]:
        """The layers of the paths, which have one dimension; none without paths."""
        return () if self.paths is None else self.paths.layers

    path = _OfPaths[PathStatistics]("Paths of the samples from the first layer to the last.")
    geodesic = _OfPaths[GeodesicCurve]("The straight line between the first layer and the last.")
    line = _OfPaths[LineDecisions]("Nearest-center decisions on the straight line.")
    arcs = _OfPaths[ClassArcs]("Graph on the classes that decides whether the map onto the last class means is optimal.")

    def value(self, metric: str, layer: str | int = -1) -> float:
        """Return one value.

        Args:
            metric: Metric id. One that was not computed is computed now, if the statistics that it needs were collected.
            layer: Layer name, or depth (negative counts from the end).

        Returns:
            The value; nan if undefined.

        Raises:
            KeyError: If there is no such layer, or the metric is not available there.
        """
        name = self._name(layer)
        row = self._row(metric, name)
        if row is None:
            here = [other for other, where in self._cells if where == name]
            raise KeyError(f"No metric {metric!r} at layer {name!r}. {self._near(metric)}Measured there: {', '.join(here)}.")
        return row.value

    def curve(self, metric: str) -> list[float]:
        """Return the values of one metric over the layers at which it is defined, in order of depth.

        Args:
            metric: Metric id, as in ``value``.

        Returns:
            One value per layer (the feeding layer alone for metrics of the classifier).

        Raises:
            KeyError: If the metric was not measured, and the statistics that it needs were not collected.
        """
        return list(self[metric].values())

    def __getitem__(self, metric: str) -> dict[str, float]:
        """Return the values of one metric by layer."""
        found = {layer: row.value for layer in self.layers if (row := self._row(metric, layer)) is not None}
        if not found:
            hint = f" Measure again with metrics=[{metric!r}]." if metric in METRICS else ""
            measured = ", ".join(dict.fromkeys(row.metric for row in self.rows))
            raise KeyError(f"No metric {metric!r} in this measurement. {self._near(metric)}It has: {measured}.{hint}")
        return found

    def effective_depth(self, epsilon: float = EPSILON) -> EffectiveDepth:
        """Find the first layer at which at most a share ε of the samples is nearer to another class center.

        Returns:
            The depth and whether it was reached, see ``ncollapse.depth.effective_depth``.

        Raises:
            KeyError: If no decisions were collected: measure pfc3.
        """
        return effective_depth(self.curve("pfc3_error"), epsilon)

    def to_pandas(self) -> pd.DataFrame:
        """Convert the tidy table to a pandas data frame, with flags joined by semicolons.

        Returns:
            One line per row.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(missing_extra("to_pandas", "pandas", "pandas")) from error
        table = pd.DataFrame([(*row[:-1], ";".join(row.flags)) for row in self.rows], columns=list(Row._fields))
        return table[list(known_columns(self.rows))]

    @property
    def _samples(self) -> str:
        classes = f"{self.num_classes} of {self.num_labels}" if self.num_classes < self.num_labels else f"{self.num_classes}"
        return f"{self.num_samples} samples of {classes} classes"

    def __repr__(self) -> str:
        metrics = len({row.metric for row in self.rows})
        return (
            f"Measurement({_count(len(self.layers), 'layer')}, {self._samples}, "
            f"split {self.split!r}, {_count(metrics, 'metric')})"
        )

    def __str__(self) -> str:
        return self._table().text()

    def _repr_html_(self) -> str:
        return self._table().html()

    def _table(self) -> TextTable:
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        summary = (
            f"{_count(len(self.layers), 'layer')}, {self._samples}, split {self.split}, convention {self.convention}, {passes}"
            f"\nchosen: {self.chosen}"
        )
        return TextTable.of(summary, self.rows, self.layers, self.shown, {**FLAGS, **self._named_flags()})

    def _named_flags(self) -> dict[str, str]:
        """Return flags whose words name classes of this measurement."""
        counts = next(iter(self.statistics.values())).moments.counts.tolist()
        empty = [str(label) for label, count in zip(self.classes, counts, strict=True) if count == 0]
        named = ", ".join(empty[:_MOST_NAMED]) + (f" and {len(empty) - _MOST_NAMED} more" if len(empty) > _MOST_NAMED else "")
        return {"empty_class": f"{FLAGS['empty_class']}; without samples: {named}"} if empty else {}

    @cached_property
    def _cells(self) -> dict[tuple[str, str], Row]:
        return {(row.metric, row.layer): row for row in self.rows}

    def _row(self, metric: str, layer: str) -> Row | None:
        """Return the row of a metric at a layer; if the table has none, evaluate it on the statistics."""
        id = metric if (metric, layer) in self._cells else str(metric).lower()
        if (id, layer) not in self._cells and id in METRICS and layer in self.statistics:
            for value in evaluate_metrics(self.statistics[layer], [METRICS[id]]):
                return Row.measured(self.split, self.layers.index(layer), layer, *value)
        return self._cells.get((id, layer))

    def _near(self, metric: str) -> str:
        """Name the metrics that may have been meant by a word that is none."""
        known = {*METRICS, *(row.metric for row in self.rows)}
        return "" if metric in known else near_words(str(metric).lower(), sorted(known))

    def _name(self, layer: str | int) -> str:
        if isinstance(layer, int) and -len(self.layers) <= layer < len(self.layers):
            return self.layers[layer]
        if layer in self.layers:
            return str(layer)
        raise KeyError(f"No layer {layer!r}. Layers measured: {', '.join(self.layers)}.")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
