"""Training several networks of one shape as one batched computation: seeds and decays of a study, each as if alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from ncollapse.data import LabeledData, shuffled_order
from ncollapse.train.loop import EpochRecord, TrainingDiverged, check_finite, check_logits, check_run, make_optimizer
from ncollapse.train.losses import LossName, stacked_losses
from ncollapse.train.schedule import TrainConfig, lr_at

__all__ = ["train_together"]

# What batched steps can do.
COVERED = {"optimizer": "sgd", "precision": "float32", "deterministic": False, "compiled": False}
SHARED = ("epochs", "batch_size", "loss", *COVERED)
# As torch.nn.utils.clip_grads_with_norm_ has it.
_CLIP_EPS = 1e-6


class Stack(Protocol):
    """Networks computed as one, as ``ncollapse.models.FCResNetStack`` does it."""

    values: Tensor
    gradients: Tensor

    @property
    def networks(self) -> Sequence[nn.Module]:
        """The networks; their parameters are views of ``values``."""
        ...

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes logits (S, K, B) in training mode of inputs (S, B, d)."""
        ...

    def backward(self, gradient: Tensor) -> None:
        """Writes the gradients of the last ``forward``, from those of the losses with respect to the logits."""
        ...


def train_together(
    stack: Stack,
    data: LabeledData,
    configs: Sequence[TrainConfig],
    *,
    seeds: Sequence[int],
    optimizers: Sequence[torch.optim.Optimizer | None] | None = None,
    start_epoch: int = 1,
) -> Iterator[list[EpochRecord | TrainingDiverged]]:
    """Trains networks of one shape in place, all in one batched computation, each equal to ``train`` alone within rounding.

    Small networks spend their time on calls, not on arithmetic: one call for all of them pays for many networks of small width
    (``make bench`` says how much). Between two records every network and optimizer holds its own current state, to be measured
    or saved as after ``train``.

    Args:
        stack: The networks; other kinds than ``FCResNetStack`` takes are trained one after another.
        data: The training set of all.
        configs: One for each network; ``epochs``, ``batch_size`` and ``loss`` must be equal, the rest may differ; the optimizer
            must be ``sgd``, in float32, and steps neither deterministic nor compiled.
        seeds: Of each network's order of the samples.
        optimizers: From ``make_optimizer``, one for each network, for who saves or restores checkpoints; None makes them.
        start_epoch: As in ``train``, the same for all.

    Returns:
        An iterator over the epochs, with one record a network, in their order. A network whose loss is no longer finite
        gives the error instead, and is not to be used from then on; the others go on.

    Raises:
        ValueError: If configs or seeds do not fit the networks or each other, or as in ``train``.

    Example:
        >>> from ncollapse.data import gaussian_mixture
        >>> from ncollapse.models import FCResNet, FCResNetConfig, FCResNetStack
        >>> data = gaussian_mixture(num_classes=2, dim=3, per_class=8)
        >>> stack = FCResNetStack([FCResNet(FCResNetConfig(width=4), input_dim=3, num_classes=2, seed=s) for s in range(3)])
        >>> configs = [TrainConfig(epochs=2, batch_size=4, weight_decay=decay) for decay in (0.0, 1e-3, 1e-2)]
        >>> [len(records) for records in train_together(stack, data, configs, seeds=[0, 0, 0])]
        [3, 3]
    """
    networks = stack.networks
    if not len(networks) == len(configs) == len(seeds):
        raise ValueError(
            f"one config and one seed are needed for each network, got {len(networks)} networks, {len(configs)} configs and "
            f"{len(seeds)} seeds. Pass as many of each."
        )
    for field in SHARED:
        values = sorted({str(getattr(config, field)) for config in configs})
        if len(values) > 1:
            raise ValueError(f"networks that train together need one train.{field}, got {', '.join(values)}. Group them by it.")
    for field, needed in COVERED.items():
        if (came := getattr(configs[0], field)) != needed:
            raise ValueError(f"networks that train together need train.{field}={needed}, got {came}. Train one after another.")
    for network, config in zip(networks, configs, strict=True):
        check_run(network, data, config, start_epoch)
    given = [None] * len(networks) if optimizers is None else optimizers
    own = [
        make_optimizer(network, config) if optimizer is None else optimizer
        for network, config, optimizer in zip(networks, configs, given, strict=True)
    ]
    descent = _Descent(stack, configs, own)
    epochs = range(start_epoch, configs[0].epochs + 1)
    return (_run_epoch(stack, descent, data, configs, seeds, epoch) for epoch in epochs)


