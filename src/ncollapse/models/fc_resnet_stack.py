"""Several FC ResNets of one shape computed as one: all their numbers in one tensor, one product where each had its own.

Features have shape (S, d, B), samples last: a linear layer of all networks is then one batched product, and batch normalization
goes along memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from ncollapse.models.fc_resnet import FCBlock, FCResNet

__all__ = ["FCResNetStack"]

_aten = torch.ops.aten


class FCResNetStack:
    """S networks in training mode, each on its own batch, by gradients written out by hand.

    The networks stay in use: their parameters and running statistics become views of the stack's, which are their own to
    measure and to save at any time. Logits, gradients and running statistics are those of each network alone, within rounding.

    Attributes:
        networks: The networks.
        values: (S, P), in row s the parameters of network s, in their order.
        gradients: (S, P), as ``backward`` wrote them last.

    Args:
        networks: FC ResNets of one shape, type and device, at least one; all their parameters trainable.

    Raises:
        ValueError: If there are none, or they do not fit together.

    Example:
        >>> from ncollapse.models import FCResNetConfig
        >>> stack = FCResNetStack([FCResNet(FCResNetConfig(width=8), input_dim=3, num_classes=4, seed=s) for s in range(5)])
        >>> stack.forward(torch.zeros(5, 16, 3)).shape
        torch.Size([5, 4, 16])
    """

    networks: Sequence[FCResNet]

    def __init__(self, networks: Sequence[FCResNet]) -> None:
        _check_alike(networks)
        self.networks = tuple(networks)
        rows = [nn.utils.parameters_to_vector(network.parameters()).detach() for network in networks]
        self.values = torch.stack(rows)
        self.gradients = torch.zeros_like(self.values)
        self._parts: dict[str, tuple[Tensor, Tensor]] = {}
        begin = 0
        for name, first in networks[0].named_parameters():
            part = slice(begin, begin + first.numel())
            values, gradients = (whole[:, part].view(-1, *first.shape) for whole in (self.values, self.gradients))
            for network, own in zip(networks, values, strict=True):
                network.get_parameter(name).data = own
            self._parts[name] = values, gradients
            begin = part.stop
        self._buffers = {name: _stacked_buffer(networks, name) for name, _ in networks[0].named_buffers()}
        self._layers = _Chain([self._layer(name, child) for name, child in networks[0].named_children()])

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes logits, and moves the running statistics.

        Args:
            inputs: (S, B, input_dim), of each network its batch of 2 samples or more.

        Returns:
            (S, num_classes, B).

        Raises:
            ValueError: If the samples have another size.
        """
        if inputs.shape[2] != self.networks[0].input_dim:
            # The network has the words.
            self.networks[0](inputs[0])
        return self._layers.forward(inputs.mT)

    def backward(self, gradient: Tensor) -> None:
        """Writes the gradients of the last ``forward``.

        Args:
            gradient: (S, num_classes, B), of the losses with respect to the logits.
        """
        self._layers.backward(gradient)

    def _layer(self, name: str, module: nn.Module) -> _Layer:
        make = _LAYERS[type(module)]
        return make(self, name, module)

    def _chain(self, name: str, module: nn.Sequential) -> _Layer:
        return _Chain([self._layer(f"{name}.{child}", layer) for child, layer in module.named_children()])

    def _residual(self, name: str, module: FCBlock) -> _Layer:
        return _Residual(self._layer(f"{name}.branch", module.branch))

    def _linear(self, name: str, module: nn.Linear) -> _Layer:
        (weight, weight_gradient), (bias, bias_gradient) = self._parts[f"{name}.weight"], self._parts[f"{name}.bias"]
        is_first = name in ("stem", "stem.0")
        return _Linear(weight, bias, (weight_gradient, bias_gradient), is_first)

    def _batch_norm(self, name: str, module: nn.BatchNorm1d) -> _Layer:
        (gain, gain_gradient), (shift, shift_gradient) = self._parts[f"{name}.weight"], self._parts[f"{name}.bias"]
        buffers = {buffer: self._buffers[f"{name}.{buffer}"] for buffer, _ in module.named_buffers()}
        return _BatchNorm(gain, shift, (gain_gradient, shift_gradient), buffers, module)


_LAYERS: dict[type[nn.Module], Callable[..., _Layer]] = {
    nn.Linear: FCResNetStack._linear,
    nn.BatchNorm1d: FCResNetStack._batch_norm,
    nn.ReLU: lambda stack, name, module: _ReLU(),
    nn.Sequential: FCResNetStack._chain,
    FCBlock: FCResNetStack._residual,
}


_STACKED = "residual FCResNet with a linear head"


def _stacked_buffer(networks: Sequence[nn.Module], name: str) -> Tensor:
    """The buffers of one name, stacked; the networks' own become views of them."""
    stacked = torch.stack([network.get_buffer(name) for network in networks])
    for network, own in zip(networks, stacked, strict=True):
        network.get_buffer(name).data = own
    return stacked


def _kind(network: nn.Module) -> str:
    if not isinstance(network, FCResNet):
        return type(network).__name__
    return f"{network.config.connections} FCResNet with a {network.config.head} head"


