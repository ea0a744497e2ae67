"""How a run is trained: the config, the learning rate of every epoch, and the epochs worth measuring."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

from ncollapse.train.losses import LossName

__all__ = ["Decay", "OptimizerName", "Precision", "Schedule", "TrainConfig", "lr_at", "measuring_epochs", "weight_decay_time"]

Decay = Literal["weights", "all"]
OptimizerName = Literal["sgd", "adam"]
Schedule = Literal["steps", "cosine"]
Precision = Literal["float32", "bfloat16"]

# The ratio between measuring epochs. 350 epochs then give the list that the field uses (ratio 350**(1/66), rounded);
# only ratios within 1e-5 of this one do, a test holds it.
_EPOCH_RATIO = 1.09277


@dataclass(frozen=True)
class TrainConfig:
    """Gradient descent on the loss plus half the weight decay times the squared weights.

    Attributes:
        epochs: Passes over the data, 1 or more.
        batch_size: Samples in a step, 1 or more; the last batch of an epoch holds what is left. The number of samples, or more,
            is full batch.
        learning_rate: Of the first epochs, more than 0.
        momentum: In [0, 1); plain, not Nesterov's. With ``adam`` the decay of its first moment; that of the second is 0.999.
        weight_decay: Added to the gradient as ``weight_decay * weight``, 0 or more; with ``adam`` too, so that both descend on
            one and the same objective.
        decay: ``weights`` decays matrices and kernels only, no biases and no normalization parameters (deepest
            collapse); ``all`` decays every parameter.
        milestones: Fractions of ``epochs``, rising, in (0, 1): after ``floor(fraction * epochs)`` epochs (but after
            one at the earliest) the learning rate is multiplied by ``gamma``.
        gamma: In (0, 1].
        optimizer: ``sgd`` or ``adam``.
        schedule: ``steps`` at the milestones, or ``cosine``: half a period from the full learning rate in the first epoch to
            ``gamma`` times it in the last; milestones are then not used.
        clip_norm: Largest norm of the whole gradient, more than 0; None does not clip.
        loss: ``cross_entropy``, or ``mse`` against one-hot targets: half the squared distance, summed over classes,
            averaged over samples; ``dot_regression`` for networks with a fixed head.
        checkpoint_every: Epochs between checkpoints, 1 or more; read by whoever saves them.
        precision: ``bfloat16`` computes products of the forward and backward pass in bfloat16, which is faster on GPUs that
            have it; weights, normalization, loss and steps stay in float32, measurements too. ``float32`` computes in the
            type of the network.
        deterministic: Whether steps take deterministic operations of PyTorch only, and of cuDNN; an operation that has no such
            implementation ends the training. On CUDA the environment variable ``CUBLAS_WORKSPACE_CONFIG`` must be ``:4096:8``
            or ``:16:8`` from the start of the process on. The settings of before hold again between epochs. Not run on a GPU
            yet.
        compiled: Whether steps run the network as ``torch.compile`` makes it, on CUDA with CUDA graphs (not run on a GPU yet).
            Equal to the eager network within rounding; measurements stay eager. Needs a C++ compiler and one process. A
            network is compiled for each of the two sizes that batches have, which takes ten seconds or more, so it pays for
            long runs only, if at all; of networks of one class PyTorch keeps eight such codes in a process and runs others
            eagerly.

    Raises:
        ValueError: If a field is out of its range.
    """

    epochs: int = 150
    batch_size: int = 128
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-2
    decay: Decay = "weights"
    milestones: tuple[float, ...] = (1 / 3, 2 / 3)
    gamma: float = 0.1
    clip_norm: float | None = 1.0
    loss: LossName = "cross_entropy"
    checkpoint_every: int = 25
    optimizer: OptimizerName = "sgd"
    schedule: Schedule = "steps"
    precision: Precision = "float32"
    deterministic: bool = False
    compiled: bool = False

    def __post_init__(self) -> None:
        self._check_choices_and_counts()
        self._check_numbers()

    def _check_choices_and_counts(self) -> None:
        choice_fields = (
            ("decay", Decay),
            ("loss", LossName),
            ("optimizer", OptimizerName),
            ("schedule", Schedule),
            ("precision", Precision),
        )
        for field, choices in choice_fields:
            if getattr(self, field) not in get_args(choices):
                raise ValueError(
                    f"train.{field} must be one of {', '.join(get_args(choices))}, got {getattr(self, field)!r}. "
                    "Pick one of them."
                )
        for field in ("epochs", "batch_size", "checkpoint_every"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"train.{field} must be an integer of 1 or more, got {value!r}. Pass such a number.")

        for field in ("deterministic", "compiled"):
            if not isinstance(getattr(self, field), bool):
                raise ValueError(f"train.{field} must be true or false, got {getattr(self, field)!r}. Pass one of them.")

    def _check_numbers(self) -> None:
        rising = all(early < late for early, late in pairwise((0.0, *self.milestones, 1.0)))
        bounds = (
            ("learning_rate", "more than 0 and finite", 0 < self.learning_rate < math.inf, "Try 0.1."),
            ("momentum", "in [0, 1)", 0 <= self.momentum < 1, "Try 0.9."),
            ("weight_decay", "0 or more and finite", 0 <= self.weight_decay < math.inf, "Try 0.01."),
            ("milestones", "rising fractions of the epochs in (0, 1)", rising, "Try (1/3, 2/3), or () for no steps."),
            ("gamma", "in (0, 1]", 0 < self.gamma <= 1, "Try 0.1."),
            ("clip_norm", "more than 0, or None", self.clip_norm is None or self.clip_norm > 0, "Try 1.0."),
        )
        for field, needed, fits, advice in bounds:
            if not fits:
                raise ValueError(f"train.{field} must be {needed}, got {getattr(self, field)!r}. {advice}")


def lr_at(config: TrainConfig, epoch: int) -> float:
    """Learning rate of an epoch.

    Args:
        config: The run.
        epoch: Counted from 1. With 350 epochs and the default milestones, epochs 1 to 116 have the full rate, 117 to
            233 a tenth, 234 to 350 a hundredth.

    Returns:
        ``learning_rate * gamma ** (milestones passed)``, or the cosine.
    """
    if config.schedule == "cosine":
        share = (epoch - 1) / max(1, config.epochs - 1)
        return config.learning_rate * (config.gamma + (1 - config.gamma) * (1 + math.cos(math.pi * share)) / 2)
    # 1e-9: 0.29 of 100 epochs must be 29, not the 28 that binary fractions make of it. max: a run of one or two
    # epochs, as in smoke tests, must not begin at a hundredth of the rate.
    ends = (max(1, math.floor(fraction * config.epochs + 1e-9)) for fraction in config.milestones)
    return config.learning_rate * config.gamma ** sum(end < epoch for end in ends)


def weight_decay_time(config: TrainConfig, steps_per_epoch: int, epochs: int | None = None) -> float:
    r"""Weight-decay time of a run: how far it is into the terminal phase, more than its epochs or its accuracy say.

    .. math:: \tau = \sum_t \frac{\eta_t}{1 - \mu}\,\lambda

    over the steps t taken, with learning rate :math:`\eta`, momentum :math:`\mu` and weight decay :math:`\lambda`.
    Dimensionless; what the data does not hold up has shrunk by about :math:`e^{-\tau}`. Collapse is deep from 4 to 8 on.

    Args:
        config: The run.
        steps_per_epoch: Batches in an epoch, ``len(Batches(data, config.batch_size))``.
        epochs: Epochs that have passed; None takes all of the run.

    Returns:
        tau, 0 or more; nan with Adam, whose steps do not scale with the gradient.

    Example:
        >>> round(weight_decay_time(TrainConfig(), steps_per_epoch=14), 2)
        7.77
    """
    if config.optimizer != "sgd":
        return math.nan
    passed = config.epochs if epochs is None else epochs
    rates = math.fsum(lr_at(config, epoch) for epoch in range(1, passed + 1))
    return rates * steps_per_epoch * config.weight_decay / (1 - config.momentum)


def measuring_epochs(epochs: int) -> tuple[int, ...]:
    """Epochs after which collapse is measured: every one at first, then in steps of about 9 percent.

    Args:
        epochs: Length of the run, 1 or more.

    Returns:
        Rising, from 1 to ``epochs``: ``round(epochs / 1.09277**k)`` for k = 0, 1, ... without repetitions. About
        11 log2(epochs / 11) + 11 of them. Epoch 0, before training, is the caller's.

    Raises:
        ValueError: If there are no epochs.

    Reference:
        V. Papyan, X. Y. Han and D. L. Donoho (2020), PNAS 117(40): their notebook's list for 350 epochs.

    Example:
        >>> measuring_epochs(20)
        (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 17, 18, 20)
    """
    if epochs < 1:
        raise ValueError(f"measuring_epochs needs 1 epoch or more, got {epochs}. Pass the length of the run.")
    num_ratios = math.ceil(math.log(2 * epochs) / math.log(_EPOCH_RATIO))
    rounded = {round(epochs / _EPOCH_RATIO**power) for power in range(num_ratios)}
    return tuple(sorted(rounded - {0}))
