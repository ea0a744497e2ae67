"""Logs for TensorBoard, Weights & Biases and trackio, under ``nc/<layer>/<metric>``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ncollapse.extras import missing_extra
from ncollapse.integrations.logs import check_place, scalars
from ncollapse.measurement.measurement import Measurement


class TensorBoardLog:
    """Log scalars to TensorBoard, over steps, or over epochs if no step is given.

    Args:
        folder: Folder for the event files.

    Raises:
        ImportError: If TensorBoard is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(missing_extra("TensorBoardLog", "tensorboard", "tensorboard")) from error
        self._writer = SummaryWriter(str(folder))

    def __call__(self, measurement: Measurement, *, epoch: float | None = None, step: int | None = None) -> None:
        """Write the values that are defined."""
        check_place(epoch, step)
        at = step if step is not None else int(epoch or 0)
        for name, value in scalars(measurement).items():
            self._writer.add_scalar(name, value, at)
        self._writer.flush()


class _RunLog:
    """A log into a run that has ``log(values, step=...)``."""

    def __init__(self, run: Any) -> None:
        self._run = run

    def __call__(self, measurement: Measurement, *, epoch: float | None = None, step: int | None = None) -> None:
        """Log the values that are defined, and the epoch."""
        check_place(epoch, step)
        values = scalars(measurement) if epoch is None else {**scalars(measurement), "epoch": epoch}
        self._run.log(values, step=step)


class WandbLog(_RunLog):
    """Log values to Weights & Biases.

    Args:
        run: The result of ``wandb.init``, or anything with ``log(values, step=...)``; None uses the active run.

    Raises:
        ImportError: If no run is given and wandb is not installed.
        ValueError: If no run is given and none is active.
    """

    def __init__(self, run: Any = None) -> None:
        super().__init__(_active_wandb_run() if run is None else run)


class TrackioLog(_RunLog):
    """Log values to trackio.

    Args:
        run: The result of ``trackio.init``; None uses the run that is active when a measurement is logged.

    Raises:
        ImportError: If no run is given and trackio is not installed.
    """

    def __init__(self, run: Any = None) -> None:
        super().__init__(_trackio() if run is None else run)


def _trackio() -> Any:
    try:
        import trackio
    except ImportError as error:
        raise ImportError(missing_extra("TrackioLog", "trackio", "trackio")) from error
    return trackio


def _active_wandb_run() -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ImportError(missing_extra("WandbLog", "wandb", "wandb")) from error
    if wandb.run is None:
        raise ValueError("WandbLog needs an active run, got none. Call wandb.init first, or pass its run.")
    return wandb.run
