"""A folder of checkpoints measured one after the other, as a run directory."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ncollapse.groups import Processes
from ncollapse.hooks.untouched import network_of
from ncollapse.integrations.checkpoint_times import find_checkpoints, timed_checkpoints
from ncollapse.integrations.recorded_run import RecordedRun, RecordedSource
from ncollapse.integrations.recording import Measurer
from ncollapse.records.recipe_settings import flatten_settings
from ncollapse.records.run_files import RecordedTime
from ncollapse.train.checkpoint import load_weights

# Called with the checkpoints done, their number, and words about the last one and the time left.
CheckpointProgress = Callable[[int, int, str], None]


def measure_checkpoints(
    model: nn.Module,
    checkpoints: str | Path | Iterable[str | Path],
    batches: Iterable[Any],
    *,
    num_classes: int,
    out: str | Path,
    test: Iterable[Any] | None = None,
    unit: Literal["epoch", "step"] | None = None,
    counts_from_zero: bool | None = None,
    recipe: Mapping[str, Any] | None = None,
    unsafe_pickle: bool = False,
    progress: CheckpointProgress | bool = False,
    **options: Any,
) -> Path:
    """Measure the checkpoints of a training one after the other, into a run directory for ``ncollapse report``.

    Epochs or steps are read from the names. A second call measures what is new or has changed and skips the rest, also after a
    kill. The values are those of ``measure`` on the same weights. The model has its own weights again afterwards.

    Args:
        model: A network of the same form; its device is kept.
        checkpoints: A pattern such as ``"ckpt/*.pt"``, a folder, or a list: files of safetensors or ``torch.save``, checkpoints
            of Lightning, and folders of transformers such as checkpoint-500. No code in them runs.
        batches: The training samples, as ``measure`` takes them; iterated over once per checkpoint or twice.
        num_classes: Number of classes, K.
        out: The run directory: new, or that of an earlier call with the same arguments and the same samples.
        test: Samples of a test split, decided by the class means of the training samples under the same checkpoint.
        unit: Read "epoch" or "step" from the names. None prefers epochs, if they are whole; a number without a word counts as
            an epoch.
        counts_from_zero: Whether epoch 0 in a name means one epoch trained. None says so of Lightning's names (epoch=0.ckpt)
            and of no others: their epoch 0 is before training.
        recipe: As in ``Recorder``.
        unsafe_pickle: As in ``load_network``.
        progress: True writes a line per checkpoint to stderr, with the time left; or a function of (done, total, words).
        **options: Arguments of ``measure``; ``path`` is True by default, unless no two layers in a row have one dimension.

    Returns:
        The run directory.

    Raises:
        ValueError: If there is no checkpoint, a name does not say when it was saved, two say the same, one does not fit the
            model, or the folder holds something else; and as ``measure``.
        OSError: If a file cannot be read or written.

    Example:
        >>> import tempfile, torch
        >>> from ncollapse.records import read_run
        >>> net, folder = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), Path(tempfile.mkdtemp())
        >>> for epoch in (1, 2):
        ...     torch.save(net.state_dict(), folder / f"epoch_{epoch}.pt")
        >>> batches = [(torch.randn(8, 4), torch.arange(8) % 2)]
        >>> run = measure_checkpoints(net, folder / "*.pt", batches, num_classes=2, out=folder / "run")
        >>> read_run(run).epochs
        (1, 2)
    """
    unit, found = timed_checkpoints(find_checkpoints(checkpoints), unit, counts_from_zero=counts_from_zero)
    model, measurer = network_of(model), Measurer(1, None, (), {"num_classes": num_classes, **options}, prefers_path=True)
    # The data's name may be in the recipe: a folder holds measurements of one data set.
    arguments = measurer.arguments() | {"network": type(model).__name__, "test": str(test is not None)}
    arguments |= dict(flatten_settings(recipe or {}))
    source = RecordedSource(unit, found[-1].time, arguments, dict(recipe or {}), {"checkpoints": str(checkpoints)})
    run = RecordedRun(out, source, resume=True)
    report, started, done = _lines if progress is True else progress or (lambda *_: None), time.monotonic(), 0
    own_weights = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    try:
        for index, checkpoint in enumerate(found):
            place = RecordedTime(checkpoint.time, checkpoint.step, None, checkpoint.name, _sha256(checkpoint.file))
            if (known := run.times.get(place.time)) is not None and known.sha256 == place.sha256:
                report(index + 1, len(found), f"{checkpoint.name}: measured before")
                continue
            load_weights(checkpoint.file, model, unsafe_pickle=unsafe_pickle)
            measured = measurer.record_splits(model, batches, test, epoch=place.time, step=place.step, processes=Processes())
            run.add(place, measured, network=model)
            done += 1
            left = _clock((time.monotonic() - started) / done * (len(found) - index - 1))
            report(index + 1, len(found), f"{checkpoint.name}: {unit} {place.time}; {left} left")
    finally:
        model.load_state_dict(own_weights)
        run.finish("finished" if all(item.time in run.times for item in found) else "stopped")
    return run.path


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def _lines(done: int, total: int, words: str) -> None:
    print(f"{done} of {total}: {words}", file=sys.stderr)
