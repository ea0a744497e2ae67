"""When the checkpoints of a training were saved: epochs or steps, read from their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import pairwise
from pathlib import Path

from ncollapse.records.run_files import Unit

_SUFFIXES = {".pt", ".pth", ".ckpt", ".bin", ".safetensors"}
# What save_pretrained writes, the first that is there.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_EPOCH = re.compile(r"(?:^|[^a-z])(?:epochs?|ep)[ =_.-]?(\d+)(?![\da-z]|\.\d)")
# The e of 1e-5 is none.
_SHORT_EPOCH = re.compile(r"(?:^|[^a-z\d])e[ =_.-]?(\d+)(?![\da-z]|\.\d)")
_STEP = re.compile(r"(?:^|[^a-z])(?:global_step|steps?|iterations?|iters?|it)[ =_.-]?(\d+)(?![\da-z]|\.\d)")
# Folders of the Trainer of transformers.
_TRAINER = re.compile(r"checkpoint-(\d+)")
# Lightning numbers epochs from 0: epoch=0 is saved when one has been trained.
_LIGHTNING = re.compile(r"(?:^|[^a-z])epoch=(\d+).*\.ckpt$")
# Lightning's copy of the last one, whose name does not say when it was saved.
_LAST = re.compile(r"last(-v\d+)?\.ckpt")
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class TimedCheckpoint:
    """A file of weights, the name by which it was found, and when it was saved."""

    file: Path
    name: str
    time: int
    step: int | None = None


def find_checkpoints(checkpoints: str | Path | Iterable[str | Path]) -> list[Path]:
    """List the checkpoints that a pattern, a folder or a list names."""
    if not isinstance(checkpoints, str | Path):
        return [Path(item) for item in checkpoints]
    folder = Path(checkpoints)
    if folder.is_dir() and weights_in(folder) is None:
        found = [path for path in folder.iterdir() if path.suffix in _SUFFIXES or (path.is_dir() and weights_in(path))]
        found = [path for path in found if not _LAST.fullmatch(path.name)] or found
    else:
        found = [Path(path) for path in glob(str(checkpoints), recursive=True)]
    if not found:
        raise ValueError(
            f"checkpoints must name files or folders of weights, got {str(checkpoints)!r}, where there are none. Check the "
            "path."
        )
    return found


def weights_in(folder: Path) -> Path | None:
    """Return the file of weights in a folder of transformers."""
    return next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)


def timed_checkpoints(
    paths: Sequence[Path], unit: Unit | None = None, *, counts_from_zero: bool | None = None
) -> tuple[Unit, list[TimedCheckpoint]]:
    """Read the epochs or steps in the names of checkpoints, and put them in order."""
    names = [path.name for path in paths]
    if len(paths) > 1 and len(set(names)) == 1:
        names = [path.parent.name for path in paths]
    steps = [_step(name) for name in names]
    epochs = [_epoch(name, counts_from_zero) for name in names]
    if unit is None and not any(item is not None for item in (*epochs, *steps)):
        epochs = _differing_number(names, bool(counts_from_zero))
    unit = _unit_of(epochs, steps) if unit is None else unit
    times = epochs if unit == "epoch" else steps
    if None in times:
        raise ValueError(
            f"Names of checkpoints must hold their {unit}, got {names[times.index(None)]!r}, in which none can be read. "
            f"Rename it, as {unit}_12.pt, or leave it out with a pattern, such as 'ckpt/{unit}*'."
        )
    found = [
        TimedCheckpoint(_weights_of(path), name, time, step)
        for path, name, time, step in zip(paths, names, times, steps, strict=True)
        if time is not None
    ]
    found.sort(key=lambda item: item.time)
    for first, second in pairwise(found):
        if first.time == second.time:
            raise ValueError(
                f"Checkpoints must be of different {unit}s, got {first.name} and {second.name}, both of {unit} {first.time}. "
                "Leave one out."
            )
    return unit, found


def _epoch(name: str, counts_from_zero: bool | None) -> int | None:
    found = _EPOCH.search(name.lower()) or _SHORT_EPOCH.search(name.lower())
    if found is None:
        return None
    shift = bool(_LIGHTNING.search(name.lower())) if counts_from_zero is None else counts_from_zero
    return int(found[1]) + shift


def _step(name: str) -> int | None:
    found = _TRAINER.fullmatch(name) or _STEP.search(name.lower())
    return None if found is None else int(found[1])


def _unit_of(epochs: Sequence[int | None], steps: Sequence[int | None]) -> Unit:
    """Choose what names are read as: steps where not all were saved at the end of an epoch, since these are exact."""
    if all(epoch is None for epoch in epochs):
        return "step"
    return "epoch" if None in steps or (None not in epochs and _whole(epochs, steps)) else "step"


def _whole(epochs: Sequence[int | None], steps: Sequence[int | None]) -> bool:
    """Whether checkpoints were saved at the ends of epochs, which all have the same number of steps."""
    rates = {
        step // epoch if epoch and step % epoch == 0 else -1
        for epoch, step in zip(epochs, steps, strict=True)
        if epoch is not None and step is not None and (epoch or step)
    }
    return len(rates) <= 1 and -1 not in rates and len(set(epochs)) == len(epochs)


def _differing_number(names: Sequence[str], counts_from_zero: bool) -> list[int | None]:
    """Read the one number in which names of one form differ."""
    forms = {_NUMBER.sub("#", name) for name in names}
    columns = list(zip(*(map(int, _NUMBER.findall(name)) for name in names), strict=False))
    differing = [column for column in columns if len(set(column)) > 1]
    if len(names) == 1:
        differing = columns
    if len(forms) != 1 or len(differing) != 1:
        raise ValueError(
            f"Names of checkpoints must hold their epoch or step, got {', '.join(names[:3])}, in which none can be read. "
            "Rename them, as epoch_12.pt or step_500.pt, or leave out those that are copies, such as last.ckpt."
        )
    return [number + counts_from_zero for number in differing[0]]


def _weights_of(path: Path) -> Path:
    if not path.is_dir():
        return path
    if (found := weights_in(path)) is None:
        raise ValueError(
            f"{path} must hold {' or '.join(_WEIGHTS)}, got neither. Save the whole model in one file, as save_pretrained does "
            "with a large max_shard_size."
        )
    return found
