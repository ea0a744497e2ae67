"""A measurement of a target as a run directory, which pages, claims and other readers of runs take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ncollapse.groups import Processes
from ncollapse.machine import machine
from ncollapse.measurement.depth_record import depth_record
from ncollapse.measurement.kgon import add_kgon
from ncollapse.measurement.measurement import Measurement
from ncollapse.metrics import FLAGS, METRICS
from ncollapse.records.lock import Lock
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import Glossary, Status
from ncollapse.studies.machine import device_named
from ncollapse.targets.target import Target


def write_measurement(
    measurements: Measurement | Sequence[Measurement], target: Target, out: str | Path, *, device: str = "auto"
) -> Path:
    """Write a measurement, or those of several splits, as a run directory of one epoch, without a recipe and a history.

    ``measurements.csv``, ``environment.json``, ``glossary.json`` and ``status.json``, and with ``path=True`` the results over
    depth in ``depth.json``. ``ncollapse report`` makes a page of either. The epoch is that of a run's checkpoint, 0 of other
    networks. With several splits the results over depth are those of the last one.

    Args:
        measurements: The measurement, or those of ``measure_splits``.
        target: What was measured; its names are noted in the folder.
        out: The folder, new or empty.
        device: Where the network ran, as given to ``measure_target``; it is noted in the folder.

    Returns:
        The folder.

    Raises:
        RunDirectoryError: If the folder is not empty, or a file.
        OSError: If the folder cannot be written to.
    """
    splits = [measurements] if isinstance(measurements, Measurement) else list(measurements)
    measurement, directory = splits[-1], RunDirectory(out)
    status = RunDirectory(target.network).status() if target.is_run else None
    epoch = 0 if status is None else status.epoch
    with Lock(directory.path):
        directory.create(None)
        directory.begin(
            {**machine(device_named(device, Processes())), "threads": torch.get_num_threads(), **_noted(target, measurement)},
            Glossary({metric.id: metric.title for metric in METRICS.values()}, FLAGS),
        )
        rows = [row._replace(epoch=epoch) for split in splits for row in split.rows]
        directory.add_measurement(rows, None if measurement.paths is None else depth_record(measurement, epoch))
        directory.samples = add_kgon(None, splits[0], epoch)
        accuracy = next((row.value for row in rows if row.metric == "accuracy" and row.split == "train"), None)
        perfect = epoch if accuracy == 1 else None
        directory.save(Status("finished", epoch, epoch, train_accuracy=accuracy, first_perfect_epoch=perfect))
    return directory.path


def _noted(target: Target, measurement: Measurement) -> dict[str, Any]:
    """Return what the environment file says of the target: its names, how its layers were found, the classes if not all."""
    names = {name: getattr(target, name) for name in ("network", "data", "test_data", "checkpoint")}
    noted: dict[str, Any] = {name: str(value) for name, value in names.items() if value is not None}
    noted["chosen"] = measurement.chosen
    if measurement.num_classes < measurement.num_labels:
        noted["classes"] = measurement.classes
    return noted
