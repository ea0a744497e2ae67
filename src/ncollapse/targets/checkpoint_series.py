"""The checkpoints of a network and data by name, measured into a run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from ncollapse.groups import Processes
from ncollapse.integrations.checkpoints import CheckpointProgress, measure_checkpoints
from ncollapse.statistics.conventions import Convention
from ncollapse.studies.machine import device_named
from ncollapse.targets.functions import as_user_error
from ncollapse.targets.networks import load_network
from ncollapse.targets.target import Target


def measure_target_checkpoints(
    target: Target,
    checkpoints: str,
    out: Path,
    *,
    unit: Literal["epoch", "step"] | None = None,
    counts_from_zero: bool | None = None,
    convention: Convention | None = None,
    device: str = "auto",
    progress: CheckpointProgress | bool = False,
    **options: Any,
) -> Path:
    """Measure checkpoints of a network and data by name; the test split too, if it is asked for."""
    if target.is_run or target.checkpoint is not None:
        other = f"{target.network} is a run directory" if target.is_run else "--checkpoint was given as well"
        raise ValueError(f"--checkpoints is for a network of your own, but {other}. Leave one of them out.")
    train, *test = target.load_splits()
    network = load_network(target.network, num_classes=train.num_classes, device=device_named(device, Processes()))
    names = (("data", target.data), ("test_data", target.test_data))
    with as_user_error(f"measuring {checkpoints}"):
        return measure_checkpoints(
            network,
            checkpoints,
            train,
            num_classes=train.num_classes,
            out=out,
            test=test[0] if test else None,
            unit=unit,
            counts_from_zero=counts_from_zero,
            recipe={"data": {name: value for name, value in names if value is not None}},
            unsafe_pickle=target.unsafe_pickle,
            progress=progress,
            convention=convention or "class",
            **options,
        )
