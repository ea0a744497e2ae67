"""The values of a measurement by metric and layer: its tidy rows, and the statistics that give further metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar, overload

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import GeodesicCurve, LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.depth.progression import effective_depth
from ncollapse.measurement.kgon_sample import KgonSample
from ncollapse.measurement.paths import Paths
from ncollapse.metrics.entry import MetricValue, evaluate_layers
from ncollapse.metrics.layer_statistics import LayerStatistics
from ncollapse.metrics.registry import METRICS
from ncollapse.metrics.selection import CORE
from ncollapse.near_words import near_words
from ncollapse.records.depth import EPSILON, EffectiveDepth
from ncollapse.records.rows import Row

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
    def __get__(self, measurement: MeasuredLayers, owner: type) -> Kind: ...
    def __get__(self, measurement: MeasuredLayers | None, owner: type) -> _OfPaths[Kind] | Kind:
        if measurement is None:
            return self
        check_paths(measurement, [self.name], self.name)
        found: Kind = getattr(measurement.paths, self.name)
        return found


def check_paths(measurement: MeasuredLayers, parts: Sequence[str], asked: str) -> None:
    """Raise an ``AttributeError`` in the name of what was asked for, unless the measurement has these parts of its paths."""
    if measurement.paths is None:
        raise AttributeError(f"{asked} needs a measurement along the samples' paths. Measure again with path=True.")
    if any(getattr(measurement.paths, part) is None for part in parts):
        raise AttributeError(
            f"{asked} needs the features once the class means are final, but they exceeded the stream's memory budget. "
            "Raise memory_budget, or use measure."
        )


@dataclass(frozen=True, eq=False, repr=False)
class MeasuredLayers:
    """The rows and statistics of the measured layers; the attributes are those of ``Measurement``."""

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
    sample: KgonSample | None = None

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

    @cached_property
    def _cells(self) -> dict[tuple[str, str], Row]:
        return {(row.metric, row.layer): row for row in self.rows}

    @cached_property
    def _asked(self) -> dict[str, list[list[MetricValue]]]:
        """Metrics that were not computed until they were asked for, by layer."""
        return {}

    def _row(self, metric: str, layer: str) -> Row | None:
        """Return the row of a metric at a layer; if the table has none, evaluate it on the statistics."""
        id = metric if (metric, layer) in self._cells else str(metric).lower()
        if (id, layer) not in self._cells and id in METRICS and layer in self.statistics:
            if id not in self._asked:
                # At all layers, which are evaluated together: so the value is the same to the bit as if it had been named.
                self._asked[id] = evaluate_layers(list(self.statistics.values()), [METRICS[id]])
            depth = self.layers.index(layer)
            return next((Row.measured(self.split, depth, layer, *value) for value in self._asked[id][depth]), None)
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
