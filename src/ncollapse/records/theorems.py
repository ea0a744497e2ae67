"""Theorems on measured features, and the bound of weight decay: made by ``ncollapse.depth``, kept in ``depth.json``.

A number that is undefined is nan where it was computed, and None where it was read from a file: JSON has no nan.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

Number = float | None
Numbers = tuple[Number, ...]


@dataclass(frozen=True)
class Theorem1:
    r"""Whether PFC1 falls along the line (docs/theory.md, 3.2).

    Attributes:
        holds: The theorem's assumption, correlation >= 0: necessary and sufficient for a collapsed end point. None, like
            ``monotone``, where a class has no samples or all class means of an end coincide: C is then 0, whatever was learned.
        correlation: :math:`C = \sum_k \alpha_k \langle \mu_k^0 - \mu^0, \mu_k^L - \mu^L \rangle`.
        normalized: :math:`C / \sqrt{b_0 b_2}` in [-1, 1]; nan where ``holds`` is None.
        monotone: Whether PFC1 is non-increasing on [0, 1] for the end points as they are.
        argmax_t: Where PFC1 is largest on [0, 1].
        coefficients: (a, β, c) of the derivative's numerator :math:`a(1-t)^2 + \beta t(1-t) + c t^2`.
    """

    holds: bool | None
    correlation: Number
    normalized: Number
    monotone: bool | None
    argmax_t: Number = None
    coefficients: Numbers | None = None


@dataclass(frozen=True)
class Theorem2:
    """Whether PFC2 falls along the line (docs/theory.md, 3.3).

    Attributes:
        monotone: Exact: PFC2 is non-increasing on [0, 1]. None, like the conditions, where a class has no samples or all
            class means of an end coincide.
        intervals: Where it rises, as pairs (t0, t1).
        sufficient_a: Sufficient condition (A), for an end point that is a simplex ETF.
        sufficient_b: Sufficient condition (B): true for a fixed direction once the transport cost is small enough.
        relative_cost: Transport cost of the class means, ‖M̄_0 - M̄_L‖_F / ‖M̄_L‖_F.
        end_distance: PFC2 at the end point: the sufficient conditions say something only where it is 0.
    """

    monotone: bool | None
    intervals: tuple[tuple[float, float], ...] | None
    sufficient_a: bool | None
    sufficient_b: bool | None
    relative_cost: Number
    end_distance: Number = None


@dataclass(frozen=True)
class Theorem3:
    """Whether nearest-center accuracy would never fall along the line to a collapsed end (docs/theory.md, 3.4).

    Attributes:
        guaranteed: No violating pair: were the end point collapsed to its class means, the accuracy could not fall. None,
            like the other counts, if a class has no samples. Of the measured end, ``num_falls`` tells.
        violating_pairs: Pairs (sample, other class) that could break it.
        num_pairs: All such pairs.
        num_falls: Steps of the line between the measured ends at which the accuracy falls.
        num_steps: Steps of the line.
    """

    guaranteed: bool | None
    violating_pairs: int | None
    num_pairs: int | None
    num_falls: int | None = None
    num_steps: int | None = None


@dataclass(frozen=True)
class PolarAlignment:
    """Whether the class means move by the optimal rotation, so that PFC2 falls along the line (docs/theory.md, 3.3).

    Attributes:
        alignment: In [-1, 1]; 1 iff no rotation of the last means brings them nearer to the first. nan where a class has no
            samples or all class means of an end coincide.
        end_distance: PFC2 at the end point, 0 for a simplex ETF.
        guaranteed: Both assumptions hold up to rounding, so that PFC2 cannot rise on the line. None where undefined.
    """

    alignment: Number
    end_distance: Number = None
    guaranteed: bool | None = None


@dataclass(frozen=True)
class Flattening:
    """How far the last class means are from what makes PFC2 fall along the line (docs/theory.md, 3.3), by theorem.

    Distances are relative to the length of the last class means; nan where a class has no samples, all class means of an end
    coincide, or there are too few dimensions.

    Attributes:
        misalignment: From the singular vectors of the first class means.
        ratio_defect: From there to singular values that become more equal in the same order.
        etf_distance: From the nearest simplex ETF, the end that Theorem 2 asks for.
        etf_sufficient: Condition (A) or (B) of Theorem 2 holds with that ETF as the end.
        polar_distance: From a multiple of the polar factor of the first class means, the end of the theorem of the rotation.
        radius: How far an end that meets the flattening theorem's hypothesis, the nearest one, may move without PFC2 rising.
        guaranteed: The measured end is within that radius (or rounding), so that PFC2 cannot rise on the line.
    """

    misalignment: Number
    ratio_defect: Number
    etf_distance: Number
    etf_sufficient: bool | None
    polar_distance: Number
    radius: Number
    guaranteed: bool | None

    @property
    def defect(self) -> Number:
        """Distance from the flattening theorem's hypothesis: both parts together."""
        turned, uneven = self.misalignment, self.ratio_defect
        return None if turned is None or uneven is None else math.hypot(turned, uneven)


