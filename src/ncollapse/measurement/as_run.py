"""Measurements as the run that pages, figures and sentences are made of, in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ncollapse.measurement.depth_record import depth_record
from ncollapse.measurement.kgon import add_kgon
from ncollapse.measurement.measured_layers import MeasuredLayers
from ncollapse.metrics.entry import FLAGS
from ncollapse.metrics.registry import METRICS
from ncollapse.records.depth import DepthRecord
from ncollapse.records.json_files import as_read
from ncollapse.records.reading import Run
from ncollapse.records.run_files import Glossary, RecipeSummary, Status


def run_of(measurements: Mapping[int, MeasuredLayers]) -> Run:
    """Return measurements of the same layers by epoch as a run that was not trained here."""
    rows = tuple(row._replace(epoch=epoch) for epoch, m in measurements.items() for row in m.rows)
    records = {epoch: _record(m, epoch) for epoch, m in sorted(measurements.items())}
    last, samples = max(measurements), None
    for epoch, measured in sorted(measurements.items()):
        samples = add_kgon(samples, measured, epoch)
    return Run(
        path=Path("measurement"),
        recipe=RecipeSummary(),
        recipe_entries={},
        environment={},
        status=Status("finished", last, last),
        history=(),
        rows=rows,
        records=records,
        glossary=Glossary({metric.id: metric.title for metric in METRICS.values()}, FLAGS),
        samples=samples,
    )


def _record(measurement: MeasuredLayers, epoch: int) -> DepthRecord:
    # Beyond a stream's budget there are no paths, and no results over depth.
    if not measurement.path_layers:
        return DepthRecord.without_results(epoch, measurement.layers)
    return as_read(depth_record(measurement, epoch))
