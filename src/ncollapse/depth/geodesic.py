"""The straight line between two layers (Wasserstein geodesic): its PFC curves in closed form, and a baseline for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ncollapse.statistics.batch import row_blocks
from ncollapse.statistics.centers import TIE
from ncollapse.statistics.conventions import ClassWeights, Convention, convention_parts
from ncollapse.statistics.paired import PairedMoments

GRID = tuple(step / 100 for step in range(101))
# Numbers of one block, which stays in a cache.
_BLOCK_ELEMENTS = 2**17


def _bernstein(start: Tensor, cross: Tensor, end: Tensor, times: Tensor) -> Tensor:
    """Compute (1-t)² start + 2t(1-t) cross + t² end at all times."""
    t = times
    return start * (1 - t) ** 2 + 2 * cross * t * (1 - t) + end * t**2


def _polynomials(times: Tensor) -> Tensor:
    """Return the polynomials (1-t)², 2t(1-t) and t² at all times, shape (T, 3)."""
    return torch.stack([(1 - times) ** 2, 2 * times * (1 - times), times**2], dim=1)


@dataclass(frozen=True, eq=False)
class GeodesicCurve:
    r"""PFC curves along the line :math:`h(t) = (1-t) h^0 + t h^L`, exactly, from one pass over the data.

    Each curve follows from polynomials of degree two in t, whose coefficients are joint statistics of the end points
    (docs/theory.md, 3.1): :math:`\mathrm{tr} \Sigma_W(t) = (1-t)^2 w_0 + 2t(1-t) w_1 + t^2 w_2`, and likewise
    :math:`\mathrm{tr} \Sigma_B` and the Gram matrix. A whole curve therefore costs no further pass. PFC3 needs the samples,
    see ``LineDecisions``. ``times`` are T positions; 0 is the first layer, 1 the last, and others extend the line. A curve is a
    float64 tensor of shape (T,).

    Attributes:
        paired: Joint moments of the first and the last layer.
        convention: Class weights of the covariances. The Gram matrix of PFC2 is always centered at the mean of class means.

    Reference:
        Progressive feedforward collapse, arXiv 2405.00985, eqs (10) and (11); Gai & Zhang (2021).
    """

    paired: PairedMoments
    convention: Convention = "class"

    def __repr__(self) -> str:
        moments, ends = self.paired.first, self.pfc1([0.0, 1.0]).tolist()
        return (
            f"GeodesicCurve({moments.num_samples} samples of {moments.num_classes} classes, {moments.dim} dimensions, "
            f"convention {self.convention!r}: PFC1 {ends[0]:.4g} at t=0, {ends[1]:.4g} at t=1)"
        )

    def within_coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return :math:`(w_0, w_1, w_2)`, 0-d: traces of the within-class covariances at the ends and (w_1) across them."""
        first, last = self.paired.first, self.paired.last
        weights = convention_parts(self.convention).within
        return first.within_trace(weights), self.paired.within_cross_trace(weights), last.within_trace(weights)

    def between_coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return :math:`(b_0, b_1, b_2)`, 0-d: traces of the between-class covariances at the ends and (b_1) across them."""
        parts = convention_parts(self.convention)
        alpha = self.paired.first.class_weights(parts.between)
        start, end = self._means(parts.center)
        products = (start * start, start * end, end * end)
        b0, b1, b2 = (alpha @ product.sum(dim=1) for product in products)
        return b0, b1, b2

    def gram_coefficients(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the (K, K) Gram matrices of the centered means at the ends and, in the middle, their symmetrized product."""
        start, end = self._means("class")
        cross = start @ end.T
        return start @ start.T, (cross + cross.T) / 2, end @ end.T

    def _means(self, center: ClassWeights) -> tuple[Tensor, Tensor]:
        return self.paired.first.centered_means(center), self.paired.last.centered_means(center)

    def pfc1(self, times: Sequence[float] = GRID) -> Tensor:
        """Return within- over between-class variability on the line; nan where all class means coincide."""
        t = _times(times, self.paired)
        within = _bernstein(*self.within_coefficients(), t)
        between = _bernstein(*self.between_coefficients(), t)
        return torch.where(between > _floor(self.paired), within / between, math.nan)

    def pfc2(self, times: Sequence[float] = GRID) -> Tensor:
        """Return the distance of the Gram matrix from a simplex ETF's on the line; nan where all class means coincide."""
        t, num_classes = _times(times, self.paired), self.paired.first.num_classes
        if num_classes < 2:
            return t * math.nan
        traces, factor = self._beside_frame
        # G = a F + R of a frame F of norm 1 and R orthogonal to it, so that |G/|G| - F|² = (|R|/|G|)² + (1 - a/|G|)², and
        # 1 - a/|G| = |R|²/(|G| (|G| + a)) keeps its digits near a frame.
        along = _polynomials(t) @ traces / math.sqrt(num_classes - 1)
        parts = torch.cat([along.unsqueeze(0), factor @ _polynomials(t).T])
        parts = parts / parts.abs().amax(dim=0)  # Else their squares leave the range of float64 beyond 1e77.
        size, rest = torch.linalg.vector_norm(parts, dim=0), torch.linalg.vector_norm(parts[1:], dim=0)
        distances = rest / size * torch.hypot(torch.ones_like(rest), rest / (size + parts[0]))
        return torch.where(along * math.sqrt(num_classes - 1) > num_classes * _floor(self.paired), distances, math.nan)

    @cached_property
    def _beside_frame(self) -> tuple[Tensor, Tensor]:
        """The traces of the three Gram matrices, and a triangular factor of what they are beside a frame's."""
        # Lengths of combinations of three long vectors are those of combinations of the columns of their factor.
        num_classes, grams = self.paired.first.num_classes, self.gram_coefficients()
        traces = torch.stack([gram.trace() for gram in grams])
        centering = torch.eye(num_classes, dtype=torch.float64, device=traces.device) - 1.0 / num_classes
        rest = [gram - trace / (num_classes - 1) * centering for gram, trace in zip(grams, traces, strict=True)]
        return traces, torch.linalg.qr(torch.stack(rest).flatten(1).T, mode="r").R

    def cdnv(self, times: Sequence[float] = GRID) -> Tensor:
        """Return the mean class-distance normalized variance on the line; nan where two class means coincide."""
        t, paired = _times(times, self.paired), self.paired
        counts, num_classes = paired.first.counts, paired.first.num_classes
        if num_classes < 2:
            return t * math.nan
        k, j = torch.triu_indices(num_classes, num_classes, 1, device=t.device)
        separations = torch.stack([matrix[k, j] for matrix in paired.separations])
        variances = torch.stack([paired.first.class_variances, paired.cross_traces / counts, paired.last.class_variances])
        weights, sums, floor = _polynomials(t), torch.zeros_like(t), _floor(paired)
        step = max(1, _BLOCK_ELEMENTS // max(1, len(t)))
        for start in range(0, len(k), step):
            some = slice(start, start + step)
            distances = weights @ separations[:, some]
            spreads = weights @ (variances[:, k[some]] + variances[:, j[some]])
            sums += torch.where(distances > floor, spreads / distances, math.nan).sum(dim=1)
        return sums / (2 * len(k))


def _times(times: Sequence[float], paired: PairedMoments) -> Tensor:
    return torch.as_tensor(times, dtype=torch.float64, device=paired.cross_traces.device)


def _floor(paired: PairedMoments) -> Tensor:
    return torch.maximum(paired.first.rounding_floor, paired.last.rounding_floor)


@dataclass(frozen=True, eq=False)
class LineDecisions:
    r"""Nearest-class-center decisions on the straight line, and the pairs that could break their progress; additive.

    The squared distance of sample i to class mean j at t is
    :math:`(1-t)^2 A_{ij} + 2t(1-t) B_{ij} + t^2 C_{ij}` with :math:`A_{ij} = \lVert h_i^0 - \mu_j^0 \rVert^2`,
    :math:`B_{ij} = \langle h_i^0 - \mu_j^0, h_i^L - \mu_j^L \rangle`, :math:`C_{ij} = \lVert h_i^L - \mu_j^L \rVert^2`.

    Attributes:
        times: Positions t, shape (T,).
        correct: Samples decided for their own class at each position, shape (T,), float64; nan if a class has no samples.
        num_samples: Samples seen, 0-d.
        violating_pairs: Pairs (i, j) with ΔA > 0, ΔB < 0 and ΔB² > ΔA·C for an end point collapsed to its class means, 0-d. If
            there are none, the accuracy never falls along the line (docs/theory.md, 3.4).
        num_pairs: Pairs (i, j), j another class than that of i, 0-d.
    """

    times: Tensor
    correct: Tensor
    num_samples: Tensor
    violating_pairs: Tensor
    num_pairs: Tensor

    def __repr__(self) -> str:
        accuracy = self.pfc3().tolist()
        return (
            f"LineDecisions({int(self.num_samples)} samples at {len(self.times)} positions: PFC3 {accuracy[0]:.4g} at the "
            f"first, {accuracy[-1]:.4g} at the last)"
        )

    @classmethod
    def from_batch(
        cls, first: Tensor, last: Tensor, labels: Tensor, paired: PairedMoments, times: Sequence[float] = GRID
    ) -> LineDecisions:
        """Return the sums over one batch.

        Args:
            first: Features of the first layer.
            last: Those of the last layer.
            labels: Checked labels, shape (N,).
            paired: Final joint moments, whose class means decide.
        """
        t = _times(times, paired)
        num_classes = paired.first.num_classes
        # If a class is empty, nothing is decided, since its mean does not exist.
        start = math.nan if bool((paired.first.counts == 0).any()) else 0.0
        correct = torch.full((len(t),), start, dtype=torch.float64, device=first.device)
        violating = correct.new_full((), start)
        classes = torch.arange(num_classes, device=first.device)
        for rows in row_blocks(first, max(first.shape[1], num_classes)):
            own = labels[rows]
            residuals = first[rows] - paired.first.means[own], last[rows] - paired.last.means[own]
            delta_a, delta_b, delta_c, collapsed_b, collapsed_c = _margins(*residuals, own, paired)
            # Ties go to the smaller index, within the rounding of the margins.
            rounding = _rounding(*residuals, own, paired)
            needed = torch.where(classes < own.unsqueeze(1), rounding + torch.finfo(torch.float64).tiny, -rounding)
            correct += _num_right(torch.stack([delta_a, delta_b, delta_c]), needed, t)
            violating += ((delta_a > 0) & (collapsed_b < 0) & (collapsed_b.square() > delta_a * collapsed_c)).sum()
        num_pairs = torch.tensor(len(labels) * (num_classes - 1))
        return cls(t, correct, torch.tensor(len(labels)), violating, num_pairs)

    def merge(self, other: LineDecisions) -> LineDecisions:
        """Merge the decisions about two sets of samples."""
        return LineDecisions(
            self.times,
            self.correct + other.correct,
            self.num_samples + other.num_samples,
            self.violating_pairs + other.violating_pairs,
            self.num_pairs + other.num_pairs,
        )

    def pfc3(self) -> Tensor:
        """Return the nearest-class-center accuracy at every position, shape (T,)."""
        return self.correct / self.num_samples


def _num_right(margins: Tensor, needed: Tensor, times: Tensor) -> Tensor:
    """Count the samples all of whose margins, given by coefficients (3, N, K), reach what is needed, at every time."""
    found, num_classes = torch.zeros_like(times), needed.shape[1]
    if bool(((times >= 0) & (times <= 1)).all()):
        # There the margin is a mean of its three coefficients. Where all of them agree by more than its rounding, so does it.
        slack = margins.abs().amax(dim=0).mul_(TIE)
        always = (margins.amin(dim=0) >= needed + slack).all(dim=1)
        undecided = (~always & ~(margins.amax(dim=0) < needed - slack).any(dim=1)).nonzero().flatten()
        found += always.sum()
        margins, needed = margins.index_select(1, undecided), needed.index_select(0, undecided)
    step = max(1, _BLOCK_ELEMENTS // (2 * num_classes))
    for start in range(0, len(needed), step):
        coefficients, least = margins[:, start : start + step].flatten(1), needed[start : start + step].flatten()
        parts = _polynomials(times).split(4)
        right = [(part @ coefficients >= least).view(len(part), -1, num_classes).all(dim=2).sum(dim=1) for part in parts]
        found += torch.cat(right)
    return found


def _margins(
    first: Tensor, last: Tensor, labels: Tensor, paired: PairedMoments
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute how much farther class j is than the own class, (N, K) each: ΔA, ΔB, ΔC, then ΔB and C of a collapsed end."""
    # Written with the given residuals r = h - μ_k and differences δ = μ_k - μ_j, so that no large numbers are subtracted:
    # ΔA = 2 r⁰·δ⁰ + |δ⁰|², ΔB = r⁰·δᴸ + rᴸ·δ⁰ + δ⁰·δᴸ, ΔC = 2 rᴸ·δᴸ + |δᴸ|².
    means = paired.first.centered_means(), paired.last.centered_means()

    def toward(residual: Tensor, centers: Tensor) -> Tensor:
        products = residual @ centers.T
        return products.gather(1, labels.unsqueeze(1)) - products

    between_start, between_cross, collapsed_c = (matrix[labels] for matrix in paired.separations)
    delta_a = 2 * toward(first, means[0]) + between_start
    delta_c = 2 * toward(last, means[1]) + collapsed_c
    collapsed_b = toward(first, means[1]) + between_cross
    delta_b = collapsed_b + toward(last, means[0])
    # Means that coincide are equally near; without this the rounding of their sums would decide.
    same, same_end = (coincident[labels] for coincident in paired.coincident)
    delta_a, delta_c = delta_a.masked_fill(same, 0.0), delta_c.masked_fill(same_end, 0.0)
    return delta_a, delta_b.masked_fill(same & same_end, 0.0), delta_c, collapsed_b, collapsed_c


def _rounding(first: Tensor, last: Tensor, labels: Tensor, paired: PairedMoments) -> Tensor:
    """Bound the rounding of these margins at both ends, (N, K), as in ``ClassCenters.nearest``; 0 for the own class."""
    parts = []
    for residuals, separations in zip((first, last), (paired.separations[0], paired.separations[2]), strict=True):
        reach = torch.linalg.vector_norm(residuals, dim=1, keepdim=True)
        parts.append(TIE * (separations[labels] + reach * separations[labels].sqrt()))
    return torch.maximum(*parts)


def log_linear(start: float, end: float, times: Sequence[float] = GRID) -> list[float]:
    """Return the line's baseline, log-linear interpolation :math:`v_0^{1-t} v_L^t`; nan unless both ends are positive."""
    if not (start > 0 and end > 0):
        return [math.nan] * len(times)
    return [math.exp((1 - t) * math.log(start) + t * math.log(end)) for t in times]


def prediction_error(measured: Sequence[float], predicted: Sequence[float]) -> float:
    r"""Return the RMS of :math:`\log_{10}(\mathrm{measured}_l / \mathrm{predicted}_l)` over interior layers, in decades.

    Both have one value per layer. The first and the last are equal by construction and left out. 0 is a perfect prediction; nan
    without interior layers or where a value is not positive.
    """
    interior = list(zip(measured, predicted, strict=True))[1:-1]
    if not interior or any(not (m > 0 and p > 0) for m, p in interior):
        return math.nan
    return math.sqrt(sum(math.log10(m / p) ** 2 for m, p in interior) / len(interior))
