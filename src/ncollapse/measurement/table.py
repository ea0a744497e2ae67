"""From the statistics of the layers to a measurement with its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ncollapse.measurement.kgon_sample import KgonSample
from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.paths import Paths
from ncollapse.metrics.entry import Metric, evaluate_layers
from ncollapse.metrics.layer_statistics import LayerStatistics
from ncollapse.metrics.selection import CORE
from ncollapse.records.rows import Row
from ncollapse.statistics.selection import ClassSelection


def measurement_of(
    statistics: Mapping[str, LayerStatistics],
    metrics: Sequence[Metric],
    *,
    split: str,
    chosen: str,
    shown: Sequence[str] = CORE,
    passes: int = 1,
    kept_bytes: int = 0,
    paths: Paths | None = None,
    selection: ClassSelection | None = None,
    sample: KgonSample | None = None,
) -> Measurement:
    """Evaluate metrics at every layer."""
    first = next(iter(statistics.values()))
    num_classes = first.moments.num_classes
    evaluated = evaluate_layers(list(statistics.values()), metrics)
    rows = [
        Row.measured(split, depth, name, *value)
        for depth, (name, values) in enumerate(zip(statistics, evaluated, strict=True))
        for value in values
    ]
    return Measurement(
        rows=tuple(rows),
        layers=tuple(statistics),
        split=split,
        num_samples=first.moments.num_samples,
        num_classes=num_classes,
        num_labels=num_classes if selection is None else selection.num_labels,
        classes=tuple(range(num_classes) if selection is None else selection.classes.tolist()),
        convention=first.convention,
        passes=passes,
        kept_bytes=kept_bytes,
        chosen=chosen,
        statistics=statistics,
        shown=tuple(shown),
        paths=paths,
        sample=sample,
    )