def _check_alike(networks: Sequence[nn.Module]) -> None:
    others = sorted({_kind(network) for network in networks} - {_STACKED})
    if others or not networks:
        raise ValueError(
            f"a stack needs networks of kind {_STACKED}, at least one, got {', '.join(others) or 'none'}. "
            "Train other networks one after another."
        )

    def form(network: nn.Module) -> tuple[object, ...]:
        layers = [type(module) for module in network.modules()]
        return layers, [(name, tuple(p.shape), p.dtype, p.device, p.requires_grad) for name, p in network.named_parameters()]

    for index, network in enumerate(networks):
        if form(network) != form(networks[0]):
            raise ValueError(
                f"networks that train together need the same layers, shapes, type and device; network {index} "
                "has others than network 0. Group them by architecture."
            )
    if len({p.dtype for p in networks[0].parameters()}) != 1 or not all(p.requires_grad for p in networks[0].parameters()):
        raise ValueError("networks that train together need trainable parameters of one type. Train these one after another.")


class _Layer(Protocol):
    """What a layer computes, and what it adds to the gradients."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Features after the layer; what ``backward`` needs is kept."""
        ...

    def backward(self, gradient: Tensor) -> Tensor:
        """From the gradient after the layer, which it may overwrite, to the one before it; its parameters' are written down."""
        ...


class _Linear:
    """W h + b."""

    def __init__(self, weight: Tensor, bias: Tensor, gradients: tuple[Tensor, Tensor], is_first: bool) -> None:
        self.weight, self.bias, self.is_first = weight, bias.unsqueeze(2), is_first
        self.weight_gradient, self.bias_gradient = gradients

    def forward(self, hidden: Tensor) -> Tensor:
        self.input = hidden
        return torch.baddbmm(self.bias, self.weight, hidden)

    def backward(self, gradient: Tensor) -> Tensor:
        self.weight_gradient.copy_(torch.bmm(gradient, self.input.mT))
        torch.sum(gradient, dim=2, out=self.bias_gradient)
        return gradient if self.is_first else torch.bmm(self.weight.mT, gradient)


class _BatchNorm:
    """Batch normalization in training mode, gain γ and shift β."""

    def __init__(
        self,
        gain: Tensor,
        shift: Tensor,
        gradients: tuple[Tensor, Tensor],
        buffers: dict[str, Tensor],
        module: nn.BatchNorm1d,
    ) -> None:
        self.gain, self.shift, self.eps, self.momentum = gain, shift.unsqueeze(2), module.eps, cast(float, module.momentum)
        self.gain_gradient, self.shift_gradient = gradients
        self.running_mean, self.running_var = buffers["running_mean"], buffers["running_var"]
        self.num_batches = buffers["num_batches_tracked"]

    def forward(self, hidden: Tensor) -> Tensor:
        # In single steps, each as fast as memory. The kernels of batch and layer normalization and var_mean are slower on a CPU
        # core, by up to a factor of ten: the moments take turns with each number.
        mean = hidden.mean(dim=2)
        self.centered = hidden - mean.unsqueeze(2)
        squares = torch.linalg.vector_norm(self.centered, dim=2).square_()
        batch = hidden.shape[2]
        self.inverse = (squares / batch + self.eps).rsqrt_()
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(squares / (batch - 1), self.momentum)
        self.num_batches += 1
        return (self.centered * (self.gain * self.inverse).unsqueeze(2)).add_(self.shift)

    def backward(self, gradient: Tensor) -> Tensor:
        batch = gradient.shape[2]
        torch.sum(gradient, dim=2, out=self.shift_gradient)
        covariance = torch.linalg.vecdot(gradient, self.centered)
        torch.mul(covariance, self.inverse, out=self.gain_gradient)
        along = (covariance * self.inverse.square() / batch).unsqueeze(2)
        before = (self.centered * along).neg_().add_(gradient).sub_((self.shift_gradient / batch).unsqueeze(2))
        return before.mul_((self.gain * self.inverse).unsqueeze(2))


class _ReLU:
    """max(h, 0), in the place of h, which no layer before it has kept."""

    def forward(self, hidden: Tensor) -> Tensor:
        self.output = hidden.relu_()
        return self.output

    def backward(self, gradient: Tensor) -> Tensor:
        return _aten.threshold_backward.grad_input(gradient, self.output, 0, grad_input=gradient)


class _Chain:
    """Layers one after another."""

    def __init__(self, layers: Sequence[_Layer]) -> None:
        self.layers = layers

    def forward(self, hidden: Tensor) -> Tensor:
        for layer in self.layers:
            hidden = layer.forward(hidden)
        return hidden

    def backward(self, gradient: Tensor) -> Tensor:
        for layer in reversed(self.layers):
            gradient = layer.backward(gradient)
        return gradient


class _Residual:
    """h + branch(h)."""

    def __init__(self, branch: _Layer) -> None:
        self.branch = branch

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden + self.branch.forward(hidden)

    def backward(self, gradient: Tensor) -> Tensor:
        return self.branch.backward(gradient.clone()).add_(gradient)
