"""Detection of strangers at a layer: AUROC and FPR95 of four scores, from sums over the training set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.analysis.representation import within_scatter
from ncollapse.metrics.ood import PrincipalSubspace, auroc, covariance_score, nci_score, neco_score
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.cross_moments import CrossMoments

# Samples that are scored at once, in float64.
_ROWS = 4096
SCORES = ("neco", "nci", "mahalanobis", "energy")


def false_positive_rate(in_scores: Tensor, out_scores: Tensor, *, recall: float = 0.95) -> float:
    """Return FPR95, the share of strangers that pass as in-distribution where 95 % of the in-distribution samples do.

    The threshold is the highest score that at least ``recall`` of the in-distribution samples reach; what reaches it passes.
    In [0, 1], 0 for scores that separate; nan if a score is nan.

    Raises:
        ValueError: If either is empty.
    """
    if not in_scores.numel() or not out_scores.numel():
        raise ValueError(
            f"false_positive_rate needs scores of both kinds, got {in_scores.numel()} and {out_scores.numel()}. Pass at least "
            "one score of each."
        )
    given, other = in_scores.double().flatten(), out_scores.double().flatten()
    if bool(given.isnan().any()) or bool(other.isnan().any()):
        return float("nan")
    needed = -(-round(recall * len(given) * 10**9) // 10**9)  # the share of a whole number of samples, free of its rounding
    threshold = given.sort(descending=True).values[max(needed, 1) - 1]
    return float((other >= threshold).double().mean())


@dataclass(frozen=True, eq=False)
class StrangerScores:
    """The four scores at one layer; higher means more in-distribution."""

    neco: PrincipalSubspace  # the span of the first K-1 principal directions of standardized training features
    head: LinearClassifier  # a classifier on this layer: the network's own, or a linear probe
    mean: Tensor  # mean of the training features
    means: Tensor  # class means, shape (K, d)
    within: Tensor  # within-class covariance with sample weights

    @classmethod
    def of(cls, moments: CrossMoments, head: LinearClassifier) -> StrangerScores:
        """Return the scores, from the moments of training features and one-hot labels."""
        num_directions = max(1, min(len(moments.mean_y) - 1, len(moments.mean_x), moments.num_samples - 1))
        counts = moments.count * moments.mean_y
        means = moments.mean_x + moments.xy.T / counts.unsqueeze(1)
        within = within_scatter(moments) / moments.count
        return cls(principal_subspace(moments, num_directions), head, moments.mean_x, means, within)

    def of_samples(self, features: Tensor, logits: Tensor | None = None) -> dict[str, Tensor]:
        """Return the scores of samples (M, d) by name; logits are those of the head, where the network gives them."""
        chosen = torch.arange(len(features)).split(_ROWS)
        parts = [self._of_rows(features[rows].double(), None if logits is None else logits[rows].double()) for rows in chosen]
        return {score: torch.cat([part[score] for part in parts]) for score in SCORES}

    def _of_rows(self, rows: Tensor, logits: Tensor | None) -> dict[str, Tensor]:
        logits = torch.addmm(self.head.bias, rows, self.head.weight.T) if logits is None else logits
        # Without any variance within the classes there is no such distance.
        has_spread = bool(self.within.trace() > 0)
        undefined = rows.new_full((len(rows),), math.nan)
        return {
            "neco": neco_score(rows, self.neco),
            "nci": nci_score(rows, self.head, self.mean),
            "mahalanobis": covariance_score(rows, self.means, self.within, self.mean) if has_spread else undefined,
            "energy": torch.logsumexp(logits, dim=1),
        }


def principal_subspace(moments: CrossMoments, num_directions: int) -> PrincipalSubspace:
    """Return ``PrincipalSubspace.fit`` of standardized features, from their moments alone."""
    std = (moments.xx.diagonal() / moments.count).clamp(min=0).sqrt()
    scale = torch.where(std > 0, std, 1.0)
    vectors = torch.linalg.eigh(moments.xx / torch.outer(scale, scale)).eigenvectors
    return PrincipalSubspace(moments.mean_x, scale, vectors[:, -num_directions:].flip(1))


def detection(
    scores: Callable[[str], dict[str, Tensor]], own: str, strangers: Mapping[str, object]
) -> dict[str, tuple[float, float]]:
    """Return AUROC and FPR95 by "stranger.score", given the scores of each data set by its name."""
    given, found = scores(own), {}
    for name in strangers:
        foreign = scores(name)
        for score in SCORES:
            pair = given[score], foreign[score]
            found[f"{name}.{score}"] = auroc(*pair), false_positive_rate(*pair)
    return found
