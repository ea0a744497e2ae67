"""The files of a run directory as types: what the report reads of them, and nothing else. None means undefined."""

from dataclasses import dataclass, field

__all__ = [
    "EPSILON",
    "Alignment",
    "BlockEnergy",
    "CollapsedOptimality",
    "Curve",
    "DepthFile",
    "DepthRecord",
    "EffectiveDepth",
    "Energy",
    "Glossary",
    "HistoryRow",
    "MeasurementRow",
    "ObjectiveFile",
    "ObjectiveRecord",
    "PredictionError",
    "Progression",
    "Recipe",
    "Status",
    "Straightness",
    "Theorem1",
    "Theorem2",
    "Theorem3",
    "WeightDecay",
]

Numbers = tuple[float | None, ...]

# The error of the nearest class center that the effective depth allows, wherever one threshold stands for all.
EPSILON = 0.005


@dataclass(frozen=True)
class Recipe:
    """``recipe.json``, the part with a fixed shape; ``changed`` is what differs from the named recipe, the rest is shown."""

    name: str
    title: str = ""
    description: str = ""
    seed: int | None = None
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Glossary:
    """``glossary.json``: what the metrics and flags of the run mean, in a phrase each; absent in runs of other makers."""

    metrics: dict[str, str] = field(default_factory=dict)
    flags: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Status:
    """``status.json``: how far the run has come, and why it failed; the first perfect epoch is the first measured one."""

    state: str
    epoch: int
    epochs: int
    train_accuracy: float | None = None
    first_perfect_epoch: int | None = None
    seconds: float | None = None
    weight_decay_time: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class HistoryRow:
    """One line of ``history.csv``: an epoch of training."""

    epoch: int
    loss: float
    accuracy: float
    learning_rate: float
    grad_norm: float


@dataclass(frozen=True)
class MeasurementRow:
    """One line of ``measurements.csv``: one metric of one layer at one epoch; ``value`` is nan where undefined."""

    epoch: int
    split: str
    depth: int
    layer: str
    metric: str
    value: float
    flags: tuple[str, ...]


@dataclass(frozen=True)
class Curve:
    """The metrics along t in [0, 1] between the first and the last layer."""

    t: tuple[float, ...]
    pfc1: Numbers
    pfc2: Numbers
    pfc3: Numbers | None = None


@dataclass(frozen=True)
class PredictionError:
    """RMS error over the interior layers in decades, by metric, of the straight line and of the log-linear null."""

    line: dict[str, float | None]
    null: dict[str, float | None]


@dataclass(frozen=True)
class Progression:
    """How one metric moves over depth: the layers into which it rose, without and with the tolerance."""

    violations: tuple[str, ...]
    kendall_tau: float | None = None
    tolerance: float | None = None
    violations_tol: tuple[str, ...] | None = None


@dataclass(frozen=True)
class EffectiveDepth:
    """First depth at which the nearest-class-center error is at most epsilon."""

    epsilon: float
    depth: int | None
    reached: bool
    monotone_after: bool | None = None


@dataclass(frozen=True)
class Theorem1:
    """PFC1 along the line: the correlation C of first and last centered class means (docs/theory.md, 3.2)."""

    holds: bool | None
    correlation: float | None
    normalized: float | None
    monotone: bool | None
    argmax_t: float | None = None


@dataclass(frozen=True)
class Theorem2:
    """PFC2 along the line: exact test, conditions for an ETF as the end, transport cost (docs/theory.md, 3.3)."""

    monotone: bool | None
    intervals: tuple[tuple[float, ...], ...] | None
    sufficient_a: bool | None
    sufficient_b: bool | None
    relative_cost: float | None
    end_distance: float | None = None


@dataclass(frozen=True)
class Theorem3:
    """PFC3 along the line: pairs that break it for a collapsed end, falls between the measured ends (docs/theory.md, 3.4)."""

    guaranteed: bool | None
    violating_pairs: int | None
    num_pairs: int | None
    num_falls: int | None = None
    num_steps: int | None = None


