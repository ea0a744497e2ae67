"""A callback for Lightning: neural collapse of the training set at the end of chosen epochs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ncollapse.extras import missing_extra
from ncollapse.groups import all_processes
from ncollapse.integrations.loaders import share_of
from ncollapse.integrations.logs import scalars
from ncollapse.integrations.recording import Every, Logs, Measurer, Network
from ncollapse.integrations.recording_callback import RecordingCallback

try:
    from lightning.pytorch import Callback
    from lightning.pytorch.strategies import DDPStrategy
except ModuleNotFoundError:
    try:
        from pytorch_lightning import Callback
        from pytorch_lightning.strategies import DDPStrategy
    except ModuleNotFoundError as error:
        raise ImportError(missing_extra("NeuralCollapseCallback", "lightning", "lightning")) from error


class NeuralCollapseCallback(RecordingCallback, Callback):
    """Measure the training set at the end of chosen epochs, without influence on the training.

    The network runs in eval mode over every training sample once. Modes, random states, the training's loader and its steps
    stay as they are, so that the trained weights are the same to the bit. Values go to the log, and to the module's loggers
    under ``nc/<layer>/<metric>``, where checkpoints and early stopping can monitor them. Under DDP each process measures its
    share.

    Args:
        num_classes: Number of classes, K.
        every: n measures after every n-th epoch and the last; "log" after epochs in growing steps, every one at first.
        loader: The data to measure. None uses the samples of the training loader, with its transforms. If these contain
            augmentation, pass a loader without it. For the samples of another split also pass ``split=``.
        network: The network in the module: an attribute's name such as "net", a function of the module, or None for the
            module itself, whose ``forward`` is then called with the inputs.
        log: A file that ends in .csv or .jsonl, a log (``CSVLog``, ``TensorBoardLog``, anything called with
            (measurement, epoch=, step=)), or several; None writes neural_collapse.csv in the trainer's log folder, or nothing
            if ``out`` is given. A file that holds another table is left as it is, and one beside it is used.
        out: A folder, such as "runs/mine", that becomes a run directory, of which ``ncollapse report`` makes a page; see
            ``ncollapse.Recorder``. It is continued if the training is; a folder that holds something else is left as it is.
        recipe: As in ``ncollapse.Recorder``.
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
        loader: Any = None,
        network: Network = None,
        log: Logs = None,
        out: str | Path | None = None,
        recipe: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        Callback.__init__(self)
        given = {"num_classes": num_classes, **options}
        RecordingCallback.__init__(self, Measurer(every, network, log, given, prefers_path=out is not None), out, recipe)
        self._loader = loader

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check that the training can be measured, and create the log, before the training starts."""
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise TypeError(
                f"The callback needs the whole network on every process, as with DDP, got {type(trainer.strategy).__name__}. "
                "Measure a checkpoint with ncollapse.measure."
            )
        self._measurer.is_due(1, trainer.max_epochs)
        # Not in a condition: every process must ask for it, as it is that of the first.
        folder = trainer.log_dir or trainer.default_root_dir
        if not trainer.fast_dev_run:
            self.begin_log(folder, all_processes(trainer.world_size), resume=trainer.ckpt_path is not None)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the run directory; the optimizers are made by now."""
        if not trainer.fast_dev_run:
            optimizer = trainer.optimizers[0] if len(trainer.optimizers) == 1 else None
            total = trainer.max_epochs if (trainer.max_epochs or -1) > 0 else None
            self.begin_run("epoch", total, pl_module, optimizer, resume=trainer.ckpt_path is not None)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, if it is due."""
        epoch = trainer.current_epoch + 1
        if not self._measurer.is_due(epoch, trainer.max_epochs):
            self.record_time(epoch, step=trainer.global_step)
            return
        precision = trainer.precision_plugin
        with precision.forward_context():
            measured = self._measurer.record(
                pl_module,
                self._batches(trainer),
                epoch=epoch,
                step=trainer.global_step,
                processes=all_processes(trainer.world_size),
                prepare=lambda batch: _transferred(trainer, batch),
            )
        self.record_time(epoch, measured, step=trainer.global_step)
        pl_module.log_dict(scalars(measured), sync_dist=trainer.world_size > 1)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Mark the run as finished."""
        self.end_run()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Note why the run ended."""
        self.end_run(exception)

    def _batches(self, trainer: Any) -> Any:
        if self._loader is not None and trainer.world_size == 1:
            return self._loader
        loader = trainer.train_dataloader if self._loader is None else self._loader
        return share_of(loader, all_processes(trainer.world_size))


def _transferred(trainer: Any, batch: Any) -> Any:
    """Prepare a batch as the trainer does for a training step, with the hooks of the module or the data module."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)
