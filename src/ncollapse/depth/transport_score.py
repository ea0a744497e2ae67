"""The optimal transport score of two layers: exact, or on stratified subsamples if N is large."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ncollapse.default_device import on_the_cpu
from ncollapse.depth.transport import checked_pair, wasserstein2_squared
from ncollapse.statistics.batch import check_labels


class Estimate(NamedTuple):
    """A number from repeated subsamples.

    Attributes:
        mean: Mean over the repeats.
        spread: Standard deviation over the repeats (n - 1); 0 if all samples were used, nan for a single subsample.
    """

    mean: float
    spread: float


@dataclass(frozen=True)
class TransportScore:
    r"""The cost of optimal transport between two layers and of the network's own pairing.

    On subsamples :math:`W_2^2` is too large on average: the pairings of the parts of a partition make up one pairing of the
    whole, so their mean cost is at least the :math:`W_2^2` of the whole. A score from subsamples errs towards 1.

    Attributes:
        wasserstein2: :math:`W_2^2`, the best pairing.
        label_wasserstein2: The best pairing of samples of one class: between :math:`W_2^2` and the identity cost.
        identity_cost: :math:`c_{id} = \frac{1}{N} \sum_i \lVert y_i - x_i \rVert^2` on the same samples.
        score: Optimal transport score :math:`W_2^2 / c_{id}` in [0, 1], 1 iff the pairing is optimal; nan if nothing moves.
        label_score: The same with the label-preserving distance.
        excess: :math:`c_{id} - W_2^2`, at least 0.
        num_samples: Samples of each repeat.
        total_samples: N, from which they were drawn.
        repeats: Number of subsamples, 1 if all N samples were used.
    """

    wasserstein2: Estimate
    label_wasserstein2: Estimate
    identity_cost: Estimate
    score: Estimate
    label_score: Estimate
    excess: Estimate
    num_samples: int
    total_samples: int
    repeats: int

    @property
    def exact(self) -> bool:
        """Whether all samples were used."""
        return self.num_samples == self.total_samples


@on_the_cpu
def transport_score(
    first: Tensor, last: Tensor, labels: Tensor, *, max_samples: int = 2000, repeats: int = 5, seed: int = 0
) -> TransportScore:
    """Return the optimal transport score of the map from one layer to another.

    Exact for N up to ``max_samples``, by assignment in O(N³). For larger N it uses several stratified subsamples of that size.
    The features are not centered: subtract each layer's mean first if a common drift should not count.

    Args:
        labels: Class indices, shape (N,).
        max_samples: Largest size of one assignment.
        repeats: Number of subsamples if N is larger.

    Raises:
        ValueError: If the shapes differ, or sizes are below 1.
        TypeError: If the labels are not integers.

    Reference:
        Gai & Zhang (2021), who define a score of this kind; the normalization is ours: docs/theory.md, 3.8.
    """
    checked_pair(first, last)
    if max_samples < 1 or repeats < 1:
        raise ValueError(
            f"max_samples and repeats must be 1 or more, got {max_samples} and {repeats}. The defaults are 2000 and 5."
        )
    labels = check_labels(labels.cpu(), len(first), int(labels.max()) + 1)
    if len(first) <= max_samples:
        drawn = [torch.arange(len(first))]
    else:
        generator = torch.Generator().manual_seed(seed)
        drawn = [stratified_sample(labels, max_samples, generator) for _ in range(repeats)]
    rows = [_costs(first[index.to(first.device)], last[index.to(last.device)], labels[index]) for index in drawn]
    exact = len(first) <= max_samples
    best, within, cost, score, label_score, excess = (_estimate(values, exact) for values in zip(*rows, strict=True))
    return TransportScore(best, within, cost, score, label_score, excess, len(drawn[0]), len(first), len(drawn))


def _costs(x: Tensor, y: Tensor, labels: Tensor) -> tuple[float, ...]:
    cost = float((y.double() - x.double()).square().sum(dim=1).mean())
    # Enforce the order of the three costs, which rounding could break.
    within = min(label_wasserstein2_squared(x, y, labels), cost)
    best = min(wasserstein2_squared(x, y), within)
    score, label_score = (best / cost, within / cost) if cost > 0 else (math.nan, math.nan)
    return best, within, cost, score, label_score, cost - best


def _estimate(values: Sequence[float], exact: bool) -> Estimate:
    spread = 0.0 if exact else float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return Estimate(float(np.mean(values)), spread)


def label_wasserstein2_squared(first: Tensor, last: Tensor, labels: Tensor) -> float:
    r"""Return the cost of the best pairing of two samples that keeps the labels: one assignment per class, O(Σ n_k³).

    :math:`\frac{1}{N} \sum_k \min_{\sigma_k} \sum_{i \in k} \lVert x_i - y_{\sigma_k(i)} \rVert^2`; at least :math:`W_2^2`, at
    most the cost of the given pairing.

    Raises:
        ValueError: If the shapes differ or there is not one label per sample.
    """
    if labels.shape != first.shape[:1]:
        raise ValueError(
            f"labels must hold one class index per sample, shape ({len(first)},), got {tuple(labels.shape)}. "
            "Pass the labels of the samples in x and y."
        )
    total = 0.0
    for label in labels.unique():
        rows = (labels == label).nonzero().flatten()
        total += len(rows) * wasserstein2_squared(first[rows.to(first.device)], last[rows.to(last.device)])
    return total / len(first)


@on_the_cpu
def stratified_sample(labels: Tensor, num_samples: int, generator: torch.Generator) -> Tensor:
    """Return the indices of samples drawn without replacement, by class, each with its share of the whole up to rounding.

    Args:
        labels: Class indices, shape (N,), on the CPU.
        num_samples: From 0 to N.
        generator: The source of randomness, on the CPU.

    Raises:
        ValueError: If there are fewer samples than requested.
    """
    if not 0 <= num_samples <= len(labels):
        raise ValueError(
            f"num_samples must be in [0, {len(labels)}], the number of labels, got {num_samples}. Draw fewer samples."
        )
    classes, counts = labels.unique(return_counts=True)
    # Integers throughout: quotas are rounded down, and the rest goes to the largest remainders, on ties to the smaller class.
    quotas = counts * num_samples // max(1, len(labels))
    remainders = counts * num_samples - quotas * len(labels)
    quotas[torch.argsort(remainders, descending=True, stable=True)[: num_samples - int(quotas.sum())]] += 1
    drawn = []
    for label, quota in zip(classes, quotas, strict=True):
        rows = (labels == label).nonzero().flatten()
        drawn.append(rows[torch.randperm(len(rows), generator=generator)[: int(quota)]])
    return torch.cat(drawn) if drawn else labels.new_zeros(0)