class _Descent:
    """Stochastic gradient descent of all networks: momenta in one (S, P) tensor, which the optimizers hold views of."""

    def __init__(self, stack: Stack, configs: Sequence[TrainConfig], optimizers: Sequence[torch.optim.Optimizer]) -> None:
        self.values, self.gradients, self.momenta = stack.values, stack.gradients, torch.zeros_like(stack.values)
        for network, momenta, optimizer in zip(stack.networks, self.momenta, optimizers, strict=True):
            _adopt_momenta(network, momenta, optimizer)
        first = list(stack.networks[0].parameters())
        matrices = torch.cat([torch.full_like(p, p.ndim >= 2).flatten() for p in first]).detach()
        decays = [matrices if config.decay == "weights" else torch.ones_like(matrices) for config in configs]
        self.decay = torch.stack(decays) * self.column([config.weight_decay for config in configs])
        self.momentum = self.column([config.momentum for config in configs])
        self.clip = self.column([float("inf") if config.clip_norm is None else config.clip_norm for config in configs])

    def column(self, numbers: Sequence[float]) -> Tensor:
        """One number a network, shape (S, 1)."""
        return torch.tensor(numbers, dtype=self.values.dtype, device=self.values.device).unsqueeze(1)

    def step(self, rates: Tensor) -> Tensor:
        """One step for all; the norms of their gradients before clipping, shape (S,)."""
        norms = torch.linalg.vector_norm(self.gradients, dim=1)
        shrink = (self.clip / (norms.unsqueeze(1) + _CLIP_EPS)).clamp(max=1)
        self.momenta.mul_(self.momentum).addcmul_(self.gradients, shrink).addcmul_(self.decay, self.values)
        self.values.addcmul_(rates, self.momenta, value=-1)
        return norms


def _adopt_momenta(network: nn.Module, momenta: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Make the momenta in an optimizer views of a row of all momenta, with the values that they have."""
    begin = 0
    for parameter in network.parameters():
        momentum = momenta[begin : begin + parameter.numel()].view(parameter.shape)
        before = optimizer.state[parameter].get("momentum_buffer")
        if before is not None:
            momentum.copy_(before)
        optimizer.state[parameter]["momentum_buffer"] = momentum
        begin += parameter.numel()


@torch.no_grad()
def _run_epoch(
    stack: Stack, descent: _Descent, data: LabeledData, configs: Sequence[TrainConfig], seeds: Sequence[int], epoch: int
) -> list[EpochRecord | TrainingDiverged]:
    device = stack.values.device
    learning_rates = [lr_at(config, epoch) for config in configs]
    rates = descent.column(learning_rates)
    for network in stack.networks:
        network.train()
    losses, norms, num_correct, sizes = [], [], [], []
    orders = torch.stack([shuffled_order(data, seed, epoch) for seed in seeds])
    for window in orders.split(configs[0].batch_size, dim=1):
        inputs, labels = data.inputs[window].to(device), data.labels[window].to(device)
        logits = stack.forward(inputs)
        check_logits(logits[0].T, labels[0], data)
        step_losses, gradient = _losses_and_gradient(configs[0].loss, logits, labels)
        stack.backward(gradient)
        norms.append(descent.step(rates))
        losses.append(step_losses)
        num_correct.append((logits.argmax(dim=1) == labels).sum(dim=1))
        sizes.append(labels.shape[1])
    all_losses, all_norms = torch.stack(losses, dim=1).double().cpu(), torch.stack(norms, dim=1).double().cpu()
    correct = torch.stack(num_correct).sum(dim=0).tolist()
    weights = torch.tensor(sizes, dtype=torch.float64) / data.num_samples
    return [
        _record(epoch, all_losses[index], all_norms[index], weights, correct[index] / data.num_samples, learning_rates[index])
        for index in range(len(configs))
    ]


def _losses_and_gradient(loss: LossName, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        logits = logits.detach().requires_grad_()
        losses = stacked_losses(loss, logits, labels)
        (gradient,) = torch.autograd.grad(losses.sum(), logits)
    return losses.detach(), gradient


def _record(
    epoch: int, losses: Tensor, norms: Tensor, weights: Tensor, accuracy: float, learning_rate: float
) -> EpochRecord | TrainingDiverged:
    try:
        check_finite(losses, norms, epoch, learning_rate)
    except TrainingDiverged as error:
        return error
    return EpochRecord(epoch, float(losses @ weights), accuracy, learning_rate, float(norms.mean()))
