"""Training in several processes that equals training in one: shares of every batch, whole gradients, shared normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ncollapse.groups import Processes
from ncollapse.train.losses import Loss


class Team(Processes):
    """The processes that train one network, each on its share of every batch; a single one without a group."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Team:
        # A copied network is still trained by these processes; a group itself can't be copied.
        return self

    def loss(self, loss: Loss, logits: Tensor, labels: Tensor, batch_size: int) -> Tensor:
        """Compute what a share adds to the loss of the whole batch, which is a mean over its samples."""
        if self.group is None:
            return loss(logits, labels)
        # Without samples zero, and still with gradients: all processes go back through the same exchanges.
        return loss(logits, labels) * (len(labels) / batch_size) if len(labels) else logits.sum()

    def sum_gradients(self, parameters: Sequence[nn.Parameter], stopping: bool) -> bool:
        """Add up the gradients of all processes, and tell whether one of them is stopping."""
        # With shares of the loss, gradients become those of the whole batch. One number more travels along, so that all stop
        # after the same batch without another exchange.
        if self.group is None:
            return stopping
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = [gradient.flatten() for gradient in gradients]
        total = self.sum(torch.cat([*flat, flat[0].new_tensor([float(stopping)])]))
        *parts, stops = total.split([*(gradient.numel() for gradient in gradients), 1])
        for gradient, part in zip(gradients, parts, strict=True):
            gradient.copy_(part.view_as(gradient))
        return bool(stops)

    def agree(self, stopping: bool) -> bool:
        """Whether one of the processes is stopping."""
        return bool(self.gather_numbers([stopping]).any())


class _Sum(torch.autograd.Function):
    """The sum over all processes; a gradient by it is the sum of what each process has for it."""

    @staticmethod
    def forward(context: Any, own: Tensor, team: Team) -> Tensor:
        context.team = team
        return team.sum(own.clone())

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return context.team.sum(gradients[0].clone()), None


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization by the mean and variance of the whole batch, of which each process holds a share."""

    # In evaluation mode that of PyTorch. (``torch.nn.SyncBatchNorm`` trains on GPUs only.)

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, team: Team) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
            setattr(self, name, tensor)
        self.team = team

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept every shape that the replaced module accepts."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each channel."""
        if not self.training:
            return super().forward(input)
        axes, shape = [0, *range(2, input.ndim)], (1, -1, *[1] * (input.ndim - 2))
        # Not in bfloat16, in which products may come.
        values = input.to(self.weight.dtype)
        count = values.new_tensor([input.numel() / input.shape[1]])
        total = cast(Tensor, _Sum.apply(torch.cat([values.sum(axes), count]), self.team))  # type: ignore[no-untyped-call]
        num_values, mean = total[-1].detach(), total[:-1] / total[-1].detach()
        centered = values - mean.view(shape)
        squares = cast(Tensor, _Sum.apply(centered.square().sum(axes), self.team))  # type: ignore[no-untyped-call]
        self._keep(mean.detach(), squares.detach() / (num_values - 1))
        scale = (squares / num_values + self.eps).rsqrt()
        return (centered * (scale * self.weight).view(shape) + self.bias.view(shape)).to(input.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        momentum = cast(float, self.momentum)
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(variance, momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)


def share_batch_norm(model: nn.Module, team: Team) -> None:
    """Replace every batch normalization by ``SharedBatchNorm``, under the same name; nothing for a single process."""
    if team.group is None:
        return
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SharedBatchNorm) or not isinstance(child, nn.modules.batchnorm._BatchNorm):
                continue
            if not (child.affine and child.track_running_stats and child.momentum is not None):
                raise ValueError(
                    "training in several processes needs batch normalization with parameters, running statistics and a "
                    f"momentum, got {child}. Train in one process."
                )
            setattr(parent, name, SharedBatchNorm(child, team))
