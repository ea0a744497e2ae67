"""The regularized objective of a network that ends in a normalization, and the floor that no such network gets below."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from torch import nn

from ncollapse.data.batches import Batches
from ncollapse.data.labeled import LabeledData
from ncollapse.models import LayerNormResNetConfig, TransformerConfig
from ncollapse.probe.collect_features import collect_features
from ncollapse.recipes.recipe import Recipe
from ncollapse.recipes.training import DECOUPLED
from ncollapse.records.run_files import ObjectiveRecord
from ncollapse.surrogates.depth_floor import block_cost, depth_floor
from ncollapse.surrogates.gufm import GUFM, layer_norm
from ncollapse.surrogates.solving.arguments import balanced
from ncollapse.train.decayed import parameters_and_decay
from ncollapse.train.losses import LOSSES


# Súkeník, Lampert and Mondelli (2025), arXiv 2505.15239, section 4: loss + λ/2 |θ|² >= GUFM*, with θ all that is decayed.
# The floor is that of λ, of λ/d for normalization to norm √d. There is none for classes of unequal size, decoupled decay
# and MCR², and for networks that do not end in a normalization.
def measure_objective(model: nn.Module, data: LabeledData, recipe: Recipe, epoch: int) -> ObjectiveRecord | None:
    """Compare the objective on the training set with the minimum of the generalized UFM, where that is a floor."""
    counts = torch.bincount(data.labels, minlength=data.num_classes)
    balanced_counts = 0 < counts.min() == counts.max()
    if not balanced_counts or not isinstance(recipe.model, LayerNormResNetConfig | TransformerConfig):
        return None
    if recipe.train.optimizer in DECOUPLED or recipe.train.loss == "mcr2":
        return None
    train, radius_squared = recipe.training, recipe.model.feature_norm_squared
    stages = cast(tuple[str, ...], model.collapse_stages)
    first, last = stages[0], stages[-1]
    features, labels = collect_features(
        model, Batches(data, recipe.measure.batch_size), num_classes=data.num_classes, layers=[first, last]
    )
    head = cast(nn.Linear, model.get_submodule(cast(str, model.collapse_classifier)))
    weight, bias = (parameter.detach().cpu().double() for parameter in (head.weight, head.bias))
    hidden, labels = features[last].cpu().double(), labels.cpu()
    loss = float(LOSSES[train.loss](hidden @ weight.T + bias, labels))
    decayed = (parameter.detach().double() for parameter, decays in parameters_and_decay(model, train) if decays)
    penalty = train.weight_decay / 2 * math.fsum(float(parameter.square().sum()) for parameter in decayed)
    found = ObjectiveRecord(
        epoch, train.weight_decay, loss, penalty, objective=loss + penalty, floor=0.0, excess=loss, distance=None
    )
    if train.weight_decay == 0:
        return found
    found = replace(found, relative_gradient=relative_gradient(model, data, recipe))
    floor = GUFM(
        balanced(data.num_classes, int(counts[0])),
        dim=hidden.shape[1],
        loss="cross_entropy" if train.loss == "cross_entropy" else "mse",
        lambda_w=train.weight_decay / radius_squared,
        bias="free",
    )
    fits = floor.dim >= data.num_classes
    radius = math.sqrt(radius_squared)
    distance = floor.distance(radius * weight, hidden / radius, labels) if fits else None
    found = replace(found, floor=floor.minimum, excess=loss + penalty - floor.minimum, distance=distance)
    if epoch < recipe.train.epochs or not isinstance(recipe.model, LayerNormResNetConfig):
        return found
    return _with_depth(found, recipe, recipe.model, features[first].cpu().double() / radius, labels, floor)


def relative_gradient(model: nn.Module, data: LabeledData, recipe: Recipe) -> float:
    """Return ‖g + λθ‖ / (‖g‖ + ‖λθ‖), with g the gradient of the loss and θ the decayed parameters."""
    # At a stationary point the two parts cancel. The ratio is 0 there, 1 where they do not oppose each other at all, and does
    # not change if the objective is multiplied by a number. Of autograd.grad the parameters' own gradients stay as they are.
    train, trainable = recipe.training, parameters_and_decay(model, recipe.training)
    parameters = [parameter for parameter, _ in trainable]
    of_loss = [torch.zeros_like(parameter, dtype=torch.float64) for parameter in parameters]
    with torch.enable_grad():
        for inputs, labels in Batches(data, recipe.measure.batch_size):
            loss = LOSSES[train.loss](model(inputs), labels) * (len(labels) / len(data.labels))
            for total, part in zip(of_loss, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
                if part is not None:
                    total += part
    of_decay = [train.weight_decay * decays * parameter.detach().double() for parameter, decays in trainable]
    both = [one + other for one, other in zip(of_loss, of_decay, strict=True)]
    whole, loss_norm, decay_norm = (float(nn.utils.get_total_norm(parts)) for parts in (both, of_loss, of_decay))
    return whole / (loss_norm + decay_norm) if whole else 0.0


def _with_depth(
    found: ObjectiveRecord, recipe: Recipe, model: LayerNormResNetConfig, first: torch.Tensor, labels: torch.Tensor, free: GUFM
) -> ObjectiveRecord:
    """Add the floor that knows depth and first layer, where its hypotheses hold."""
    train, unmet = recipe.training, []
    if model.linear_layers != 1:
        unmet.append("blocks of one linear layer")
    if model.num_blocks < 1:
        unmet.append("a block")
    if model.rounding:
        unmet.append("a ReLU that is not rounded")
    if model.norm_rounding:
        unmet.append("a normalization that is not rounded")
    if model.block_biases and train.decay != "all":
        unmet.append("no biases in the blocks, or decayed ones")
    # A constant sample has no direction, and a normalization makes it zero.
    if not bool(first.norm(dim=1).gt(0.5).all()):
        unmet.append("no constant sample")
    if unmet:
        return replace(found, unmet=tuple(unmet))
    cost = block_cost(train.weight_decay, model.num_blocks, len(first), biases=model.block_biases)
    bound = depth_floor(layer_norm(first), labels, loss=free.loss, lambda_w=free.lambda_w, lambda_h=cost)
    # For any stem: that the last layer's features lie where the data force them takes a first layer that is not trained.
    stem = () if model.embedding == "none" else ("no trained stem",)
    return replace(found, depth_floor=max(bound, free.minimum), unmet=stem)
