"""Energies of a residual network's blocks, with the bounds that follow from their weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ncollapse.depth.weight_decay import BlockMoments, single_layer_bound, two_layer_bound
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.models.fc_resnet import FCResNet
from ncollapse.probe.first_pass import NO_DATA
from ncollapse.records.depth import BlockBound, WeightDecayBound


def weight_decay_bounds(model: FCResNet, batches: Iterable[tuple[Tensor, Tensor]]) -> WeightDecayBound:
    """Return the energy that each block of a fully connected ResNet adds, with its bounds by the weights, in one pass.

    If the network has normalizations, the bounds are computed from the weights all the same, but ``is_bound`` is False.

    Args:
        model: The network; it runs in eval mode and without gradients, and its modes are restored.
        batches: Yields (inputs, labels); the labels are not used.

    Raises:
        TypeError: If the network is not an ``FCResNet``.
        ValueError: If there is no data, or the connections are not residual.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, section II; docs/theory.md, 3.10.
    """
    if not isinstance(model, FCResNet):
        raise TypeError(
            f"model must be an FCResNet, whose blocks are known, got {type(model).__name__}. For other networks "
            "use BlockMoments with single_layer_bound or two_layer_bound of ncollapse.depth."
        )
    if model.config.connections != "residual":
        raise ValueError(
            f"weight_decay_bounds needs residual connections, got {model.config.connections!r}. "
            "The bound holds only for what a block adds to its input."
        )
    outputs = model.collapse_stages
    inputs = dict(zip(outputs[1:], outputs, strict=False))
    discovery = Discovery(model, [*outputs, *(f"{name}.branch" for name in inputs)], None, model.num_classes)
    device = next(model.parameters()).device
    moments: dict[str, BlockMoments] = {}
    num_batches = 0
    # A shuffling loader draws its seed from the global generator, whose state is restored.
    with TappedNetwork(model, discovery.plan) as taps, torch.random.fork_rng(devices=[]):
        for samples, labels in batches:
            num_batches += 1
            features = taps.forward(samples.to(device), labels).features
            for name, before in inputs.items():
                part = _moments(features[before], features[f"{name}.branch"])
                moments[name] = moments[name].merge(part) if name in moments else part
    if not num_batches:
        raise ValueError(NO_DATA)
    bounds = {name: _bound(moments[name], model.get_submodule(f"{name}.branch")) for name in inputs}
    blocks = tuple(replace(bound, block=name) for name, bound in bounds.items())
    return WeightDecayBound(blocks, is_bound=model.config.normalization == "none")


def _moments(inputs: Tensor, outputs: Tensor) -> BlockMoments:
    # Apple's GPUs have no float64: sums are computed on the CPU instead.
    if inputs.device.type == "mps":
        inputs, outputs = inputs.cpu(), outputs.cpu()
    return BlockMoments.from_batch(inputs, outputs)


def _bound(moments: BlockMoments, branch: nn.Module) -> BlockBound:
    layers = [(layer.weight, layer.bias) for layer in branch.children() if isinstance(layer, nn.Linear)]
    if len(layers) == 1:
        return single_layer_bound(moments, *layers[0])
    return two_layer_bound(moments, *layers)
