"""Measuring the network of a run directory again, in one process or many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from ncollapse.data.batches import Batches
from ncollapse.data.catalog import load_data
from ncollapse.data.labeled import LabeledData
from ncollapse.groups import Processes
from ncollapse.measurement.measurement import Measurement
from ncollapse.models import build_model
from ncollapse.probe.measure import measure
from ncollapse.records.errors import RunDirectoryError
from ncollapse.records.run_directory import RunDirectory
from ncollapse.studies.held_recipe import held_recipe
from ncollapse.targets.networks import as_user_error
from ncollapse.train.checkpoint import load_weights

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


def measure_run(
    path: str | Path,
    *,
    split: Literal["train", "test"] = "train",
    layers: str | Sequence[str] = "auto",
    batch_size: int | None = None,
    memory_budget: int | None = None,
    device: torch.device | str = "cpu",
    group: ProcessGroup | None = None,
) -> Measurement:
    """Measure the network of a run directory again, from its checkpoint.

    Args:
        path: The run directory.
        split: Data split; another split than train is decided by the training set's class means.
        layers: As in ``measure``.
        batch_size: Samples in a forward pass; None takes the recipe's.
        memory_budget: As in ``measure``.
        device: Where the network runs.
        group: As in ``measure``; the batches are dealt out to its processes in turn.

    Returns:
        The measurement.

    Raises:
        RunDirectoryError: If the folder holds no run, or one without a checkpoint.
        ValueError: If its checkpoint or data is damaged or missing.
    """
    processes = Processes(group)
    with processes.sharing_errors():
        directory = RunDirectory(path)
        recipe = held_recipe(directory)
        data = load_data(recipe.data)
        model = build_model(recipe.model, data.sample_shape, data.num_classes, recipe.seed, data.vocabulary)
        if not directory.checkpoint.exists():
            raise RunDirectoryError(f"{path} holds a run without a checkpoint. Continue it with --resume.")
        load_weights(directory.checkpoint, model)
        with as_user_error(f"moving the network to device {str(device)!r}"):
            model.to(device)

    def measured(data: LabeledData, split: str, reference: Measurement | None = None) -> Measurement:
        return measure(
            model,
            processes.every_nth_batch(Batches(data, batch_size or recipe.measure.batch_size)),
            num_classes=data.num_classes,
            layers=layers,
            convention=recipe.measure.convention,
            split=split,
            reference=reference,
            memory_budget=memory_budget,
            group=group,
        )

    train_measurement = measured(data, "train")
    if split == "train":
        return train_measurement
    with processes.sharing_errors():
        other = load_data(replace(recipe.data, split=split, per_class=None, corrupt=0.0))
    return measured(other, split, train_measurement)
