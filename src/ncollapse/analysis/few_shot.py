"""Few-shot transfer: the accuracy of the nearest center of a few samples per new class, and a bound by CDNV."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.metrics.variability import cdnv
from ncollapse.statistics.batch import check_labels, flatten_features
from ncollapse.statistics.moments import ClassMoments

# Samples of each class that are decided in an episode.
_QUERIES = 15


class FewShot(NamedTuple):
    """The accuracy over episodes.

    Attributes:
        accuracy: Mean over episodes, each class with the same weight.
        standard_error: Standard error of that mean over episodes; nan for one episode.
        bound: Lower bound of the mean accuracy over all episodes, from the CDNV of the classes. It may be negative.
        ways: Number of classes in an episode.
    """

    accuracy: float
    standard_error: float
    bound: float
    ways: int


def few_shot_accuracy(
    features: Tensor, labels: Tensor, *, shots: int = 5, ways: int = 5, episodes: int = 200, seed: int = 0
) -> FewShot:
    r"""Return how well the nearest center of a few samples decides between classes, in episodes that are drawn.

    An episode draws ``ways`` classes, and of each ``shots`` samples whose mean is the center and up to 15 others that are
    decided. Beside it stands a bound (derived here): with :math:`V_{ij} = (\mathrm{Var}_i + \mathrm{Var}_j)/(2\lVert \mu_i -
    \mu_j \rVert^2)` and n shots the mean error is at most :math:`4 (1 + 1/\sqrt n)^2 (\mathrm{ways} - 1)` times the mean of V
    over pairs, for any distribution. *Proof.* A sample h of class i is nearer to its center :math:`m_i` than to :math:`m_j`
    if :math:`2\lVert h - \mu_i \rVert + \lVert m_i - \mu_i \rVert + \lVert m_j - \mu_j \rVert < \lVert \mu_i - \mu_j \rVert`.
    By Markov's and the Cauchy–Schwarz inequality with weights a + b = 1 the probability of the contrary is at most
    :math:`(4 \mathrm{Var}_i / a + 2 (\mathrm{Var}_i + \mathrm{Var}_j) / (n b)) / \lVert \mu_i - \mu_j \rVert^2`, as
    :math:`E \lVert m_i - \mu_i \rVert^2 \le \mathrm{Var}_i / n`. The mean over i and j exchanged is
    :math:`4 V_{ij} (1/a + 1/(n b))`, smallest for :math:`a = \sqrt n / (1 + \sqrt n)`; add up over the rivals. ∎

    Args:
        features: Shape (N, ...).
        labels: Their new classes, shape (N,). Classes with at most ``shots`` samples are left out.
        shots: Samples that a center is the mean of.
        ways: Classes in an episode; fewer if there are fewer.
        episodes: Number of episodes.
        seed: Decides which classes and samples are drawn.

    Raises:
        ValueError: If fewer than two classes are left, or a number is below 1.

    Reference:
        Snell, Swersky & Zemel (2017), NeurIPS, "Prototypical networks for few-shot learning" (the protocol); Galanti, György &
        Hutter (2022), ICLR, "On the role of neural collapse in transfer learning" (CDNV as a bound, with other constants).
    """
    features = flatten_features(features)
    labels = check_labels(labels, len(features), int(labels.max()) + 1)
    rows = [found for k in labels.unique() if len(found := (labels == k).nonzero().flatten()) > shots]
    if len(rows) < 2 or min(shots, ways - 1, episodes) < 1:
        raise ValueError(
            f"few_shot_accuracy needs two classes with more than {shots} samples and 1 shot, 2 ways and 1 episode or more, "
            f"got {len(rows)} such classes, shots={shots}, ways={ways}, episodes={episodes}. Pass more samples, or fewer shots."
        )
    ways = min(ways, len(rows))
    generator = torch.Generator().manual_seed(seed)
    values = torch.tensor([_episode(features, rows, shots, ways, generator) for _ in range(episodes)], dtype=torch.float64)
    kept = torch.cat(rows)
    renumbered = torch.cat([torch.full_like(part, index) for index, part in enumerate(rows)])
    spread = float(cdnv(ClassMoments.from_batch(features[kept], renumbered, len(rows))))
    bound = 1 - 4 * (1 + 1 / math.sqrt(shots)) ** 2 * (ways - 1) * spread
    error = float(values.std(correction=1)) / math.sqrt(episodes) if episodes > 1 else math.nan
    return FewShot(float(values.mean()), error, bound, ways)


def _episode(features: Tensor, rows: list[Tensor], shots: int, ways: int, generator: torch.Generator) -> float:
    chosen = [rows[k] for k in torch.randperm(len(rows), generator=generator)[:ways].tolist()]
    shuffled = [part[torch.randperm(len(part), generator=generator)] for part in chosen]
    centers = torch.stack([features[part[:shots]].double().mean(dim=0) for part in shuffled])
    shares = []
    for index, part in enumerate(shuffled):
        queries = features[part[shots : shots + _QUERIES]].double()
        distances = torch.cdist(queries, centers, compute_mode="donot_use_mm_for_euclid_dist")
        shares.append(float((distances.argmin(dim=1) == index).double().mean()))
    return sum(shares) / ways
