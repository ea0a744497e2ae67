"""A callback for Lightning: neural collapse of the training set at the end of chosen epochs."""

from __future__ import annotations

from typing import Any

from ncollapse.extras import missing_extra
from ncollapse.groups import all_processes
from ncollapse.integrations.loaders import share_of
from ncollapse.integrations.logs import scalars
from ncollapse.integrations.recording import Every, Logs, Network, Recorder, RecordingCallback

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
            (measurement, epoch=, step=)), or several; None writes neural_collapse.csv in the trainer's log folder.
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
        **options: Any,
    ) -> None:
        super().__init__()
        self._recorder = Recorder(every, network, log, {"num_classes": num_classes, **options})
        self._loader = loader

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Check that the training can be measured, and create the log, before the training starts."""
        if trainer.world_size > 1 and not isinstance(trainer.strategy, DDPStrategy):
            raise TypeError(
                f"The callback needs the whole network on every process, as with DDP, got {type(trainer.strategy).__name__}. "
                "Measure a checkpoint with ncollapse.measure."
            )
        self._recorder.is_due(1, trainer.max_epochs)
        folder = trainer.log_dir or trainer.default_root_dir
        if trainer.is_global_zero and not trainer.fast_dev_run:
            self._recorder.open_log(folder, resume=trainer.ckpt_path is not None)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, if it is due."""
        epoch = trainer.current_epoch + 1
        if not self._recorder.is_due(epoch, trainer.max_epochs):
            return
        precision = trainer.precision_plugin
        with precision.forward_context():
            measured = self._recorder.record(
                pl_module,
                self._batches(trainer),
                epoch=epoch,
                step=trainer.global_step,
                group=all_processes(trainer.world_size).group,
                writes=trainer.is_global_zero,
                prepare=lambda batch: _transferred(trainer, batch),
            )
        pl_module.log_dict(scalars(measured), sync_dist=trainer.world_size > 1)

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
