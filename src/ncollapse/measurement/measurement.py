"""A measurement: the tidy rows of one data split at all layers, and the statistics behind them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING

from ncollapse.extras import missing_extra
from ncollapse.measurement.measured_layers import MeasuredLayers
from ncollapse.measurement.text import TextTable
from ncollapse.metrics.entry import FLAGS
from ncollapse.records.rows import Row

if TYPE_CHECKING:
    import pandas as pd


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


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
