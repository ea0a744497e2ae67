"""Training several networks of one shape as one batched computation: seeds and decays of a study, each as if alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from ncollapse.data import LabeledData, shuffled_batches
from ncollapse.train.loop import EpochRecord, TrainingDiverged, check_finite, check_run, make_optimizer
from ncollapse.train.losses import LOSSES
from ncollapse.train.schedule import TrainConfig, lr_at

__all__ = ["train_together"]

SHARED = ("epochs", "batch_size", "loss", "optimizer")
# As torch.nn.utils.clip_grads_with_norm_ has it.
_CLIP_EPS = 1e-6


def train_together(
    models: Sequence[nn.Module],
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
        models: Networks with parameters of the same names, shapes and type on one device, which draw no random numbers.
        data: The training set of all.
        configs: One for each network; ``epochs``, ``batch_size`` and ``loss`` must be equal, the rest may differ; the optimizer
            must be ``sgd``.
        seeds: Of each network's order of the samples.
        optimizers: From ``make_optimizer``, one for each network, for who saves or restores checkpoints; None makes them.
        start_epoch: As in ``train``, the same for all.

    Returns:
        An iterator over the epochs, with one record a network, in their order. A network whose loss is no longer finite
        gives the error instead, and is not to be used from then on; the others go on.

    Raises:
        ValueError: If there are no networks, they or their configs do not fit together, or as in ``train``.

    Example:
        >>> from ncollapse.data import gaussian_mixture
        >>> data = gaussian_mixture(num_classes=2, dim=3, per_class=8)
        >>> models = [torch.nn.Linear(3, 2) for _ in range(3)]
        >>> configs = [TrainConfig(epochs=2, batch_size=4, weight_decay=decay) for decay in (0.0, 1e-3, 1e-2)]
        >>> [len(records) for records in train_together(models, data, configs, seeds=[0, 0, 0])]
        [3, 3]
    """
    if not len(models) == len(configs) == len(seeds) > 0:
        raise ValueError(
            f"one config and one seed are needed for each network, and at least one network, got {len(models)} networks, "
            f"{len(configs)} configs and {len(seeds)} seeds."
        )
    for field in SHARED:
        values = sorted({str(getattr(config, field)) for config in configs})
        if len(values) > 1:
            raise ValueError(f"networks that train together need one train.{field}, got {', '.join(values)}. Group them by it.")
    if configs[0].optimizer != "sgd":
        raise ValueError(f"networks train together with sgd only, got {configs[0].optimizer}. Train them one after another.")
    for model, config in zip(models, configs, strict=True):
        check_run(model, data, config, start_epoch)
    given = [None] * len(models) if optimizers is None else optimizers
    own = [
        make_optimizer(model, config) if optimizer is None else optimizer
        for model, config, optimizer in zip(models, configs, given, strict=True)
    ]
    stack = _Stack(models, configs, own)
    epochs = range(start_epoch, configs[0].epochs + 1)
    return (_run_epoch(stack, data, seeds, epoch) for epoch in epochs)