@dataclass(frozen=True)
class CollapsedOptimality:
    r"""Whether the pairing with the final class means is optimal, with the proof.

    Attributes:
        optimal: No cycle of classes improves the pairing. Also where all first features or all final class means coincide, so
            that every pairing costs the same.
        biases: Proof if it is: :math:`\beta_k` such that, for every sample i of class k and every j,
            :math:`\langle h_i^0, y_k \rangle + \beta_k \ge \langle h_i^0, y_j \rangle + \beta_j`, so that the linear classifier
            whose weights are the final class means classifies the first layer without error, ties aside; nan for classes
            without samples. None if not optimal.
        cycle: Proof if it is not: classes k₀, k₁, …, each of which gives one sample to the next, the last to the first.
            None if optimal.
        gain: By how much that cycle lowers the total cost :math:`\sum_i \lVert h_i^0 - y \rVert^2`; 0 if optimal.
        tolerance: What counts as rounding in the sum over a cycle, and in the inequalities for the biases.
    """

    optimal: bool | None
    biases: Numbers | None = None
    cycle: tuple[int, ...] | None = None
    gain: Number = None
    tolerance: Number = None


@dataclass(frozen=True)
class BlockBound:
    r"""What a block adds, and the two bounds of it, in units of squared features.

    Attributes:
        energy: Measured :math:`\mathbb{E} \lVert f(h) \rVert^2`.
        by_moment: Bound from parameters and inputs, :math:`\mathrm{tr}(W S W^T)` or its form for two layers or a normalization.
        by_weights: Bound from the parameters' norms and :math:`\lambda_{\max}(S)` alone; at least ``by_moment``.
        largest_eigenvalue: :math:`\lambda_{\max}(S)` of the second moment S of the inputs; behind a normalization, of each
            normalized number with a 1.
        squared_weights: :math:`\lVert \theta \rVert^2` of the linear layers, biases included; where the block normalizes, of
            its last normalization and the layer behind it.
        block: The block's name; empty if unknown.
    """

    energy: Number
    by_moment: Number
    by_weights: Number
    largest_eigenvalue: Number = None
    squared_weights: Number = None
    block: str = ""


@dataclass(frozen=True)
class WeightDecayBound:
    r"""All blocks of a network: :math:`\mathcal{E} / L = \sum_l \mathbb{E} \lVert f_l \rVert^2` against its bounds.

    Attributes:
        blocks: One bound for each block, in order of depth.
        is_bound: False only in files of version 0.2 and before, for blocks that normalize: their numbers bound nothing.
    """

    blocks: tuple[BlockBound, ...]
    is_bound: bool = True

    @property
    def energy(self) -> Number:
        r""":math:`\sum_l \mathbb{E} \lVert f_l \rVert^2`; at least :math:`\mathcal{E} / L` of paths centered at each layer."""
        return total_of(block.energy for block in self.blocks)

    @property
    def by_moment(self) -> Number:
        """Sum of the bounds from parameters and inputs."""
        return total_of(block.by_moment for block in self.blocks)

    @property
    def by_weights(self) -> Number:
        """Sum of the bounds from the parameters' norms."""
        return total_of(block.by_weights for block in self.blocks)

    @property
    def squared_weights(self) -> Number:
        r""":math:`\sum_l \lVert \theta_l \rVert^2`, which weight decay pays for."""
        return total_of(block.squared_weights for block in self.blocks)

    @property
    def tightness(self) -> Number:
        """Share of the bound by parameters and inputs that is used, in [0, 1]; None where it is undefined or no bound."""
        used, allowed = self.energy, self.by_moment
        return used / allowed if self.is_bound and used is not None and allowed else None


def total_of(numbers: Iterable[Number]) -> Number:
    """Add numbers; None if one is undefined."""
    known = list(numbers)
    return None if None in known else sum(number for number in known if number is not None)
