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
from ncollapse.surrogates.gufm import GUFM
from ncollapse.surrogates.solving.arguments import balanced
from ncollapse.train.losses import LOSSES


def measure_objective(model: nn.Module, data: LabeledData, recipe: Recipe, epoch: int) -> ObjectiveRecord | None:
    r"""Objective of a network on its training set, beside the generalized unconstrained features model's minimum."""
    # \frac1N \sum_i \ell(f(x_i), y_i) + \frac{\lambda}{2} \lVert \theta \rVert^2 \;\ge\; \mathrm{GUFM}^*
    #
    # with \theta all that is decayed. The floor is that of λ, of λ/d for normalization to norm √d.
    #
    # Reference:
    #     Súkeník, Lampert and Mondelli (2025), arXiv 2505.15239, section 4.
    counts = torch.bincount(data.labels, minlength=data.num_classes)
    balanced_counts = 0 < counts.min() == counts.max()
    if not balanced_counts or not isinstance(recipe.model, LayerNormResNetConfig | TransformerConfig):
        return None
    if recipe.train.optimizer in DECOUPLED:
        return None
    train, radius_squared = recipe.training, recipe.model.feature_norm_squared
    last = cast(tuple[str, ...], model.collapse_stages)[-1]
    features, labels = collect_features(
        model, Batches(data, recipe.measure.batch_size), num_classes=data.num_classes, layers=[last]
    )
    head = cast(nn.Linear, model.get_submodule(cast(str, model.collapse_classifier)))
    weight, bias = (parameter.detach().cpu().double() for parameter in (head.weight, head.bias))
    hidden, labels = features[last].cpu().double(), labels.cpu()
    loss = float(LOSSES[train.loss](hidden @ weight.T + bias, labels))
    decayed = (parameter for parameter in model.parameters() if train.decay == "all" or parameter.ndim >= 2)
    penalty = train.weight_decay / 2 * math.fsum(float(parameter.detach().double().square().sum()) for parameter in decayed)
    found = ObjectiveRecord(
        epoch, train.weight_decay, loss, penalty, objective=loss + penalty, floor=0.0, excess=loss, distance=None
    )
    if train.weight_decay == 0:
        return found
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
    return replace(found, floor=floor.minimum, excess=loss + penalty - floor.minimum, distance=distance)
