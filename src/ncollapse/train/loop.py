"""The training loop: an iterator that trains one epoch a step. Between two steps the caller may measure or save the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ncollapse.data import Batches, LabeledData, shuffled_batches
from ncollapse.recipes.training import TrainConfig
from ncollapse.records.rows import EpochRecord
from ncollapse.train.coding_rate_loss import coding_rate_loss
from ncollapse.train.decayed import parameters_and_decay
from ncollapse.train.epoch_part import EpochPart, Step, TrainingStopped
from ncollapse.train.execution import Network, check_execution, execution, logits_of
from ncollapse.train.lbfgs import LBFGSWithDecay, in_float64
from ncollapse.train.losses import Loss, batch_loss
from ncollapse.train.parallel import Team, share_batch_norm
from ncollapse.train.schedule import lr_at

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


class TrainingDiverged(ValueError):
    """A loss or a gradient is no longer finite. The model is lost, but the last checkpoint is whole."""


class DecoupledSGD(torch.optim.SGD):
    """SGD whose weight decay multiplies the weights and never enters the momentum (SGDW, Loshchilov & Hutter 2019)."""

    def __init__(self, groups: list[dict[str, Any]], **options: Any) -> None:
        # SGD itself sees no weight decay: it would add it to the gradient, and so to the momentum.
        decoupled = [{**group, "weight_decay": 0.0, "decoupled_decay": group["weight_decay"]} for group in groups]
        super().__init__(decoupled, **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Decay, then take the step of SGD."""
        for group in self.param_groups:
            factor = 1 - group["lr"] * group["decoupled_decay"]
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(factor)
        return super().step(closure)


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return the optimizer of a run; ``train`` sets its learning rate in every epoch.

    SGD, Adam and L-BFGS have the decay in the gradient; AdamW and SGDW decouple the two. One group of parameters is decayed,
    those that ``decay`` names. The rest, if any, is a second group without decay.
    """
    trainable = parameters_and_decay(model, config)
    decayed = [parameter for parameter, decays in trainable if decays]
    others = [parameter for parameter, decays in trainable if not decays]
    groups: list[dict[str, Any]] = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # One kernel for the whole update, where torch has one. For narrow networks it needs a third of the time of the default.
    fused = all(parameter.device.type in {"cpu", "cuda"} for parameter, _ in trainable)
    if config.optimizer == "lbfgs":
        return LBFGSWithDecay(groups, config.learning_rate, config.iterations)
    if config.optimizer in {"adam", "adamw"}:
        adam = torch.optim.Adam if config.optimizer == "adam" else torch.optim.AdamW
        return adam(groups, lr=config.learning_rate, betas=(config.momentum, 0.999), fused=fused)
    sgd = torch.optim.SGD if config.optimizer == "sgd" else DecoupledSGD
    return sgd(groups, lr=config.learning_rate, momentum=config.momentum, fused=fused)


def train(
    model: nn.Module,
    data: LabeledData,
    config: TrainConfig,
    *,
    seed: int,
    optimizer: torch.optim.Optimizer | None = None,
    start_epoch: int = 1,
    part: EpochPart | None = None,
    should_stop: Callable[[], bool] | None = None,
    group: ProcessGroup | None = None,
) -> Iterator[EpochRecord]:
    """Train a model in place, epoch by epoch.

    Nothing happens until the iterator is advanced. Between two records the caller may measure the model, switch it
    to ``eval()``, or save it with the optimizer; every epoch begins with ``model.train()``. The order of the samples
    depends on the seed and the epoch alone, so a run resumed from a checkpoint equals the uninterrupted one, to the bit
    on one thread, for models that draw no random numbers themselves.

    Args:
        model: Maps inputs (B, d) to logits (B, num_classes).
        data: The training set, on any device; batches are moved to the model's.
        seed: Decides the order of the samples, 0 or more.
        optimizer: From ``make_optimizer``, for callers that save or restore checkpoints; None makes one.
        start_epoch: The first epoch to run, counted from 1: one more than the epoch of the checkpoint resumed from.
            ``config.epochs + 1`` runs none.
        part: The part of ``start_epoch`` that a stopped training has done, from its ``TrainingStopped`` or its checkpoint.
        should_stop: Asked after every batch and before the first one of an epoch. Once it is true, the iterator raises
            ``TrainingStopped``; of several processes one is enough, and all stop after the same batch, the next one at latest.
        group: Processes of ``torch.distributed`` that train one network, such as ``torch.distributed.group.WORLD``. Each needs
            the same data and the same weights at the start, and takes its share of every batch. Gradients and batch
            normalization are those of the whole batch, so all end with the weights of a single process, within rounding. The
            model's batch normalizations are replaced by ones that share their batch.

    Returns:
        An iterator over the records of epochs ``start_epoch`` to ``config.epochs``.

    Raises:
        ValueError: If there are no samples, the last batch is too small for batch normalization, the start epoch is
            out of range, deterministic or compiled training is not possible here (what the machine lacks shows while
            iterating), or (while iterating) the model's output has the wrong shape.
        TrainingDiverged: While iterating, if a loss or gradient of the epoch was not finite.
        TrainingStopped: While iterating, if ``should_stop`` said so.

    Example:
        >>> from ncollapse.data import gaussian_mixture
        >>> data = gaussian_mixture(num_classes=2, dim=3, per_class=8)
        >>> config = TrainConfig(epochs=3, batch_size=4)
        >>> [record.epoch for record in train(torch.nn.Linear(3, 2), data, config, seed=0)]
        [1, 2, 3]
    """
    _check_run(model, data, config, start_epoch)
    team, device = Team(group), next(model.parameters()).device
    check_execution(config, device, team)
    share_batch_norm(model, team)
    optimizer = make_optimizer(model, config) if optimizer is None else optimizer
    loss = batch_loss(config, torch.bincount(data.labels, minlength=data.num_classes))
    network = logits_of(model, config, device)
    training = _Training(model, network, data, config, loss, optimizer, seed, team, should_stop or (lambda: False))
    run_epoch = execution(config)(training.run_epoch)
    begun = {} if part is None else {start_epoch: part}
    return (run_epoch(epoch, begun.get(epoch, EpochPart.empty())) for epoch in range(start_epoch, config.epochs + 1))


def _check_run(model: nn.Module, data: LabeledData, config: TrainConfig, start_epoch: int) -> None:
    if data.num_samples == 0:
        raise ValueError(f"training needs samples, got none in '{data.name}'. Load some, or a larger shard.")
    ends_with_one = config.batch_size == 1 or data.num_samples % config.batch_size == 1
    if ends_with_one and not _takes_one_sample(model, data):
        raise ValueError(
            f"batch normalization needs 2 samples or more in every batch, got a last batch of 1 from {data.num_samples} "
            f"samples in batches of {config.batch_size}. Change batch_size, or leave out a sample."
        )
    if config.optimizer == "lbfgs" and config.batch_size < data.num_samples:
        raise ValueError(
            f"train.optimizer=lbfgs takes all samples in one batch, got a batch_size of {config.batch_size} for "
            f"{data.num_samples} samples. Set train.batch_size=1000000."
        )
    if not 1 <= start_epoch <= config.epochs + 1:
        raise ValueError(
            f"start_epoch must be in [1, {config.epochs + 1}] for a run of {config.epochs} epochs, got {start_epoch}. "
            "Pass 1 to begin, or the checkpoint's epoch + 1 to resume."
        )


def _takes_one_sample(model: nn.Module, data: LabeledData) -> bool:
    """Test whether the model trains on one sample: batch normalization needs two values per channel; an image may have them."""
    device = next(model.parameters()).device
    with torch.no_grad(), torch.random.fork_rng():
        try:
            alone = copy.deepcopy(model).train()
            share_batch_norm(alone, Team())
            alone(data.inputs[:1].to(device))
        except ValueError as error:
            # Any other error comes in larger batches too, and training will raise it.
            return "more than 1 value per channel" not in str(error)
    return True


@dataclass(frozen=True, eq=False)
class _Training:
    """What all epochs share."""

    model: nn.Module
    network: Network
    data: LabeledData
    config: TrainConfig
    loss: Loss
    optimizer: torch.optim.Optimizer
    seed: int
    team: Team
    should_stop: Callable[[], bool]

    def run_epoch(self, epoch: int, part: EpochPart) -> EpochRecord:
        """Train on the batches of an epoch that are left after the part that was done before."""
        learning_rate = lr_at(self.config, epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        self.model.train()
        balanced = self.config.balance == "sampling"
        batches = shuffled_batches(self.data, self.config.batch_size, self.seed, epoch, balanced=balanced)
        # Kept as tensors until the epoch ends: reading a number from a GPU makes it wait.
        steps: list[Step] = []
        stopping = self.team.agree(self.should_stop())
        with coding_rate_loss(self.model, self.loss) if self.config.loss == "mcr2" else nullcontext(self.loss) as loss:
            for number, (inputs, labels) in enumerate(islice(batches, len(part), None), start=len(part) + 1):
                if stopping:
                    break
                self.team.place = f"epoch {epoch}, batch {number}"
                step, stopping = self._step(loss, parameters, inputs, labels)
                steps.append(step)
        part = part.followed_by(steps, self.team)
        _check_finite(part, epoch, learning_rate)
        if stopping:
            raise TrainingStopped(epoch, part, len(Batches(self.data, self.config.batch_size)))
        return self._record(epoch, part, learning_rate)

    def _step(self, loss_of: Loss, parameters: list[nn.Parameter], inputs: Tensor, labels: Tensor) -> tuple[Step, bool]:
        """Take one step of the optimizer on a batch, and return whether to stop after it."""
        team, size, device = self.team, len(labels), parameters[0].device
        inputs, labels = team.share(inputs).to(device), team.share(labels).to(device)
        seen: list[Step] = []
        stopping = False

        def evaluate() -> Tensor:
            nonlocal stopping
            self.optimizer.zero_grad()
            logits = self.network(inputs)
            _check_logits(logits, labels, self.data)
            loss = team.loss(loss_of, logits, labels, size)
            loss.backward()
            stopping = team.sum_gradients(parameters, self.should_stop())
            norm = _clip(parameters, self.config.clip_norm)
            seen.append((loss.detach(), norm, (logits.detach().argmax(dim=1) == labels).sum()))
            return loss.detach()

        # L-BFGS evaluates several times for one step. As for the others, the loss before the step is recorded.
        if isinstance(self.optimizer, LBFGSWithDecay):
            inputs = inputs.double() if inputs.is_floating_point() else inputs
            with in_float64(self.model):
                self.optimizer.descend(evaluate)
        else:
            evaluate()
            self.optimizer.step()
        return seen[0], stopping

    def _record(self, epoch: int, part: EpochPart, learning_rate: float) -> EpochRecord:
        sizes = [len(labels) for _, labels in Batches(self.data, self.config.batch_size)]
        return EpochRecord(
            epoch=epoch,
            loss=float(part.losses @ torch.tensor(sizes, dtype=torch.float64)) / self.data.num_samples,
            accuracy=int(part.correct.sum()) / self.data.num_samples,
            learning_rate=learning_rate,
            grad_norm=float(part.norms.mean()),
        )


def _check_logits(logits: Tensor, labels: Tensor, data: LabeledData) -> None:
    if logits.shape != (len(labels), data.num_classes):
        raise ValueError(
            f"the model must give logits of shape ({len(labels)}, {data.num_classes}) for '{data.name}', got "
            f"{tuple(logits.shape)}. Build it with num_classes={data.num_classes}."
        )


def _clip(parameters: list[nn.Parameter], clip_norm: float | None) -> Tensor:
    """Scale the whole gradient down to ``clip_norm`` if it is longer, and return its norm before."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = nn.utils.get_total_norm(gradients, foreach=True)
    if clip_norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm, foreach=True)
    return norm


def _check_finite(part: EpochPart, epoch: int, learning_rate: float) -> None:
    broken = ~(torch.isfinite(part.losses) & torch.isfinite(part.norms))
    if broken.any():
        batch = int(broken.nonzero()[0])
        raise TrainingDiverged(
            f"training needs finite losses and gradients, got loss {float(part.losses[batch]):g} and gradient norm "
            f"{float(part.norms[batch]):g} in epoch {epoch}, batch {batch + 1} of {len(part)}, at learning rate "
            f"{learning_rate:g}. Lower learning_rate, clip gradients (clip_norm=1.0), or scale the inputs "
            "(scaling='norm64')."
        )
