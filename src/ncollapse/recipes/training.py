"""The part of a recipe that says how a network is trained."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from ncollapse.recipes.checks import check_choices

Decay = Literal["weights", "all"]
LossName = Literal["cross_entropy", "mse", "dot_regression", "mcr2"]
OptimizerName = Literal["sgd", "adam", "sgdw", "adamw", "lbfgs"]
# Their decay multiplies the weights and is no part of a gradient, so that they descend on no objective with weight decay.
DECOUPLED = frozenset({"sgdw", "adamw"})
Schedule = Literal["steps", "cosine"]
Balance = Literal["none", "sampling", "weights", "logits"]
Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class TrainConfig:
    """Gradient descent on the loss plus half the weight decay times the squared weights.

    Attributes:
        epochs: Passes over the data, 1 or more.
        batch_size: Samples in a step, 1 or more; the last batch of an epoch holds what is left. From the number of samples
            on, an epoch is one batch.
        learning_rate: The learning rate of the first epochs, more than 0.
        momentum: In [0, 1); plain, not Nesterov's. For ``adam`` it is the decay of the first moment; the second has 0.999.
        weight_decay: Added to the gradient as ``weight_decay * weight``, 0 or more; with ``adam`` too, so that both descend on
            one and the same objective. ``sgdw`` and ``adamw`` multiply the weights by ``1 - learning_rate * weight_decay``
            instead.
        decay: ``weights`` decays matrices and kernels only, no biases and no normalization parameters (deepest
            collapse); ``all`` decays every parameter.
        milestones: Fractions of ``epochs``, rising, in (0, 1): after ``floor(fraction * epochs)`` epochs (but after
            one at the earliest) the learning rate is multiplied by ``gamma``.
        gamma: In (0, 1].
        optimizer: ``sgd``, ``adam``, or these with decoupled weight decay: ``sgdw``, ``adamw``. ``lbfgs`` takes all samples in
            one batch and ``iterations`` with a line search per epoch, in float64, on the objective of ``sgd`` and ``adam``. The
            line search begins at ``learning_rate``; 1 is usual. Momentum has no effect.
        iterations: Of ``lbfgs`` in an epoch, 1 or more, before its memory is emptied; of no effect on the others. Some 200 come
            nearer to a minimum than ten times as many epochs of 20 do.
        schedule: ``steps`` at the milestones, or ``cosine``: half a period from the full learning rate in the first epoch to
            ``gamma`` times it in the last; milestones are then not used.
        clip_norm: Largest norm of the whole gradient, more than 0; None does not clip.
        loss: ``cross_entropy``, or ``mse`` against one-hot targets: half the squared distance, summed over classes,
            averaged over samples; ``dot_regression`` for networks with a fixed head. ``mcr2`` is minus the coding rate
            reduction of the features that the classifier takes, plus the cross-entropy of the classifier, which has no gradient
            in the features; batches should be large, some ten samples of each class or more.
        balance: A remedy for classes of unequal size. ``sampling``: an epoch has as many samples as before, but equally many
            of each class, so that those of small classes come several times. ``weights``: the loss of a sample is
            multiplied by N / (K n_k), n_k being the size of its class. ``logits``: the cross-entropy is that of the logits plus
            log(n_k / N) (Menon et al. 2021, ICLR); the network itself decides without them.
        checkpoint_every: Epochs between checkpoints, 1 or more.
        keep: How many checkpoints are kept with their tables, 1 or more. If the newest is damaged, a run goes on from the one
            before.
        precision: ``bfloat16`` computes products of the forward and backward pass in bfloat16, which is faster on GPUs that
            have it; weights, normalization, loss and steps stay in float32, measurements too. ``float32`` computes in the
            type of the network.
        deterministic: Whether steps use only deterministic operations of PyTorch and cuDNN. An operation without such an
            implementation ends the training. On CUDA the environment variable ``CUBLAS_WORKSPACE_CONFIG`` must be ``:4096:8``
            or ``:16:8`` from the start of the process on. Between epochs your own settings hold. Not run on a GPU
            yet.
        compiled: Whether steps run the network compiled by ``torch.compile``, on CUDA with CUDA graphs (not run on a GPU yet).
            The results equal those of the eager network within rounding. Measurements stay eager. Needs a C++ compiler and one
            process. The network is compiled once for each of the two batch sizes, which takes ten seconds or more, so it pays
            for long runs only, if at all. PyTorch keeps eight compiled networks of one class in a process and runs others
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
    keep: int = 2
    optimizer: OptimizerName = "sgd"
    iterations: int = 20
    schedule: Schedule = "steps"
    precision: Precision = "float32"
    deterministic: bool = False
    compiled: bool = False
    balance: Balance = "none"

    def __post_init__(self) -> None:
        self._check_choices_and_counts()
        self._check_numbers()

    def _check_choices_and_counts(self) -> None:
        check_choices("train", self)
        for field in ("epochs", "batch_size", "checkpoint_every", "keep", "iterations"):
            value = getattr(self, field)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"train.{field} must be an integer of 1 or more, got {value!r}. Pass such a number.")

        if self.balance == "logits" and self.loss != "cross_entropy":
            raise ValueError(
                f"train.balance=logits needs train.loss=cross_entropy, got {self.loss}. Balance by sampling or weights instead."
            )
        if self.optimizer == "lbfgs" and self.clip_norm is not None:
            raise ValueError(
                f"train.optimizer=lbfgs needs train.clip_norm=null, got {self.clip_norm}. A line search needs true gradients."
            )
        if self.optimizer == "lbfgs" and self.precision == "bfloat16":
            raise ValueError(
                "train.optimizer=lbfgs computes in float64, got train.precision=bfloat16. Leave the precision float32."
            )
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
