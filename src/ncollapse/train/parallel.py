"""Training in several processes that equals training in one: shares of every batch, whole gradients, shared normalization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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
        # A network that chooses its way by the data may reach a parameter in one process and not in another.
        flat = [(torch.zeros_like(each) if each.grad is None else each.grad).flatten() for each in parameters]
        reached = [float(each.grad is not None) for each in parameters]
        total = self.sum(torch.cat([*flat, flat[0].new_tensor([*reached, float(stopping)])]))
        *parts, counts = total.split([*map(len, flat), len(flat) + 1])
        *reaching, stops = counts.tolist()
        for parameter, part, count in zip(parameters, parts, reaching, strict=True):
            if count:
                # In new memory: of a single sample, two gradients may share theirs, and clipping would scale it twice.
                parameter.grad = torch.empty_like(parameter).copy_(part.view_as(parameter))
        return bool(stops)

    def gather(self, own: Tensor) -> Tensor:
        """Gather a tensor from every process, one row each: a sum with zeros."""
        rows = own.new_zeros(self.size, *own.shape)
        self.share(rows).copy_(own)
        return self.sum(rows)

    def agree(self, stopping: bool) -> bool:
        """Whether one of the processes is stopping."""
        return bool(self.gather_numbers([stopping]).any())


class _Normalized(torch.autograd.Function):
    """Each channel less its mean over its deviation, over the samples of all processes: one exchange each way."""

    @staticmethod
    def forward(context: Any, own: Tensor, eps: float, team: Team) -> tuple[Tensor, Tensor, Tensor]:
        axes, shape = _over_channels(own)
        count = own.new_tensor([own.numel() / own.shape[1]])
        center = own.sum(axes) / count.clamp(min=1)
        parts = team.gather(torch.cat([center, (own - center.view(shape)).square().sum(axes), count]))
        centers, squares, counts = parts.split([len(center), len(center), 1], dim=1)
        total = counts.sum()
        mean = (counts * centers).sum(0) / total
        square = (squares + counts * (centers - mean).square()).sum(0)
        scale = (square / total + eps).rsqrt().view(shape)
        normalized = (own - mean.view(shape)) * scale
        context.save_for_backward(normalized, scale, total)
        context.team = team
        context.mark_non_differentiable(mean, variance := square / (total - 1))
        return normalized, mean, variance

    # Not twice: its own exchange would be left out, and the result wrong without a word.
    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        normalized, scale, total = context.saved_tensors
        axes, shape = _over_channels(normalized)
        sums = torch.stack([gradients[0].sum(axes), (gradients[0] * normalized).sum(axes)])
        mean, slope = (context.team.sum(sums) / total).unbind()
        return scale * (gradients[0] - mean.view(shape) - normalized * slope.view(shape)), None, None


def _over_channels(values: Tensor) -> tuple[list[int], tuple[int, ...]]:
    """Return the axes of samples and positions, and the shape in which a vector of channels meets the values."""
    return [0, *range(2, values.ndim)], (1, -1, *[1] * (values.ndim - 2))


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalization by the mean and variance of the whole batch, of which each process holds a share."""

    # In evaluation mode that of PyTorch. (``torch.nn.SyncBatchNorm`` trains on GPUs only.)

    def __init__(self, norm: nn.modules.batchnorm._BatchNorm, team: Team) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine)
        # All that it has: tensors, mode and hooks.
        vars(self).update(vars(norm))
        self.team = team

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept every shape that the replaced module accepts."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalize each channel."""
        if not self.training or self.team.group is None:
            return super().forward(input)
        # Not in bfloat16, in which products may come.
        values = input.to(self.weight.dtype)
        applied = _Normalized.apply(values, self.eps, self.team)  # type: ignore[no-untyped-call]
        normalized, mean, variance = cast(tuple[Tensor, Tensor, Tensor], applied)
        self._keep(mean, variance)
        _, shape = _over_channels(values)
        return (normalized * self.weight.view(shape) + self.bias.view(shape)).to(input.dtype)

    def _keep(self, mean: Tensor, variance: Tensor) -> None:
        momentum = cast(float, self.momentum)
        cast(Tensor, self.running_mean).lerp_(mean, momentum)
        cast(Tensor, self.running_var).lerp_(variance, momentum)
        cast(Tensor, self.num_batches_tracked).add_(1)


def share_batch_norm(model: nn.Module, team: Team) -> None:
    """Replace each batch normalization by its own ``SharedBatchNorm``, under all of its names; none for a single process."""
    made: dict[nn.Module, SharedBatchNorm] = {}
    for parent in list(model.modules()):
        # Not ``named_children``, which gives one of several names.
        for name, child in list(parent._modules.items()):
            if isinstance(child, SharedBatchNorm):
                # From an earlier training, perhaps by other processes.
                child.team = team
            elif team.group is not None and isinstance(child, nn.modules.batchnorm._BatchNorm):
                if type(child).forward not in {nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward}:
                    raise ValueError(
                        "training in several processes needs batch normalization that computes as PyTorch's, got "
                        f"{type(child).__name__} with a forward of its own. Train in one process."
                    )
                if not (child.affine and child.track_running_stats and child.momentum is not None):
                    raise ValueError(
                        "training in several processes needs batch normalization with parameters, running statistics and a "
                        f"momentum, got {child}. Train in one process."
                    )
                made[child] = made.get(child) or SharedBatchNorm(child, team)
                setattr(parent, name, made[child])
