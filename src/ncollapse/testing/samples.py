"""Made features with labels and a classifier, on which the laws of metrics are checked, and transformations of them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.etf import helmert_basis


class Sample(NamedTuple):
    """Features (N, d) of K classes with labels (N,), and a classifier with weight (K, d) and bias (K,)."""

    name: str
    features: Tensor
    labels: Tensor
    num_classes: int
    weight: Tensor
    bias: Tensor

    def translated(self, seed: int) -> Sample:
        """Add one random vector to all features."""
        return self._replace(features=self.features + 10 * normal(seed, self.features.shape[1]))

    def rotated(self, seed: int) -> Sample:
        """Rotate the features, and the classifier with them."""
        dim = self.features.shape[1]
        turn = torch.linalg.qr(normal(seed, dim, dim))[0]
        return self._replace(features=self.features @ turn, weight=self.weight @ turn)

    def scaled(self, seed: int) -> Sample:
        """Multiply the features by a number."""
        return self._replace(features=(0.03, 1e4)[seed % 2] * self.features)

    def relabeled(self, seed: int) -> Sample:
        """Give the classes other indices."""
        order = torch.randperm(self.num_classes, generator=torch.Generator().manual_seed(seed))
        return self._replace(labels=torch.argsort(order)[self.labels], weight=self.weight[order], bias=self.bias[order])

    def shuffled(self, seed: int) -> Sample:
        """Reorder the samples."""
        order = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(seed))
        return self._replace(features=self.features[order], labels=self.labels[order])

    def towards(self, other: Sample, share: float) -> Sample:
        """Return a sample between this one and another with the same labels."""

        def between(start: Tensor, end: Tensor) -> Tensor:
            return (1 - share) * start + share * end

        return self._replace(
            features=between(self.features, other.features),
            weight=between(self.weight, other.weight),
            bias=between(self.bias, other.bias),
        )


TRANSFORMATIONS = {"translation": Sample.translated, "rotation": Sample.rotated, "scale": Sample.scaled}


def normal(seed: int, *shape: int) -> Tensor:
    """Draw standard normal numbers in float64."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gaussian(name: str, counts: tuple[int, ...], dim: int, *, spread: float = 2.0, seed: int = 0) -> Sample:
    """Draw Gaussian classes in shuffled order; the classifier is related to the class means, but not equal to them."""
    num_classes = len(counts)
    means = spread * normal(seed, num_classes, dim)
    labels = torch.repeat_interleave(torch.arange(num_classes), torch.tensor(counts))
    weight = means / means.norm() + 0.3 * normal(seed + 1, num_classes, dim)
    features = means[labels] + normal(seed + 2, len(labels), dim)
    return Sample(name, features, labels, num_classes, weight, 0.2 * normal(seed + 3, num_classes)).shuffled(seed)


def collapsed(num_classes: int, per_class: int, dim: int, seed: int) -> Sample:
    """Return exact collapse: means on a simplex ETF and W along them, at the scale of strong collapse; no bias."""
    orientation = torch.linalg.qr(normal(seed, dim, num_classes - 1))[0]
    weight = per_class**0.25 * helmert_basis(num_classes).T @ orientation.T
    features = (weight / math.sqrt(per_class)).repeat(per_class, 1)
    labels = torch.arange(num_classes).repeat(per_class)
    return Sample("exact collapse", features, labels, num_classes, weight, weight.new_zeros(num_classes))


def samples() -> list[Sample]:
    """Return balanced and imbalanced classes, overlapping ones, more classes than dimensions, and two classes."""
    return [
        gaussian("balanced classes", (8, 8, 8, 8), 6),
        gaussian("imbalanced classes", (9, 4, 6, 7), 6),
        gaussian("overlapping classes", (12, 5, 9), 4, spread=0.7),
        gaussian("fewer dimensions than classes", (7, 7, 7, 7, 7, 7), 3),
        gaussian("two imbalanced classes", (9, 5), 5),
    ]
