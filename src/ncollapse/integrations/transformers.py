"""A callback for the Trainer of Hugging Face transformers: neural collapse of the training set at chosen times."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from ncollapse.extras import missing_extra
from ncollapse.groups import all_processes
from ncollapse.integrations.loaders import share_of
from ncollapse.integrations.logs import scalars
from ncollapse.integrations.recording import Every, Logs, Measurer, Network
from ncollapse.integrations.recording_callback import RecordingCallback

try:
    from transformers import TrainerCallback
except ModuleNotFoundError as error:
    raise ImportError(missing_extra("NeuralCollapseCallback", "transformers", "text")) from error

Unit = Literal["epoch", "step", "evaluation"]


class NeuralCollapseCallback(RecordingCallback, TrainerCallback):
    """Measure the training set at chosen times, without influence on the training.

    The network runs in eval mode over every training sample once. The attention mask is respected, and the key ``labels`` (or
    ``label``) is the class. Modes, random states, the training's loader and its steps stay as they are, so that the trained
    weights are the same to the bit. With several processes each measures its share.

    Args:
        num_classes: Number of classes, K.
        every: n measures after every n-th unit (and the last); "log" in growing steps, every one at first.
        unit: The unit of ``every``: "epoch", "step" (of the optimizer), or "evaluation".
        loader: The data to measure; None uses the samples of the training loader, with its collation.
        network: The network in the model: an attribute's name, a function of the model, or None for the model itself.
        log: A file that ends in .csv or .jsonl, a log (``CSVLog``, ``TensorBoardLog``, anything called with
            (measurement, epoch=, step=)), or several; None writes neural_collapse.csv in the trainer's output folder, or
            nothing if ``out`` is given. A file that holds another table is left as it is, and one beside it is used.
        out: A folder, such as "runs/mine", that becomes a run directory, of which ``ncollapse report`` makes a page; see
            ``ncollapse.Recorder``. It is over epochs, or over steps for the other units. It is continued if the training is; a
            folder that holds something else is left as it is. With ``max_steps`` it is over steps, whatever the unit is, since
            such a training may end inside an epoch.
        recipe: As in ``ncollapse.Recorder``.
        report: A function that is also called with the values by ``nc/<layer>/<metric>``. With ``trainer.log`` they reach the
            trainer's history and its loggers: ``trainer.add_callback(NeuralCollapseCallback(..., report=trainer.log))``.
        **options: Arguments of ``ncollapse.measure``: layers, classifier, unpack, metrics, convention, path, …

    Raises:
        ValueError: If an argument is invalid.
        TypeError: If ``measure`` has no such argument.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        every: Every = 1,
        unit: Unit = "epoch",
        loader: Any = None,
        network: Network = None,
        log: Logs = None,
        out: str | Path | None = None,
        recipe: Mapping[str, Any] | None = None,
        report: Callable[[dict[str, float]], None] | None = None,
        **options: Any,
    ) -> None:
        if unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}. Pick one of these.")
        if unit == "evaluation" and every == "log":
            raise ValueError("every='log' needs unit='epoch' or 'step', whose number is known, got 'evaluation'. Pass every=n.")
        given = {"num_classes": num_classes, **options}
        super().__init__(Measurer(every, network, log, given, prefers_path=out is not None), out, recipe)
        self._unit, self._loader, self._report = unit, loader, report
        self._evaluations = 0
        self._counted: Literal["epoch", "step"] = "epoch"

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the training can be measured, and create the log, before the training starts."""
        if args.deepspeed or args.fsdp:
            raise TypeError(
                "The callback needs the whole network on every process, got FSDP or DeepSpeed. "
                "Measure a checkpoint with ncollapse.measure."
            )
        self.begin_log(args.output_dir, all_processes(args.world_size), resume=state.global_step > 0)
        self._counted = "epoch" if self._unit == "epoch" and args.max_steps <= 0 else "step"
        total = state.num_train_epochs if self._counted == "epoch" else state.max_steps
        self.begin_run(self._counted, total, kwargs["model"], kwargs.get("optimizer"), resume=state.global_step > 0)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if epochs are counted and it is due."""
        if self._unit != "epoch":
            return
        if self._measurer.is_due(_begun(state.epoch), state.num_train_epochs):
            self._record(args, state, kwargs)
        else:
            self.record_time(self._time(state), step=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if steps are counted and it is due."""
        if self._unit == "step" and self._measurer.is_due(state.global_step, state.max_steps):
            self._record(args, state, kwargs)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if evaluations are counted and it is due."""
        self._evaluations += 1
        if self._unit == "evaluation" and self._measurer.is_due(self._evaluations, None):
            self._record(args, state, kwargs)

    def _record(self, args: Any, state: Any, held: dict[str, Any]) -> None:
        processes = all_processes(args.world_size)
        if self._loader is not None and processes.size == 1:
            batches = self._loader
        else:
            batches = share_of(held["train_dataloader"] if self._loader is None else self._loader, processes)
        place = {"epoch": state.epoch, "step": state.global_step, "processes": processes}
        measured = self._measurer.record(held["model"], batches, **place)
        self.record_time(self._time(state), measured, step=state.global_step, epoch=state.epoch)
        if self._report is not None:
            self._report(scalars(measured))

    def _time(self, state: Any) -> int:
        return _begun(state.epoch) if self._counted == "epoch" else int(state.global_step)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Mark the run as finished."""
        self.end_run()


def _begun(epoch: float) -> int:
    """Return the number of epochs that were begun: a training may end inside its last one."""
    return math.ceil(epoch - 1e-6)