@dataclass(frozen=True)
class CollapsedOptimality:
    """Whether the map of the first features onto the last class means is optimal transport (docs/theory.md, 3.9)."""

    optimal: bool | None
    cycle: tuple[int, ...] | None = None
    gain: float | None = None


@dataclass(frozen=True)
class Straightness:
    """Chord over path length, line-shape score and turning angle, averaged over samples (docs/theory.md, 3.6)."""

    mean: float | None
    median: float | None = None
    line_shape_score_mean: float | None = None
    turning_angle_mean_degrees: float | None = None


@dataclass(frozen=True)
class Energy:
    """The chain of costs from the kinetic energy down, and optimal transport on a sample (docs/theory.md, 3.6 and 3.8)."""

    efficiency: float | None
    energy: float | None = None
    identity_cost: float | None = None
    wasserstein2: float | None = None
    gelbrich: float | None = None
    identity_cost_sample: float | None = None
    random_cost_sample: float | None = None
    num_samples_wasserstein: int | None = None
    pair_violation_rate: float | None = None
    num_pairs: int | None = None

    @property
    def transport_score(self) -> float | None:
        """Wasserstein-2 over the cost of the network's own pairing, squared both; 1 iff the pairing is optimal."""
        best, own = self.wasserstein2, self.identity_cost_sample
        return best / own if best is not None and own else None

    @property
    def random_ratio(self) -> float | None:
        """Cost of a random pairing over the best; where it is near 1 any pairing is nearly optimal."""
        return (
            self.random_cost_sample / self.wasserstein2 if self.random_cost_sample is not None and self.wasserstein2 else None
        )


@dataclass(frozen=True)
class Alignment:
    """First against last class means, 1 where no rotation brings them nearer (docs/theory.md, 3.3)."""

    alignment: float | None
    guaranteed: bool | None = None


@dataclass(frozen=True)
class BlockEnergy:
    """What a block adds, with its bounds by weight decay (docs/theory.md, 3.10)."""

    block: str
    energy: float | None
    by_moment: float | None
    by_weights: float | None


@dataclass(frozen=True)
class WeightDecay:
    """The bound of weight decay, block by block; it bounds nothing where the blocks normalize."""

    is_bound: bool
    blocks: tuple[BlockEnergy, ...]

    @property
    def tightness(self) -> float | None:
        """Share of the bound by weights and inputs that is used, in [0, 1] where it is a bound."""
        energies, bounds = [b.energy for b in self.blocks], [b.by_moment for b in self.blocks]
        used, allowed = sum(e for e in energies if e is not None), sum(b for b in bounds if b is not None)
        return used / allowed if allowed and None not in {*energies, *bounds} else None


@dataclass(frozen=True)
class DepthRecord:
    """One epoch of ``depth.json``."""

    epoch: int
    layers: tuple[str, ...]
    positions: dict[str, Numbers]
    curve: Curve
    null: Curve
    prediction_error: dict[str, PredictionError]
    progression: dict[str, Progression]
    effective_depth: tuple[EffectiveDepth, ...]
    theorem1: Theorem1 | None = None
    theorem2: Theorem2 | None = None
    theorem3: Theorem3 | None = None
    collapsed_optimality: CollapsedOptimality | None = None
    straightness: Straightness | None = None
    energy: Energy | None = None
    alignment: Alignment | None = None
    weight_decay: WeightDecay | None = None


@dataclass(frozen=True)
class DepthFile:
    """``depth.json``."""

    epochs: tuple[DepthRecord, ...]


@dataclass(frozen=True)
class ObjectiveRecord:
    """One epoch of ``objective.json``: the objective, its two parts, and the floor that no such network gets below."""

    epoch: int
    weight_decay: float
    loss: float
    penalty: float
    objective: float
    floor: float
    excess: float
    distance: float | None = None


@dataclass(frozen=True)
class ObjectiveFile:
    """``objective.json``, of networks that end in a normalization."""

    epochs: tuple[ObjectiveRecord, ...] = ()
