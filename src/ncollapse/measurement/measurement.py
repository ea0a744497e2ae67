"""A measurement: the tidy rows of one data split at all layers, and the statistics behind them."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import GeodesicCurve, LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.depth.progression import effective_depth
from ncollapse.metrics.entry import FLAGS, LayerStatistics
from ncollapse.records.depth import EPSILON, EffectiveDepth

if TYPE_CHECKING:
    import pandas as pd


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


@dataclass(frozen=True)
class Measurement:
    """Collapse of every measured layer on one data split.

    Attributes:
        rows: The tidy table, by depth, then in the order of the registry.
        layers: Layer names in order of execution.
        split: The data split.
        num_samples: N.
        num_classes: K.
        convention: Class weights of the covariances.
        passes: Forward passes over the data, 1 or 2.
        kept_bytes: Memory that kept features took, 0 after a second pass.
        chosen: A sentence that says how the layers were chosen.
        statistics: What the metrics were computed from, by layer.
        path_layers: The layers that the paths run through, all but for a classifier's own input of another dimension; with
            ``path=True``, else none.
        path: Paths of the samples from the first layer to the last; with ``path=True``.
        geodesic: The straight line between them; with ``path=True``.
        line: Nearest-center decisions on that line; with ``path=True``.
        arcs: Graph on classes that decides whether the map onto the last class means is optimal; with ``path=True``.
    """

    rows: tuple[Row, ...]
    layers: tuple[str, ...]
    split: str
    num_samples: int
    num_classes: int
    convention: str
    passes: int
    kept_bytes: int
    chosen: str
    statistics: Mapping[str, LayerStatistics] = field(repr=False)
    path_layers: tuple[str, ...] = ()
    path: PathStatistics | None = field(default=None, repr=False)
    geodesic: GeodesicCurve | None = field(default=None, repr=False)
    line: LineDecisions | None = field(default=None, repr=False)
    arcs: ClassArcs | None = field(default=None, repr=False)

    def value(self, metric: str, layer: str | int = -1) -> float:
        """One value.

        Args:
            metric: Metric id.
            layer: Layer name, or depth (negative counts from the end).

        Returns:
            The value; nan when undefined.

        Raises:
            KeyError: If there is no such layer, or the metric was not measured at it.
        """
        name = self._name(layer)
        for row in self.rows:
            if row.metric == metric and row.layer == name:
                return row.value
        here = [row.metric for row in self.rows if row.layer == name]
        raise KeyError(f"No metric {metric!r} at layer {name!r}. Measured there: {', '.join(here)}.")

    def curve(self, metric: str) -> list[float]:
        """Values of one metric over the layers at which it was measured, in order of depth.

        Args:
            metric: Metric id.

        Returns:
            One value a layer (the feeding layer alone for metrics of the classifier).

        Raises:
            KeyError: If the metric was not measured.
        """
        values = [row.value for row in self.rows if row.metric == metric]
        if not values:
            raise KeyError(
                f"No metric {metric!r} in this measurement. It has: {', '.join(dict.fromkeys(r.metric for r in self.rows))}."
            )
        return values

    def effective_depth(self, epsilon: float = EPSILON) -> EffectiveDepth:
        """First layer at which at most a share ε of the samples is nearer to another class center.

        Args:
            epsilon: ε.

        Returns:
            The depth and whether it was reached, see ``ncollapse.depth.effective_depth``.
        """
        return effective_depth(self.curve("pfc3_error"), epsilon)

    def to_pandas(self) -> pd.DataFrame:
        """The tidy table as a pandas data frame, flags joined by semicolons.

        Returns:
            One line a row.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError('to_pandas needs pandas. Install it with: pip install "ncollapse[pandas]"') from error
        return pd.DataFrame([(*row[:-1], ";".join(row.flags)) for row in self.rows], columns=list(Row._fields))

    def _summary(self) -> str:
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        layers = "1 layer" if len(self.layers) == 1 else f"{len(self.layers)} layers"
        return (
            f"{layers}, {self.num_samples} samples of {self.num_classes} classes, split {self.split}, "
            f"convention {self.convention}, {passes} ({self.chosen})"
        )

    def _table(self) -> tuple[list[str], list[list[str]], list[str]]:
        """Header, one line of text a metric, and the flags that occur."""
        cells = {(row.metric, row.layer): row for row in self.rows}
        lines = []
        for metric in dict.fromkeys(row.metric for row in self.rows):
            here = [cells.get((metric, layer)) for layer in self.layers]
            lines.append([metric, *("" if row is None else f"{row.value:.4g}{'*' if row.flags else ''}" for row in here)])
        flags = sorted({flag for row in self.rows for flag in row.flags})
        return ["metric", *self.layers], lines, [f"* {flag}: {FLAGS[flag]}" for flag in flags]

    def __str__(self) -> str:
        header, lines, notes = self._table()
        widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
        aligned = ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in [header, *lines]]
        return "\n".join([self._summary(), *aligned, *notes])

    def _repr_html_(self) -> str:
        header, lines, notes = self._table()
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
        notes_html = "".join(f"<br>{html.escape(note)}" for note in notes)
        return (
            f"<table><caption>{html.escape(self._summary())}</caption><tr>{head}</tr>{body}</table><small>{notes_html}</small>"
        )

    def _name(self, layer: str | int) -> str:
        if isinstance(layer, int) and -len(self.layers) <= layer < len(self.layers):
            return self.layers[layer]
        if layer in self.layers:
            return str(layer)
        raise KeyError(f"No layer {layer!r}. Layers measured: {', '.join(self.layers)}.")
