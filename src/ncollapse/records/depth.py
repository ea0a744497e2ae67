"""Results over depth as records: what functions of ``ncollapse.depth`` return and ``depth.json`` holds.

A number that is undefined is nan where it was computed, and None where it was read from a file: JSON has no nan.
"""

import math
from dataclasses import dataclass, field

from ncollapse.records.theorems import (
    CollapsedOptimality,
    Flattening,
    Number,
    Numbers,
    PolarAlignment,
    Theorem1,
    Theorem2,
    Theorem3,
    WeightDecayBound,
    total_of,
)

# The error of the nearest class center that the effective depth allows, wherever there is only one threshold.
EPSILON = 0.005
# Decades of PFC2 by which the flow of class means and the straight line must differ to be told apart.
APART = 0.02


@dataclass(frozen=True)
class Progression:
    """How a metric that should decrease goes over the layers.

    Attributes:
        violations: Indices l+1 of the layers whose value exceeds (1 + tolerance) times the one before.
        largest: Largest rise :math:`v_{l+1} - v_l`, 0 if there is none; nan if a value is undefined.
        kendall_tau: Kendall's τ with the layer index, -1 for a strict decrease (tau-b: ties pull it towards 0).
        spearman: Spearman's correlation with the layer index, -1 for a strict decrease.
        tolerance: Relative rise that is let pass.
    """

    violations: tuple[int, ...]
    largest: float
    kendall_tau: float
    spearman: float
    tolerance: float

    @property
    def monotone(self) -> bool:
        """Whether no layer violates the decrease and every value is defined."""
        return not self.violations and not math.isnan(self.largest)


@dataclass(frozen=True)
class LayerProgression:
    """``Progression`` of one metric with the layers by name, without a tolerance and (``_tol``) with it."""

    violations: tuple[str, ...]
    monotone: bool | None = None
    num_violations: int | None = None
    largest: Number = None
    kendall_tau: Number = None
    spearman: Number = None
    tolerance: Number = None
    violations_tol: tuple[str, ...] | None = None
    num_violations_tol: int | None = None


@dataclass(frozen=True)
class EffectiveDepth:
    """The first layer at which at most a share ε of the nearest-center decisions is wrong.

    Attributes:
        epsilon: ε.
        depth: First layer index with error <= ε; the last layer's index if none (see ``reached``).
        reached: Whether any layer has error <= ε.
        monotone_after: Whether the error stays <= ε at all deeper layers.
    """

    epsilon: float
    depth: int
    reached: bool
    monotone_after: bool | None = None


@dataclass(frozen=True)
class Curve:
    """The metrics at positions t in [0, 1] between the first and the last layer."""

    t: tuple[float, ...]
    pfc1: Numbers
    pfc2: Numbers
    pfc3: Numbers | None = None
    cdnv: Numbers | None = None


@dataclass(frozen=True)
class PredictionError:
    """RMS error over the interior layers in decades, by metric, of the straight line, the log-linear baseline and the flow."""

    line: dict[str, Number]
    baseline: dict[str, Number]
    # The flow of class means predicts PFC2 alone, for layers at their index or their projection; else it has no entry.
    flow: dict[str, Number] = field(default_factory=dict)


@dataclass(frozen=True)
class MeanPath:
    """The path of the class means beside the flow between their first and last Gram matrix (docs/theory.md, 3.16)."""

    # RMS decades between PFC2 of the straight line and of the flow over interior layers, placed by projection.
    gap: Number = None
    # Of the path with these ends that comes nearest to the layers' PFC2, clock-free: the flow has 0, a straight line of class
    # means 1/2. None where the gap is below `APART`, or no path fits.
    exponent: Number = None
    # Squared weights of the least linear maps from layer to layer, over the least that residual blocks can spend.
    cost: Number = None
    nuclear_cost: Number = None  # the same with the sum of singular values, which decay of two linear layers per block pays for


@dataclass(frozen=True)
class Straightness:
    """Chord over path length, line-shape score and turning angle, averaged over samples (docs/theory.md, 3.6)."""

    mean: Number
    median: Number = None
    line_shape_score_mean: Number = None
    line_shape_score_median: Number = None
    turning_angle_mean_degrees: Number = None
    chord_deviation: Number = None
    r_squared: Number = None
    speed_cov: Number = None


