"""Energies of a residual network's blocks, with the bounds that follow from their weights."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from ncollapse.depth.weight_decay import BlockMoments, normalized_bound, single_layer_bound, two_layer_bound
from ncollapse.hooks.discovery import Discovery
from ncollapse.hooks.tapped_network import TappedNetwork
from ncollapse.models.fc_resnet import FCResNet
from ncollapse.probe.first_pass import NO_DATA
from ncollapse.records.theorems import BlockBound, WeightDecayBound


def weight_decay_bounds(model: FCResNet, batches: Iterable[tuple[Tensor, Tensor]]) -> WeightDecayBound:
    """Return the energy that each block of a fully connected ResNet adds, with its bounds by its parameters, in one pass.

    Where blocks normalize, scale and shift of a block's last normalization and the layer behind it bound what the block adds.

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
    bounded = {name: _bounded_input(model.get_submodule(f"{name}.branch"), name, before) for name, before in inputs.items()}
    taps_at = dict.fromkeys([*outputs, *(f"{name}.branch" for name in inputs), *(place for place, _ in bounded.values())])
    discovery = Discovery(model, list(taps_at), None, model.num_classes)
    device = next(model.parameters()).device
    moments: dict[str, BlockMoments] = {}
    num_batches = 0
    # A shuffling loader draws its seed from the global generator, whose state is restored.
    with TappedNetwork(model, discovery.plan) as taps, torch.random.fork_rng(devices=[]):
        for samples, labels in batches:
            num_batches += 1
            features = taps.forward(samples.to(device), labels).features
            for name, (place, norm) in bounded.items():
                part = _moments(_standardized(features[place], norm), features[f"{name}.branch"])
                moments[name] = moments[name].merge(part) if name in moments else part
    if not num_batches:
        raise ValueError(NO_DATA)
    bounds = {name: _bound(moments[name], model.get_submodule(f"{name}.branch")) for name in inputs}
    return WeightDecayBound(tuple(replace(bound, block=name) for name, bound in bounds.items()))


def _bounded_input(branch: nn.Module, name: str, before: str) -> tuple[str, nn.BatchNorm1d | None]:
    """Name the layer whose output the bound is about: what the last normalization takes, else what the block takes."""
    norms = [(place, layer) for place, layer in enumerate(branch.children()) if isinstance(layer, nn.BatchNorm1d)]
    if not norms:
        return before, None
    place, norm = norms[-1]
    return (f"{name}.branch.{place - 1}" if place else before), norm


def _standardized(features: Tensor, norm: nn.BatchNorm1d | None) -> Tensor:
    """Apply a normalization in eval mode, without its scale and shift, in float64."""
    if norm is None or norm.running_mean is None or norm.running_var is None:
        return features
    if features.device.type == "mps":
        features = features.cpu()
    mean, variance = (part.double().to(features.device) for part in (norm.running_mean, norm.running_var))
    return (features.double() - mean) / (variance + norm.eps).sqrt()


def _moments(inputs: Tensor, outputs: Tensor) -> BlockMoments:
    # Apple's GPUs have no float64: sums are computed on the CPU instead.
    if inputs.device.type == "mps":
        inputs, outputs = inputs.cpu(), outputs.cpu()
    return BlockMoments.from_batch(inputs, outputs)


def _bound(moments: BlockMoments, branch: nn.Module) -> BlockBound:
    layers = list(branch.children())
    norms = [(place, layer) for place, layer in enumerate(layers) if isinstance(layer, nn.BatchNorm1d)]
    if norms:
        place, norm = norms[-1]
        behind = [layer for layer in layers[place:] if isinstance(layer, nn.Linear)]
        outer = (behind[0].weight, behind[0].bias) if behind else None
        return normalized_bound(moments, (norm.weight, norm.bias), outer)
    linear = [(layer.weight, layer.bias) for layer in layers if isinstance(layer, nn.Linear)]
    return single_layer_bound(moments, *linear[0]) if len(linear) == 1 else two_layer_bound(moments, *linear)
