"""A measurement: the tidy rows of one data split at all layers, and the statistics behind them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import torch

from ncollapse.default_device import on_the_cpu
from ncollapse.extras import missing_extra
from ncollapse.measurement.measured_layers import MeasuredLayers, check_paths
from ncollapse.measurement.text import TextTable
from ncollapse.metrics.entry import FLAGS
from ncollapse.records.depth import DepthRecord
from ncollapse.records.rows import Row

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

PlotKind = Literal["depth", "last_layer", "class_distances", "kgon"]


# More classes without samples than this are counted.
_MOST_NAMED = 8


@dataclass(frozen=True, eq=False, repr=False)
class Measurement(MeasuredLayers):
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
        sample: A few samples of each class for pictures, in the first of several processes; None where no metric needs the
            samples again.

    Example:
        >>> from ncollapse import measure_features
        >>> m = measure_features(torch.eye(3).repeat(4, 1), torch.arange(3).repeat(4), num_classes=3)
        >>> m["pfc3"], m.value("pfc3", "features"), m.curve("pfc3")
        ({'features': 1.0}, 1.0, [1.0])
        >>> [row.flags for row in m.rows if row.metric == "pfc1"]
        [()]
    """

    def save(self, path: str | Path) -> None:
        """Write the measurement into one file, whole or not at all; ``load`` reads it.

        It is a safetensors file: the statistics as tensors, everything else as JSON in its metadata. A loaded measurement can
        be compared, drawn, merged by its statistics, and passed as ``reference=``, as the one that was saved.

        Args:
            path: The file, such as "m.safetensors". Its folder is made if it is missing; an earlier file is replaced.

        Raises:
            OSError: If the file cannot be written.
        """
        from ncollapse.measurement.measurement_file import write_measurement_file

        write_measurement_file(Path(path), {item.name: getattr(self, item.name) for item in fields(self)})

    @classmethod
    def load(cls, path: str | Path) -> Measurement:
        """Read a measurement that ``save`` wrote. No code of the file runs.

        Returns:
            The measurement, equal to the saved one to the bit.

        Raises:
            ReportError: If the file is damaged, of a later version, or not of a measurement.
            FileNotFoundError: If there is no such file.
        """
        from ncollapse.measurement.measurement_file import read_measurement_file

        return cls(**read_measurement_file(Path(path)))

    def to_csv(self, path: str | Path) -> None:
        """Write the tidy table as CSV, whole or not at all: ``measurements.csv`` of a run directory, every digit kept.

        Raises:
            OSError: If the file cannot be written.
        """
        from ncollapse.records.csv_tables import rows_text
        from ncollapse.records.files import write_whole

        write_whole(path, rows_text(self.rows))

    def to_pandas(self) -> pd.DataFrame:
        """Convert the tidy table to a pandas data frame with the columns of ``to_csv``, flags joined by semicolons.

        Returns:
            One line per row.

        Raises:
            ImportError: If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(missing_extra("to_pandas", "pandas", "pandas")) from error
        return pd.DataFrame([(*row[:-1], ";".join(row.flags)) for row in self.rows], columns=list(Row._fields))

    @on_the_cpu
    def summary(self) -> str:
        """Say in a few sentences what the page of a run says: accuracy, collapse over depth, the line against the baseline.

        Returns:
            One sentence or two a line. ``ncollapse.drawing.describe`` has every detail of a run directory.
        """
        from ncollapse.drawing import summarize
        from ncollapse.measurement.as_run import run_of

        return "\n".join(summarize(run_of({0: self})))

    @property
    @on_the_cpu
    def depth_results(self) -> DepthRecord:
        """The numbers that the page says of a measurement with ``path=True``, as in ``depth.json``.

        ``prediction_error["projection"].line["pfc1"]`` is the error of the straight line in decades, ``.baseline["pfc1"]`` that
        of the baseline, ``.flow["pfc2"]`` that of the flow of class means; ``theorem1.holds``, ``theorem2.monotone`` and
        ``theorem3.guaranteed`` are the conditions of the theorems; ``progression["pfc1"].violations`` names the layers into
        which a metric rises. An ``AttributeError`` says what is missing without paths.
        """
        from ncollapse.measurement.depth_record import depth_record

        check_paths(self, ["path", "geodesic", "line", "arcs"], "depth_results")
        return depth_record(self, 0)

    @on_the_cpu
    def plot(
        self,
        kind: PlotKind = "depth",
        *,
        metrics: Sequence[str] = ("pfc1", "pfc2", "pfc3"),
        layer: str | int = -1,
        ax: Any = None,
    ) -> tuple[Figure, Any]:
        """Draw the measurement; ``compare(...).plot`` draws several, also over epochs.

        Args:
            kind: "depth": metrics over the layers; with ``path=True`` also the straight line and the baseline.
                "last_layer": NC1 to NC4 of the last layer. "class_distances": distances between the class means of a layer.
                "kgon": all classes of every layer in one plane, with a few samples (docs/results.md); with ``ax``, one layer.
            metrics: For "depth", metric ids, one panel each.
            layer: For "class_distances", and for "kgon" with ``ax``, the layer by name or depth.
            ax: Draw there: an Axes, or one for each panel. None makes a figure, which a notebook shows where the cell ends in
                ``fig``, and ``fig.savefig`` writes.

        Returns:
            The figure, and its Axes: one, or an array of one per panel.

        Raises:
            ValueError: If the kind is unknown, or there is not one Axes per panel.
            KeyError: If there is no such layer.
        """
        from ncollapse.drawing import plot_class_distances, plot_kgon, plot_last_layer, plot_over_depth
        from ncollapse.measurement.as_run import run_of

        if kind == "class_distances":
            name = self._name(layer)
            means = self.statistics[name].moments.class_means
            distances = torch.cdist(means, means, compute_mode="donot_use_mm_for_euclid_dist")
            figure = plot_class_distances(distances.tolist(), self.classes, title=name, ax=ax)
        elif kind == "kgon":
            figure = plot_kgon(run_of({0: self}), layer=self._name(layer), ax=ax)
        elif kind == "last_layer":
            figure = plot_last_layer(run_of({0: self}), ax=ax)
        elif kind == "depth":
            figure = plot_over_depth(run_of({0: self}), metrics=metrics, ax=ax)
        else:
            several = " compare(a, b, names=[1, 10]).plot('epochs') draws several measurements." if kind == "epochs" else ""
            raise ValueError(
                f"kind must be one of {', '.join(get_args(PlotKind))}, got {kind!r}.{several or ' Pick one of these.'}"
            )
        return figure, figure.axes[0] if kind == "class_distances" and ax is None else axes_of(figure, ax)

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
        from ncollapse.measurement.notebook import measurement_html

        figure, _ = self.plot()
        return measurement_html(self, self._heading(), figure, {**FLAGS, **self._named_flags()})

    def _heading(self) -> str:
        passes = "1 pass" if self.passes == 1 else f"{self.passes} passes"
        return (
            f"{_count(len(self.layers), 'layer')}, {self._samples}, split {self.split}, convention {self.convention}, {passes}"
            f"\nchosen: {self.chosen}"
        )

    def _table(self) -> TextTable:
        return TextTable.of(self._heading(), self.rows, self.layers, self.shown, {**FLAGS, **self._named_flags()})

    def _named_flags(self) -> dict[str, str]:
        """Return flags whose words name classes of this measurement."""
        counts = next(iter(self.statistics.values())).moments.counts.tolist()
        empty = [str(label) for label, count in zip(self.classes, counts, strict=True) if count == 0]
        named = ", ".join(empty[:_MOST_NAMED]) + (f" and {len(empty) - _MOST_NAMED} more" if len(empty) > _MOST_NAMED else "")
        return {"empty_class": f"{FLAGS['empty_class']}; without samples: {named}"} if empty else {}


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def axes_of(figure: Figure, given: Any) -> Any:
    """Return the Axes of a figure, one or an array, or those that were given."""
    if given is not None:
        return given
    return figure.axes[0] if len(figure.axes) == 1 else np.array(figure.axes)