@dataclass(frozen=True)
class Energy:
    """The chain of costs from the kinetic energy down, and optimal transport on a sample (docs/theory.md, 3.6 and 3.8)."""

    efficiency: Number
    energy: Number = None
    energy_min: Number = None
    identity_cost: Number = None
    wasserstein2: Number = None
    gelbrich: Number = None
    identity_cost_sample: Number = None
    random_cost_sample: Number = None
    num_samples_wasserstein: int | None = None
    pair_violation_rate: Number = None
    num_pairs: int | None = None

    @property
    def transport_score(self) -> Number:
        """Wasserstein-2 over the cost of the network's own pairing, squared both; 1 iff the pairing is optimal."""
        best, own = self.wasserstein2, self.identity_cost_sample
        return best / own if best is not None and own else None

    @property
    def random_ratio(self) -> Number:
        """Cost of a random pairing over the best; where it is near 1 any pairing is nearly optimal."""
        best, random = self.wasserstein2, self.random_cost_sample
        return random / best if random is not None and best else None


@dataclass(frozen=True)
class ExcessEnergy:
    r"""What the energy of a sample's paths costs above optimal transport, by cause (docs/theory.md, 3.8), in squared features.

    Attributes:
        energy: 𝓔, kinetic energy with equal time steps.
        speed: For each block its part of :math:`\mathcal{E} - \mathcal{E}_{\min}`: steps of unequal length.
        bend: For each block its part of :math:`\mathcal{E}_{\min} - c_{id}`: paths off the chord, or out of step.
        identity_cost: :math:`c_{id}`, cost of the network's own pairing of first and last features.
        wasserstein2: :math:`W_2^2`, cost of the best pairing.
        step_wasserstein2: Of each block, :math:`W_2^2` of its input and output.
    """

    energy: Number
    speed: Numbers
    bend: Numbers
    identity_cost: Number
    wasserstein2: Number
    step_wasserstein2: Numbers

    @property
    def excess(self) -> Number:
        """What the energy is above W₂², 0 iff the paths are a geodesic at even steps."""
        return None if self.energy is None or self.wasserstein2 is None else self.energy - self.wasserstein2

    @property
    def speed_share(self) -> Number:
        """Share of uneven speed in the excess, in [0, 1]; None where there is none."""
        return self._share(total_of(self.speed))

    @property
    def bend_share(self) -> Number:
        """Share of bends in the excess."""
        return self._share(total_of(self.bend))

    @property
    def pairing_share(self) -> Number:
        """Share of the pairing in the excess."""
        own, best = self.identity_cost, self.wasserstein2
        return None if own is None or best is None else self._share(own - best)

    def _share(self, part: Number) -> Number:
        # An excess that is the rounding of the energy has no parts.
        if part is None or not self.excess or not self.energy or self.excess <= 1e-12 * self.energy:
            return None
        return part / self.excess

    @property
    def detour(self) -> Number:
        r""":math:`\sum_l W_2(l, l+1) / W_2(0, L)`, at least 1, and 1 iff the layers lie on a geodesic."""
        if None in self.step_wasserstein2 or not self.wasserstein2:
            return None
        return sum(math.sqrt(step) for step in self.step_wasserstein2 if step) / math.sqrt(self.wasserstein2)


@dataclass(frozen=True)
class DepthRecord:
    """One epoch of ``depth.json``: everything that a measurement along the layers' paths says about depth."""

    epoch: int
    layers: tuple[str, ...]
    positions: dict[str, Numbers]
    curve: Curve
    baseline: Curve
    prediction_error: dict[str, PredictionError]
    progression: dict[str, LayerProgression]
    effective_depth: tuple[EffectiveDepth, ...]
    theorem1: Theorem1 | None = None
    theorem2: Theorem2 | None = None
    theorem3: Theorem3 | None = None
    alignment: PolarAlignment | None = None
    flattening: Flattening | None = None
    collapsed_optimality: CollapsedOptimality | None = None
    straightness: Straightness | None = None
    energy: Energy | None = None
    excess: ExcessEnergy | None = None
    weight_decay: WeightDecayBound | None = None
    mean_path: MeanPath | None = None

    @classmethod
    def without_results(cls, epoch: int, layers: tuple[str, ...]) -> "DepthRecord":
        """Make the record of an epoch at which layers were measured, but not the paths of the samples."""
        nothing = Curve((), (), ())
        return cls(epoch, layers, {}, nothing, nothing, {}, {}, ())
