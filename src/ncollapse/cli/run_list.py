"""The runs in a folder, with their states."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ncollapse.records import file_names
from ncollapse.records.errors import ReportError
from ncollapse.records.json_files import read_bytes, read_json
from ncollapse.records.lock import living_holder, state_of
from ncollapse.records.run_files import Status

# A folder of sweeps holds runs two steps below.
_DEEPEST = 2


@dataclass(frozen=True)
class ListedRun:
    """One run directory."""

    name: str  # its path below the folder
    # Running, stopped, dead, failed, finished, "not begun" without a checkpoint, or "damaged" if its status cannot be read.
    state: str
    epoch: int | None = None  # the last epoch that is saved
    epochs: int | None = None  # in all
    measured: int = 0  # epochs that were measured
    seconds_since: float | None = None  # since its last save, by the clock of this machine; never negative
    holder: str | None = None  # the process that writes to it, in words
    reason: str | None = None  # why it was stopped or has failed


def list_runs(folder: Path) -> tuple[ListedRun, ...]:
    """List the run directories in a folder, by their paths; the folder itself may be one."""
    if not folder.is_dir():
        raise ReportError(
            f"{folder} must be a folder, got {'a file' if folder.exists() else 'nothing'}. Name one with runs in it."
        )
    found = tuple(_listed(folder, path) for path in sorted(_run_directories(folder, _DEEPEST)))
    if not found:
        raise ReportError(
            f"{folder} must hold run directories, got none in it. Name the folder given to --out, or one above it."
        )
    return found


def _run_directories(folder: Path, deeper: int) -> Iterator[Path]:
    if any((folder / name).is_file() for name in (file_names.STATUS, file_names.RECIPE)):
        yield folder
    elif deeper:
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink() and not path.name.startswith("."):
                yield from _run_directories(path, deeper - 1)


def _listed(folder: Path, path: Path) -> ListedRun:
    name = str(path.relative_to(folder)) if path != folder else path.name or str(path)
    holder = living_holder(path)
    writer = None if holder is None else f"process {holder.pid} on {holder.host} since {holder.since}"
    file = path / file_names.STATUS
    if not file.exists():
        return ListedRun(name, "not begun" if holder is None else "running", holder=writer)
    try:
        status = read_json(file, Status)
    except ReportError as error:
        return ListedRun(name, "damaged", holder=writer, reason=str(error))
    return ListedRun(
        name,
        state_of(path, status.state),
        status.epoch,
        status.epochs,
        _num_measured(path / file_names.MEASUREMENTS),
        max(0.0, time.time() - file.stat().st_mtime),
        writer,
        status.reason,
    )


def _num_measured(table: Path) -> int:
    """Count the epochs in a table; they are its first column."""
    try:
        _, *lines = read_bytes(table).split(b"\n")
    except (OSError, ReportError):
        return 0
    return len({epoch for line in lines if (epoch := line.partition(b",")[0])})
