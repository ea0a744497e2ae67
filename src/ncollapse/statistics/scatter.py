"""Class scatter: full d×d within-class scatter matrices, collected only on request."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.statistics.batch import check_labels, flatten_features, row_blocks
from ncollapse.statistics.conventions import ClassWeights, Convention, convention_parts
from ncollapse.statistics.moments import ClassMoments


@dataclass(frozen=True, eq=False)
class ClassScatter:
    r"""Class moments with one d×d scatter matrix per class: O(K d²) memory, exact merging.

    The default metrics need ``ClassMoments`` only. This value is for spectra of covariances (ranks of :math:`\Sigma_T`) and
    for checks. It has one matrix per class, because the counts are known only at the end, and class weights cannot be applied
    to a pooled scatter afterwards.

    Attributes:
        moments: Counts, means and scatter traces.
        scatters: :math:`S_k = \sum_i (h - \mu_k)(h - \mu_k)^T`, shape (K, d, d), float64.
    """

    moments: ClassMoments
    scatters: Tensor

    @classmethod
    def empty(cls, num_classes: int, dim: int, device: torch.device | str | None = None) -> ClassScatter:
        """Return the neutral element of ``merge``."""
        scatters = torch.zeros(num_classes, dim, dim, dtype=torch.float64, device=device)
        return cls(ClassMoments.empty(num_classes, dim, device), scatters)

    @classmethod
    def from_batch(cls, features: Tensor, labels: Tensor, num_classes: int) -> ClassScatter:
        """Return the scatter of one batch."""
        features = flatten_features(features)
        return cls.empty(num_classes, features.shape[1], features.device).add_(features, labels)

    def add_(self, features: Tensor, labels: Tensor) -> ClassScatter:
        """Merge a batch in place: of a vocabulary, only the matrices of the batch's own classes are touched."""
        before, features = self.moments, flatten_features(features)
        labels = check_labels(labels, len(features), before.num_classes).to(features.device)
        batch = ClassMoments.from_batch(features, labels, before.num_classes)
        added = {k: features.new_zeros(batch.dim, batch.dim, dtype=torch.float64) for k in torch.unique(labels).tolist()}
        for rows in row_blocks(features):
            residual = features[rows] - batch.means[labels[rows]]
            for k in torch.unique(labels[rows]).tolist():
                of_class = residual[labels[rows] == k]
                added[k].addmm_(of_class.T, of_class)
        batch = batch.to(before.means.device)
        n_a, n_b = before.counts.double(), batch.counts.double()
        weight = n_a * n_b / (n_a + n_b).clamp(min=1)
        for k, scatter in added.items():
            delta = batch.means[k] - before.means[k]
            self.scatters[k].add_(scatter.to(delta.device)).addr_(weight[k] * delta, delta)
        return ClassScatter(before.merge(batch), self.scatters)

    def merge(self, other: ClassScatter) -> ClassScatter:
        r"""Merge the scatters of two sets of samples: :math:`S = S_a + S_b + \frac{n_a n_b}{n} \delta \delta^T`."""
        self.moments.check_same_shape(other.moments)
        n_a, n_b = self.moments.counts.double(), other.moments.counts.double()
        delta = other.moments.means - self.moments.means
        weight = n_a * n_b / (n_a + n_b).clamp(min=1)
        between = weight[:, None, None] * delta.unsqueeze(2) * delta.unsqueeze(1)
        return ClassScatter(self.moments.merge(other.moments), self.scatters + other.scatters + between)

    def select(self, classes: Tensor) -> ClassScatter:
        """Return the scatter of some classes, by their indices."""
        return ClassScatter(self.moments.select(classes), self.scatters[classes])

    def to(self, device: torch.device | str) -> ClassScatter:
        """Return the same value on another device."""
        return ClassScatter(self.moments.to(device), self.scatters.to(device))

    def within_covariance(self, weights: ClassWeights = "class") -> Tensor:
        r"""Return the within-class covariance :math:`\Sigma_W = \sum_k \frac{\alpha_k}{n_k} S_k`, shape (d, d)."""
        share = self.moments.class_weights(weights) / self.moments.counts
        return torch.einsum("k,kij->ij", share, self.scatters)

    def between_covariance(self, convention: Convention = "class") -> Tensor:
        r"""Return the between-class :math:`\Sigma_B = \sum_k \alpha_k (\mu_k - \mu)(\mu_k - \mu)^T`, shape (d, d)."""
        parts = convention_parts(convention)
        means = self.moments.centered_means(parts.center)
        return torch.einsum("k,ki,kj->ij", self.moments.class_weights(parts.between), means, means)

    def total_covariance(self, weights: ClassWeights = "class") -> Tensor:
        r"""Return the total :math:`\Sigma_T = \Sigma_W + \Sigma_B`, shape (d, d), an identity for either weighting."""
        return self.within_covariance(weights) + self.between_covariance(weights)
