"""From the statistics of all layers to a measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from ncollapse.depth.geodesic import GeodesicCurve
from ncollapse.measurement.measurement import Measurement, Row
from ncollapse.metrics.entry import LayerStatistics, Metric
from ncollapse.metrics.registry import evaluate_metrics
from ncollapse.probe.layer_batch import path_layers
from ncollapse.probe.totals import Collected
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.conventions import Convention


def tabulate(
    collected: Collected,
    selected: Sequence[Metric],
    heads: Mapping[str, LinearClassifier],
    split: str,
    convention: Convention,
    chosen: str,
    own_input: str | None = None,
) -> Measurement:
    """Evaluate metrics on what was collected."""
    statistics = {
        name: LayerStatistics(
            moments=moments,
            centers=collected.centers.get(name),
            within=collected.within.get(name),
            decisions=collected.decisions.get(name),
            classifier=heads.get(name),
            scatter=collected.scatters.get(name),
            convention=convention,
            own_means=split != "train" and name not in collected.by_reference,
            reference=collected.by_reference.get(name),
        )
        for name, moments in collected.moments.items()
    }
    rows = chain.from_iterable(
        (Row(split, depth, name, *value) for value in evaluate_metrics(layer, selected))
        for depth, (name, layer) in enumerate(statistics.items())
    )
    moments = next(iter(collected.moments.values()))
    dims = {name: value.dim for name, value in collected.moments.items()}
    curve = None if collected.paired is None else GeodesicCurve(collected.paired, convention)
    return Measurement(
        rows=tuple(rows),
        layers=tuple(statistics),
        split=split,
        num_samples=moments.num_samples,
        num_classes=moments.num_classes,
        convention=convention,
        passes=collected.passes,
        kept_bytes=collected.kept_bytes,
        chosen=chosen,
        statistics=statistics,
        path_layers=() if collected.path is None else path_layers(dims, own_input),
        path=collected.path,
        geodesic=curve,
        line=collected.line,
        arcs=collected.arcs,
    )
