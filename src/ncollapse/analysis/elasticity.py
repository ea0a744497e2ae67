"""Local elasticity: how much one gradient step on a sample moves the predictions for the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

Loss = Callable[[Tensor, Tensor], Tensor]


class ElasticityAggregate(NamedTuple):
    """Means of a similarity over ordered pairs of different samples."""

    intra: float
    inter: float
    ratio: float


@dataclass(frozen=True, eq=False)
class Elasticity:
    """Similarities of samples by a network's updates: row i is a step on sample i, column j its effect on sample j.

    Attributes:
        relative: S_rel, shape (n, n), float64, ones on the diagonal; nan in the row of a step that changes nothing.
        kernel: S_ker, shape (n, n), float64; None for networks with more than one output.
        labels: Classes of the samples, shape (n,).
    """

    relative: Tensor
    kernel: Tensor | None
    labels: Tensor

    def aggregate(self, similarity: Tensor | None = None) -> ElasticityAggregate:
        """Return the means within and between classes, without the similarity of a sample with itself, and their ratio.

        Args:
            similarity: Shape (n, n); None uses the relative similarity.
        """
        values = self.relative if similarity is None else similarity
        same = self.labels.unsqueeze(1) == self.labels
        other = ~torch.eye(len(self.labels), dtype=torch.bool)
        intra, inter = values[same & other].mean(), values[~same].mean()
        return ElasticityAggregate(float(intra), float(inter), float(intra / inter))


def local_elasticity(
    model: nn.Module, inputs: Tensor, labels: Tensor, *, loss: Loss, learning_rate: float, targets: Tensor | None = None
) -> Elasticity:
    r"""Return how one step of gradient descent on each sample moves the predictions for all samples, on the CPU.

    With :math:`w^+ = w - \eta \nabla_w \ell(f(x, w), y)`:
    :math:`S_{rel}(x, x') = \lVert f(x', w^+) - f(x', w) \rVert / \lVert f(x, w^+) - f(x, w) \rVert`, and for one output
    :math:`S_{ker}(x, x') = (f(x', w) - f(x', w^+)) / (\eta\, \partial_f \ell(f(x, w), y))`, to first order the entry of the
    neural tangent kernel. Every step starts from the same network, in eval mode. Its parameters, buffers, gradients and modes
    are restored to the bit, also after an error. The cost is n² forward passes, which suits some hundred samples. In float32 a
    small step is lost in rounding: pass a network and inputs in float64.

    Args:
        inputs: Samples, shape (n, ...), on the network's device.
        labels: Their classes, shape (n,), for the averages within and between classes.
        loss: Function from outputs and targets of one sample to a 0-d tensor, such as ``ncollapse.train.cross_entropy``.
        learning_rate: η > 0.
        targets: Targets of the loss, shape (n, ...); None uses the labels.

    Raises:
        ValueError: If the learning rate is not positive, numbers of samples differ, or no parameter influences the output.

    Reference:
        He & Su (2020), ICLR, "The local elasticity of neural networks".
    """
    targets = labels if targets is None else targets
    if not learning_rate > 0 or not len(inputs) == len(labels) == len(targets):
        raise ValueError(
            "local_elasticity needs a positive learning_rate and one label and target per input, got "
            f"{learning_rate} and {len(inputs)} inputs, {len(labels)} labels, {len(targets)} targets. "
            "Pass one of each per sample."
        )
    relative, kernel = [], []
    with _kept(model) as restore:
        before = _outputs(model, inputs)
        for index in range(len(inputs)):
            sample = slice(index, index + 1)
            slope = _step(model, inputs[sample], targets[sample], loss, learning_rate)
            change = _outputs(model, inputs) - before
            restore()
            sizes = torch.linalg.vector_norm(change, dim=1)
            relative.append(sizes / sizes[index])
            if slope.numel() == 1:
                kernel.append(-change.flatten() / (learning_rate * slope.flatten()))
    return Elasticity(
        torch.stack(relative).cpu(), torch.stack(kernel).cpu() if kernel else None, labels.detach().cpu().flatten()
    )


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return model(inputs).double().flatten(1)


def _step(model: nn.Module, inputs: Tensor, targets: Tensor, loss: Loss, learning_rate: float) -> Tensor:
    """Take one step in place and return the derivative of the loss by the outputs; stored gradients stay unchanged."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with torch.enable_grad():
        outputs = model(inputs)
        if not outputs.requires_grad:
            raise ValueError(
                "local_elasticity needs a network with trainable parameters, got one whose output depends on none. "
                "Set requires_grad on its parameters."
            )
        slope, *gradients = torch.autograd.grad(loss(outputs, targets), [outputs, *parameters], allow_unused=True)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(learning_rate * gradient)
    return slope.double()


@contextmanager
def _kept(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Switch to eval mode and yield a function that restores parameters and buffers; restore these and the modes at exit."""
    modes = [(module, module.training) for module in model.modules()]
    parameters = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]
    buffers = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]

    def restore() -> None:
        with torch.no_grad():
            for parameter, value in parameters:
                parameter.copy_(value)
            for module, name, buffer, value in buffers:
                # A forward pass may have overwritten the buffer, or replaced it by another tensor.
                buffer.copy_(value)
                setattr(module, name, buffer)

    try:
        model.eval()
        yield restore
    finally:
        restore()
        for module, training in modes:
            module.training = training
