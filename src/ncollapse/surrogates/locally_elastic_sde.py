"""Locally elastic stochastic differential equations: class means pull and push samples during training."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import combinations, pairwise
from typing import Literal, NamedTuple

import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from ncollapse.surrogates.locally_elastic_estimates import mode_amplitudes, simplex_directions
from ncollapse.surrogates.solving.arguments import check_balanced, check_counts
from ncollapse.surrogates.solving.losses import loss_value
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution

Rate = float | Callable[[float], float]


class Growth(NamedTuple):
    r"""The integrals :math:`A = \int \alpha`, :math:`B = \int \beta` and :math:`\frac1K \int \beta e^{(A + B/(K-1))/K}`."""

    alpha: float
    beta: float
    cross: float


@dataclass(frozen=True, eq=False)
class SDEPath:
    """A simulated cloud of n samples per class in p dimensions.

    Attributes:
        times: The times, shape (T,).
        means: Exact means of the simulated steps, shape (T, K, p).
        samples: The samples at the last time, shape (K, n, p).
        losses: Cross-entropy of the samples as logits at every time; empty unless p = K.
    """

    times: Tensor
    means: Tensor
    samples: Tensor
    losses: tuple[float, ...]


@dataclass(frozen=True, eq=False, repr=False)
class PathEnd(Solution):
    """The end of a simulated path, which need not be a minimum."""

    path: SDEPath = field(kw_only=True)

    def _verdict(self) -> str:
        return "Simulated"

    def _distance(self) -> str:
        return f"the loss is {self.gap:.3g} above its infimum"


@dataclass(frozen=True)
class LocallyElasticSDE:
    r"""Samples of K classes whose drift depends on the class means.

    .. math:: d\tilde X_k = (M_t \bar X)_k dt + \sigma dW

    The blocks of :math:`M_t` are :math:`\frac1K E_{kl} T_{kl}`, where E is α on the diagonal and β off it. In the I-model T =
    I. In the L-model the features are logits (p = K), which training moves along the labels: :math:`T_{kl} = d_l d_l^T / \lVert
    d_l \rVert^2` with :math:`d_l = e_l - 1/K`. One of its modes is a simplex ETF. It wins if β < 0 and ∫(α − β) = ∞; then
    pairwise cosines come to -1/(K-1) with an error of order :math:`e^{-|\int \beta| / (K-1)}`.

    Attributes:
        num_classes: K, at least 2.
        kind: "I" or "L".
        alpha: Effect of a sample's own class: a number, or a function of time.
        beta: Effect of each other class, in the same form.
        start_time: The first time.

    Reference:
        Zhang, Wang & Su (2021), NeurIPS; the L-model's projections are those of the public code.

    Example:
        >>> sde = LocallyElasticSDE(4, kind="L", alpha=0.7, beta=-0.2)
        >>> [round(4 * x, 5) for x in torch.linalg.eigvals(sde.drift(0.0)).real.sort(descending=True).values[:4].tolist()]
        [0.9, 0.63333, 0.63333, 0.63333]
    """

    num_classes: int
    _: KW_ONLY
    kind: Literal["I", "L"]
    alpha: Rate
    beta: Rate
    start_time: float = 0.0

    def __post_init__(self) -> None:
        if self.num_classes < 2 or self.kind not in {"I", "L"}:
            raise ValueError(
                f"LocallyElasticSDE needs two or more classes and kind 'I' or 'L', got {self.num_classes}, {self.kind!r}. "
                "Pass 2 or more and one of the two kinds."
            )

    def rates(self, time: float) -> tuple[float, float]:
        """Compute α and β at a time."""
        alpha, beta = (rate(time) if callable(rate) else rate for rate in (self.alpha, self.beta))
        return alpha, beta

    def drift(self, time: float, dim: int | None = None) -> Tensor:
        """Compute the matrix M_t, shape (K p, K p). For the I-model ``dim`` is p; None takes K."""
        alpha, beta = self.rates(time)
        num_classes = self.num_classes
        size = num_classes if dim is None or self.kind == "L" else dim
        effects = torch.full((num_classes, num_classes), beta, dtype=torch.float64).fill_diagonal_(alpha) / num_classes
        if self.kind == "I":
            return torch.kron(effects, torch.eye(size, dtype=torch.float64))
        directions = simplex_directions(num_classes)
        blocks = directions.unsqueeze(2) * directions.unsqueeze(1) / directions.square().sum(dim=1)[0]
        return torch.einsum("kl,lpq->kplq", effects, blocks).reshape(num_classes * size, num_classes * size)

    def separation_rate(self, time: float) -> float:
        r"""Compute K times the rate at which differences of class means grow.

        It is α - β in the I-model and for two classes. In the L-model with K >= 3 it is :math:`\max(\alpha - \beta, \alpha +
        \beta/(K-1))`, unless α = β or the start has no part in the faster mode. With a rate of a/t differences grow as
        :math:`t^{a/K}` and noise as √t: classes separate iff a > K/2. The paper's :math:`\gamma_t = \min(\alpha - \beta,
        \alpha + (K-1) \beta)` is never larger, so γ = ω(1/t) is sufficient. It is not necessary: its second part belongs to the
        mean of means, which moves all classes alike.

        Returns:
            The rate.
        """
        alpha, beta = self.rates(time)
        if not self._two_modes or alpha == beta:
            return alpha - beta
        return max(alpha - beta, alpha + beta / (self.num_classes - 1))

    @property
    def _two_modes(self) -> bool:
        """Whether differences of class means have two modes. In an L-model of two classes the second one moves both alike."""
        return self.kind == "L" and self.num_classes > 2

    def growth(self, time: float) -> Growth:
        """Integrate the rates up to a time, to a relative error of about 1e-11."""
        if time <= self.start_time:
            return Growth(0.0, 0.0, 0.0)
        num_classes = self.num_classes

        def slope(at: float, state: Sequence[float]) -> list[float]:
            alpha, beta = self.rates(at)
            return [alpha, beta, beta * math.exp((state[0] + state[1] / (num_classes - 1)) / num_classes) / num_classes]

        found = solve_ivp(slope, (self.start_time, time), [0.0, 0.0, 0.0], method="DOP853", rtol=1e-12, atol=1e-13)
        return Growth(*found.y[:, -1].tolist())

    def class_means(self, initial: Tensor, time: float) -> Tensor:
        r"""Compute the exact means at a time from the means (K, p) at the start.

        I-model: the mean of means grows by :math:`e^{(A + (K-1) B)/K}`, and differences grow by :math:`e^{(A-B)/K}`. L-model:
        let :math:`c_k = \langle X_k, d_k \rangle / \lVert d_k \rVert^2`. Their mean grows by :math:`e^{(A-B)/K}`, and their
        differences grow by :math:`e^{(A + B/(K-1))/K}`. They drive the part that is orthogonal to :math:`d_k`.

        Returns:
            Shape (K, p).

        Raises:
            ValueError: If the shape does not fit.
        """
        num_classes, initial = self.num_classes, initial.double()
        if initial.shape[0] != num_classes or (self.kind == "L" and initial.shape[1] != num_classes):
            raise ValueError(
                f"class_means needs initial means of shape ({num_classes}, {num_classes if self.kind == 'L' else 'p'}), got "
                f"{tuple(initial.shape)}. Pass one row per class."
            )
        total_alpha, total_beta, cross = self.growth(time)
        apart = math.exp((total_alpha - total_beta) / num_classes)
        if self.kind == "I":
            center = initial.mean(dim=0)
            return math.exp((total_alpha + (num_classes - 1) * total_beta) / num_classes) * center + apart * (initial - center)
        directions = simplex_directions(num_classes)
        common, rest = mode_amplitudes(initial)
        second = math.exp((total_alpha + total_beta / (num_classes - 1)) / num_classes)
        own = (apart - 1) * common + (second - 1 - cross * num_classes / (num_classes - 1)) * rest
        # Deviations sum to zero, so that Σ_l r_l d_l is the vector of deviations itself.
        return initial + own.unsqueeze(1) * directions + cross * rest

    def simulate(self, initial: Tensor, times: Tensor, *, counts: tuple[int, ...], noise: float, seed: int = 0) -> SDEPath:
        """Follow a cloud of samples by the Euler–Maruyama method.

        Args:
            initial: Where the samples of each class begin, shape (K, p).
            times: The times of the steps. They rise from the start time on.
            counts: Samples of each class, all alike: ``balanced(K, n)``.
            noise: σ, standard deviation of each coordinate after a time of one.

        Returns:
            Means along the path, and the samples at its end.

        Raises:
            ValueError: If the times do not rise from the start, or a number is out of range.
        """
        check_counts(counts)
        check_balanced(counts, "simulate")
        if len(counts) != self.num_classes:
            raise ValueError(
                f"counts must hold {self.num_classes} numbers, one for each class, got {counts}. Pass one number per class."
            )
        if not noise >= 0 or len(times) < 2 or float(times[0]) != self.start_time or not bool((times.diff() > 0).all()):
            raise ValueError(
                f"simulate needs noise of 0 or more and rising times from {self.start_time} on, got {noise} and {times}. Sort "
                "the times, and start there."
            )
        generator = torch.Generator().manual_seed(seed)
        means = initial.double()
        samples = means.unsqueeze(1).expand(-1, counts[0], -1).clone()
        path, losses = [means], [_loss(samples)]
        for before, after in pairwise(times.tolist()):
            move = (after - before) * (self.drift(before, means.shape[1]) @ means.flatten()).reshape(means.shape)
            kick = torch.randn(samples.shape, generator=generator, dtype=torch.float64)
            means, samples = means + move, samples + move.unsqueeze(1) + noise * math.sqrt(after - before) * kick
            path.append(means)
            losses.append(_loss(samples))
        history = tuple(losses) if means.shape[1] == self.num_classes else ()
        return SDEPath(times, torch.stack(path), samples, history)

    def solution(self, path: SDEPath) -> Solution:
        """Describe the end of a simulated path of logits (p = K).

        Returns:
            The samples. The value is their cross-entropy, and the bound its infimum, 0.

        Raises:
            ValueError: If p is not K.
        """
        if not path.losses:
            raise ValueError(
                f"A loss needs features that are logits, p = K = {self.num_classes}, got p = {path.means.shape[2]}. Start "
                "from means of K numbers."
            )
        end, samples = float(path.times[-1]), path.samples
        faster = "t max(α - β, α + β/(K-1))" if self._two_modes else "t (α - β)"
        branch = Inequality(f"K/2 < {faster} at the end", self.num_classes / 2, end * self.separation_rate(end))
        labels = torch.arange(self.num_classes).repeat_interleave(samples.shape[1])
        words = f"{self.kind}-model up to t = {end:g}, {len(path.times) - 1} steps"
        variables = {"features": samples.flatten(0, 1)}
        return PathEnd(path.losses[-1], variables, labels, Certificate(0.0, branch), True, path.losses, words, path=path)


def pairwise_separability(path: SDEPath) -> float:
    r"""Compute the share of samples that are nearer to the mean of their own class, averaged over ordered pairs of classes.

    Its expectation is :math:`\Phi(\lVert \bar X_k - \bar X_l \rVert / (2 \sigma \sqrt{t}))` for each pair.

    Returns:
        In [0, 1]; one half is chance.
    """
    shares = []
    for first, second in combinations(range(len(path.samples)), 2):
        normal = path.means[-1, first] - path.means[-1, second]
        middle = (path.means[-1, first] + path.means[-1, second]) / 2
        shares.append((((path.samples[first] - middle) @ normal) > 0).double().mean())
        shares.append((((path.samples[second] - middle) @ normal) < 0).double().mean())
    return float(torch.stack(shares).mean())


def _loss(samples: Tensor) -> float:
    if samples.shape[0] != samples.shape[2]:
        return math.nan
    labels = torch.arange(len(samples)).repeat_interleave(samples.shape[1])
    shares = torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    return float(loss_value("cross_entropy", samples.flatten(0, 1), labels, shares))