class _Stack:
    """All parameters in one (S, P) tensor, of which the networks' own parameters are views; gradients and momenta likewise."""

    def __init__(
        self, models: Sequence[nn.Module], configs: Sequence[TrainConfig], optimizers: Sequence[torch.optim.Optimizer]
    ) -> None:
        self.models, self.configs = list(models), list(configs)
        named = [dict(model.named_parameters()) for model in models]
        _check_alike(named)
        self.values = torch.stack([nn.utils.parameters_to_vector(own.values()).detach() for own in named])
        self.momenta = torch.zeros_like(self.values)
        self.parameters: dict[str, Tensor] = {}
        begin = 0
        for name, first in named[0].items():
            end = begin + first.numel()
            self.parameters[name] = self.values[:, begin:end].view(-1, *first.shape).requires_grad_()
            for index, own in enumerate(named):
                self._adopt(own[name], optimizers[index], index, slice(begin, end))
            begin = end
        self.buffers = _stacked_buffers(models)
        matrices = torch.cat([torch.full_like(p, p.ndim >= 2).flatten() for p in named[0].values()]).detach()
        decays = [matrices if config.decay == "weights" else torch.ones_like(matrices) for config in configs]
        self.decay = torch.stack(decays) * self._column([config.weight_decay for config in configs])
        self.momentum = self._column([config.momentum for config in configs])
        self.clip = self._column([float("inf") if config.clip_norm is None else config.clip_norm for config in configs])

    def _adopt(self, parameter: nn.Parameter, optimizer: torch.optim.Optimizer, index: int, part: slice) -> None:
        """Make a network's parameter, and its momentum in the optimizer, views of the stack."""
        momentum = self.momenta[index, part].view(parameter.shape)
        before = optimizer.state[parameter].get("momentum_buffer")
        if before is not None:
            momentum.copy_(before)
        parameter.data = self.values[index, part].view(parameter.shape)
        optimizer.state[parameter]["momentum_buffer"] = momentum

    def _column(self, numbers: Sequence[float]) -> Tensor:
        return torch.tensor(numbers, dtype=self.values.dtype, device=self.values.device).unsqueeze(1)

    def losses(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of every network on its own batch, shape (S,), and logits (S, B, K)."""
        first = self.models[0]
        loss = LOSSES[self.configs[0].loss]

        def one(
            parameters: dict[str, Tensor], buffers: dict[str, Tensor], inputs: Tensor, labels: Tensor
        ) -> tuple[Tensor, Tensor]:
            logits = functional_call(first, (parameters, buffers), (inputs,))
            return loss(logits, labels), logits.detach()

        found: tuple[Tensor, Tensor] = vmap(one)(self.parameters, self.buffers, inputs, labels)
        return found

    def step(self, losses: Tensor, rates: Tensor) -> Tensor:
        """One step of stochastic gradient descent for all; the norms of their gradients before clipping, shape (S,)."""
        gradients = torch.autograd.grad(losses.sum(), list(self.parameters.values()))
        with torch.no_grad():
            gradient = torch.cat([part.flatten(1) for part in gradients], dim=1)
            norms = torch.linalg.vector_norm(gradient, dim=1)
            gradient *= (self.clip / (norms.unsqueeze(1) + _CLIP_EPS)).clamp(max=1)
            gradient.addcmul_(self.decay, self.values)
            self.momenta.mul_(self.momentum).add_(gradient)
            self.values.addcmul_(rates, self.momenta, value=-1)
        return norms


def _check_alike(named: Sequence[Mapping[str, nn.Parameter]]) -> None:
    def shape(own: Mapping[str, nn.Parameter]) -> list[tuple[object, ...]]:
        return [(name, tuple(p.shape), p.dtype, p.device, p.requires_grad) for name, p in own.items()]

    for index, own in enumerate(named):
        if shape(own) != shape(named[0]):
            raise ValueError(
                f"networks that train together need parameters of the same names, shapes, type and device; network {index} "
                "has others than network 0. Group them by architecture."
            )
    if len({p.dtype for p in named[0].values()}) != 1 or not all(p.requires_grad for p in named[0].values()):
        raise ValueError("networks that train together need trainable parameters of one type. Train these one after another.")


def _stacked_buffers(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """All buffers by name, stacked; the networks' own become views of them."""
    stacked: dict[str, Tensor] = {}
    for name, _ in models[0].named_buffers():
        stacked[name] = torch.stack([model.get_buffer(name) for model in models])
        for model, own in zip(models, stacked[name], strict=True):
            model.get_buffer(name).data = own
    return stacked


def _run_epoch(stack: _Stack, data: LabeledData, seeds: Sequence[int], epoch: int) -> list[EpochRecord | TrainingDiverged]:
    configs, device = stack.configs, stack.values.device
    numbers = [lr_at(config, epoch) for config in configs]
    rates = torch.tensor(numbers, dtype=stack.values.dtype, device=device).unsqueeze(1)
    for model in stack.models:
        model.train()
    losses, norms, num_correct, sizes = [], [], [], []
    orders = (shuffled_batches(data, configs[0].batch_size, seed, epoch) for seed in seeds)
    for batches in zip(*orders, strict=True):
        inputs, labels = (torch.stack(column).to(device) for column in zip(*batches, strict=True))
        step_losses, logits = stack.losses(inputs, labels)
        norms.append(stack.step(step_losses, rates))
        losses.append(step_losses.detach())
        num_correct.append((logits.argmax(dim=2) == labels).sum(dim=1))
        sizes.append(labels.shape[1])
    all_losses, all_norms = torch.stack(losses, dim=1).double().cpu(), torch.stack(norms, dim=1).double().cpu()
    correct = torch.stack(num_correct).sum(dim=0).tolist()
    weights = torch.tensor(sizes, dtype=torch.float64) / data.num_samples
    return [
        _record(epoch, all_losses[index], all_norms[index], weights, correct[index] / data.num_samples, numbers[index])
        for index in range(len(configs))
    ]


def _record(
    epoch: int, losses: Tensor, norms: Tensor, weights: Tensor, accuracy: float, learning_rate: float
) -> EpochRecord | TrainingDiverged:
    try:
        check_finite(losses, norms, epoch, learning_rate)
    except TrainingDiverged as error:
        return error
    return EpochRecord(epoch, float(losses @ weights), accuracy, learning_rate, float(norms.mean()))
