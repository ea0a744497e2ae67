"""Training: a visible loop that yields one record per epoch, its schedule, its losses, its checkpoints."""

from ncollapse.recipes.training import TrainConfig
from ncollapse.records.rows import EpochRecord
from ncollapse.train.checkpoint import load_checkpoint, load_weights, resume_checkpoint, save_checkpoint
from ncollapse.train.epoch_part import EpochPart, TrainingStopped
from ncollapse.train.loop import TrainingDiverged, make_optimizer, train
from ncollapse.train.loss_based_rate import LossBasedRate, MarginRecord, train_by_loss
from ncollapse.train.schedule import lr_at, measuring_epochs, row_sum_factor, weight_decay_time
from ncollapse.train.single_samples import LogitPath, record_class_logits
from ncollapse.train.svag import SVAG, ou_variance
from ncollapse.train.weights_file import CheckpointError

__all__ = [
    "SVAG",
    "CheckpointError",
    "EpochPart",
    "EpochRecord",
    "LogitPath",
    "LossBasedRate",
    "MarginRecord",
    "TrainConfig",
    "TrainingDiverged",
    "TrainingStopped",
    "load_checkpoint",
    "load_weights",
    "lr_at",
    "make_optimizer",
    "measuring_epochs",
    "ou_variance",
    "record_class_logits",
    "resume_checkpoint",
    "row_sum_factor",
    "save_checkpoint",
    "train",
    "train_by_loss",
    "weight_decay_time",
]
