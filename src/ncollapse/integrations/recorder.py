"""The recorder: one's own training loop becomes a run directory, with its page, comparisons and claims."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import Tensor, nn

from ncollapse.default_device import on_the_cpu
from ncollapse.error_words import error_line
from ncollapse.groups import Processes
from ncollapse.integrations.recorded_run import RecordedRun, RecordedSource, recipe_of
from ncollapse.integrations.recording import Measurer, network_in
from ncollapse.integrations.step_clock import StepClock
from ncollapse.measurement.measurement import Measurement
from ncollapse.records.rows import EpochRecord
from ncollapse.records.run_files import RecordedTime
from ncollapse.train.schedule import is_measuring_epoch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class Recorder:
    """Record a training of your own as a run directory, of which ``ncollapse report`` makes a page.

    Call ``epoch`` at the end of every epoch, before you save your own checkpoint. The network is measured at epochs in growing
    steps, and everything is on the disk when the call returns: a training that is killed at any moment, and goes on from its
    checkpoint with ``resume=True``, ends with the table of one that was not. The training is not influenced.

    Args:
        out: The folder. If it holds something and ``resume`` is False, a new one is made beside it: ``runs/mine-2``.
        model: The network.
        num_classes: Number of classes, K.
        epochs: The last epoch. It is measured, and ends the run. Before it epochs 0, 1, 2, … are measured, at distances that
            grow by 9 percent. If None, ``finish`` ends the run.
        every: Measure after every n-th epoch instead, and after the last.
        optimizer: The optimizer of the training. A hook counts its steps, which gives the learning rate, and with SGD the
            weight-decay time τ (docs/theory.md, 4.1); its settings become part of the recipe.
        class_names: Names of the K classes, which the page shows; None numbers them.
        recipe: Settings of the training for pages, comparisons and claims, nested as you like: ``{"seed": 0, "title": "My net",
            "model": {"connections": "residual"}, "train": {"loss": "cross_entropy"}}``. Claims name the fields that they need.
        resume: Continue the recording in the folder, if there is one, from the epoch of the first call on.
        group: Processes of ``torch.distributed`` that share the data, as in ``measure``; the first of them writes.
        **options: Arguments of ``measure``: layers, classifier, classes, unpack, metrics, convention, … ``path`` is True by
            default, unless no two layers in a row have one dimension.

    Raises:
        ValueError: If an argument is invalid, or the folder cannot be continued; before any training.
        TypeError: If ``measure`` has no such argument.
        OSError: If the folder cannot be written to.

    Example:
        >>> import tempfile, torch
        >>> net = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> data = [(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]), torch.tensor([0, 1, 0]))]
        >>> with Recorder(f"{tempfile.mkdtemp()}/mine", net, num_classes=2, epochs=10) as recorder:
        ...     measured = recorder.epoch(0, data)
        >>> measured.layers
        ('1',)
    """

    def __init__(
        self,
        out: str | Path,
        model: nn.Module,
        *,
        num_classes: int,
        epochs: int | None = None,
        every: int | None = None,
        optimizer: Any = None,
        class_names: Sequence[str] | None = None,
        recipe: Mapping[str, Any] | None = None,
        resume: bool = False,
        group: ProcessGroup | None = None,
        **options: Any,
    ) -> None:
        if epochs is not None and (isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1):
            raise ValueError(
                f"epochs must be an integer, at least 1, or None, got {epochs!r}. Pass the number of the last epoch."
            )
        if class_names is not None and len(class_names) != num_classes:
            raise ValueError(
                f"class_names must name all {num_classes} classes, got {len(class_names)} names. Pass one for each."
            )
        self._epochs, self._every, self._model = epochs, every, network_in(model, None)
        given = {"num_classes": num_classes, **options}
        self._measurer = Measurer(1 if every is None else every, None, (), given, prefers_path=True)
        arguments = {**self._measurer.arguments(), "network": type(self._model).__name__}
        names = () if class_names is None else tuple(map(str, class_names))
        self._processes = Processes(group, "recording the training")
        self._clock: StepClock | None = None
        self._run: RecordedRun | None = None
        with self._processes.sharing_errors():
            if self._processes.is_first:
                self._clock = None if optimizer is None else StepClock(optimizer)
                source = RecordedSource("epoch", epochs, arguments, recipe_of(recipe, self._clock), class_names=names)
                self._run = RecordedRun(out, source, resume=resume, clock=self._clock)

    @property
    def path(self) -> Path | None:
        """The folder; None in processes that do not write."""
        return None if self._run is None else self._run.path

    @property
    def last(self) -> Measurement | None:
        """The last measurement of the training set."""
        return self._measurer.last

    def is_due(self, epoch: int) -> bool:
        """Return whether ``epoch`` will measure after this epoch; if not, you need no loader.

        Args:
            epoch: Epochs trained.
        """
        if self._every is not None:
            return epoch == 0 or self._measurer.is_due(epoch, self._epochs)
        return is_measuring_epoch(epoch, self._epochs)

    @on_the_cpu
    def epoch(
        self,
        epoch: int,
        loader: Iterable[Any],
        *,
        loss: float | None = None,
        accuracy: float | None = None,
        lr: float | None = None,
        grad_norm: float | None = None,
        test: Iterable[Any] | None = None,
    ) -> Measurement | None:
        """Record the end of an epoch, and measure the network if it is due.

        Args:
            epoch: Epochs trained; 0 is before training.
            loader: The training samples, each once and without augmentation, as ``measure`` takes them.
            loss: Mean loss of the epoch, for the history.
            accuracy: Share of samples that were right during the epoch, for the history.
            lr: Learning rate; None takes the mean over the steps of the optimizer, if it is known.
            grad_norm: Mean norm of the gradient.
            test: Samples of a test split, measured too and decided by the class means of the training samples of this epoch.

        Returns:
            The measurement of the training samples; None if the epoch is not measured.

        Raises:
            ValueError: If the epoch is not a whole number, at least 0, or the accuracy no share; and as ``measure``.
            OSError: If the folder cannot be written to.
        """
        if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 0:
            # Of a loader in the place of the epoch the type alone is said: a list of batches is long.
            got = repr(epoch) if isinstance(epoch, int | float) else f"a {type(epoch).__name__}"
            raise ValueError(
                f"epoch must be an integer, at least 0, got {got}. Pass the number of epochs trained, and then the loader."
            )
        if accuracy is not None and (accuracy < 0 or accuracy > 1):
            raise ValueError(f"`accuracy` must be a share in [0, 1], got {float(accuracy):g}. Divide percentages by 100.")
        with self._processes.sharing_errors():
            if self._run is not None:
                self._run.go_to(epoch)
        place: dict[str, Any] = {"epoch": epoch, "step": None, "processes": self._processes}
        measured = self._measurer.record_splits(self._model, loader, test, **place) if self.is_due(epoch) else []
        with self._processes.sharing_errors():
            if self._run is not None:
                rate = None if self._clock is None else self._clock.end_epoch()
                given = (loss, accuracy, rate if lr is None else lr, grad_norm)
                self._run.add(self._place(epoch), measured, history=_history(epoch, given), network=self._model)
        return measured[0] if measured else None

    def finish(self) -> None:
        """Mark the run as finished, where ``epochs`` was not given or not reached; steps are no longer counted."""
        self._end("finished")

    def __enter__(self) -> Self:
        """Return the recorder; ``finish`` is called at the end of the body, or the error noted that ended it."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if error is None:
            self._end("finished")
        elif isinstance(error, Exception):
            self._end("failed", error_line(error, "Use a smaller batch."))
        else:
            self._end("stopped", "interrupted")

    def _end(self, state: str, reason: str | None = None) -> None:
        with self._processes.sharing_errors():
            if self._run is not None:
                self._run.finish(state, reason)

    def _place(self, epoch: int) -> RecordedTime:
        return RecordedTime(epoch) if self._clock is None else RecordedTime(epoch, self._clock.step, self._clock.time)


def _history(epoch: int, given: Sequence[float | None]) -> EpochRecord | None:
    """Return a line of the history, which begins with the first epoch; what nobody said is nan."""
    # detach: float warns of a loss that still has its graph.
    said = (value.detach() if isinstance(value, Tensor) else value for value in given)
    return EpochRecord(epoch, *(math.nan if value is None else float(value) for value in said)) if epoch else None
