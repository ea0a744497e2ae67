"""A callback for the Trainer of Hugging Face transformers: neural collapse of the training set at chosen times."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from ncollapse.extras import missing_extra
from ncollapse.groups import all_processes
from ncollapse.integrations.loaders import share_of
from ncollapse.integrations.logs import scalars
from ncollapse.integrations.recording import Every, Logs, Network, Recorder, RecordingCallback

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
            (measurement, epoch=, step=)), or several; None writes neural_collapse.csv in the trainer's output folder.
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
        report: Callable[[dict[str, float]], None] | None = None,
        **options: Any,
    ) -> None:
        if unit not in get_args(Unit):
            raise ValueError(f"unit must be one of {', '.join(get_args(Unit))}, got {unit!r}.")
        if unit == "evaluation" and every == "log":
            raise ValueError("every='log' needs unit='epoch' or 'step', whose number is known, got 'evaluation'. Pass every=n.")
        self._recorder = Recorder(every, network, log, {"num_classes": num_classes, **options})
        self._unit, self._loader, self._report = unit, loader, report
        self._evaluations = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Check that the training can be measured, and create the log, before the training starts."""
        if args.deepspeed or args.fsdp:
            raise TypeError(
                "The callback needs the whole network on every process, got FSDP or DeepSpeed. "
                "Measure a checkpoint with ncollapse.measure."
            )
        if state.is_world_process_zero:
            self._recorder.open_log(args.output_dir, resume=state.global_step > 0)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if epochs are counted and it is due."""
        if self._unit == "epoch" and self._recorder.is_due(round(state.epoch), state.num_train_epochs):
            self._record(args, state, kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if steps are counted and it is due."""
        if self._unit == "step" and self._recorder.is_due(state.global_step, state.max_steps):
            self._record(args, state, kwargs)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Measure, if evaluations are counted and it is due."""
        self._evaluations += 1
        if self._unit == "evaluation" and self._recorder.is_due(self._evaluations, None):
            self._record(args, state, kwargs)

    def _record(self, args: Any, state: Any, held: dict[str, Any]) -> None:
        processes = all_processes(args.world_size)
        if self._loader is not None and processes.size == 1:
            batches = self._loader
        else:
            batches = share_of(held["train_dataloader"] if self._loader is None else self._loader, processes)
        writes = state.is_world_process_zero
        measured = self._recorder.record(
            held["model"], batches, epoch=state.epoch, step=state.global_step, group=processes.group, writes=writes
        )
        if self._report is not None:
            self._report(scalars(measured))
