"""Every number that pages, comparisons and claims read from a run: key, meaning, reader, and which way theory wants it."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ncollapse.claims.estimates import Estimate, log_log_slope, spread
from ncollapse.claims.predicates import recorded
from ncollapse.claims.rules import RULES
from ncollapse.drawing.sweeps import Axis, SettingRow
from ncollapse.records.depth import EPSILON
from ncollapse.records.reading import Run
from ncollapse.records.sweep import Sweep

# In words, where the key is not one.
_TITLES = {
    "pfc1": "Variability within over between classes",
    "pfc2": "Distance of the class means to an ETF",
    "pfc3_error": "Nearest-center error",
    "nc1": "Variability within classes",
    "nc2_equinorm": "Spread of lengths of class means",
    "nc2_equiangularity": "Spread of angles of class means",
    "nc3": "Classifier against class means",
    "nc2_etf_weights": "Distance of the classifier to an ETF",
    "nc3_cosine": "Features against classifier rows",
    "floor": "Floor of the objective",
    "depth_floor": "Floor of the objective at this depth",
    "excess": "Objective above its floor",
    "distance": "Distance from the minimizers",
    "excess/λ": "Objective above its floor, over the weight decay",
    "excess/floor": "Objective above its floor, over the floor",
    "relative_gradient": "Gradient of the objective over those of its two parts",
    "τ": "Weight-decay time",
    "line pfc1": "Error of the straight line in PFC1",
    "baseline pfc1": "Error of the baseline in PFC1",
    "line pfc2": "Error of the straight line in PFC2",
    "baseline pfc2": "Error of the baseline in PFC2",
    "flow pfc2": "Error of the flow of class means in PFC2",
    "line to flow": "Distance of straight line and flow in PFC2",
    "path exponent": "Exponent of the class means' path",
    "mean path cost": "Cost of the class means' path over the least",
    "identity_cost": "Cost of the network's pairing",
    "wasserstein2": "Optimal transport cost",
    "gelbrich": "Lower bound of the transport cost",
    "efficiency": "Energy efficiency",
    "transport_score": "Optimality of the network's pairing",
    "speed_share": "Excess energy by uneven speed",
    "bend_share": "Excess energy by bends",
    "pairing_share": "Excess energy by the pairing",
    "detour": "Wasserstein-2 distances over the layers, added up",
    "random_ratio": "Cost of a random pairing over the best",
    "misalignment": "Last class means against first, directions",
    "ratio_defect": "Last class means against first, ratios",
    "etf_distance": "Last class means against an ETF",
    "polar_distance": "Last class means against the aligned ETF",
    "decay bound": "Tightness of the bound of weight decay",
}


# What imbalanced classes are told apart by: metrics of the last layer, with their meaning.
_GROUPED = (
    ("accuracy", "share classified right"),
    ("pfc3", "accuracy of the nearest class center"),
    ("pfc1", "within- over between-class variance"),
    ("cosine", "mean cosine between class means"),
)


@dataclass(frozen=True)
class Quantity:
    """A number of a run at its last epoch."""

    key: str
    meaning: str
    # Gives None where it is undefined or was not measured; with an epoch it reads what is measured at every epoch.
    read: Callable[..., float | None]
    sign: int = -1  # 1 where the papers expect it to be large, -1 where small
    signed: bool = False  # whether it can be negative
    given: bool = False  # whether the settings alone decide it

    @property
    def title(self) -> str:
        """The quantity in words, with the key that tables and the command line use."""
        name = _TITLES.get(self.key, "")
        return f"{name} ({self.key})" if name else self.key[0].upper() + self.key[1:]


def _metric(key: str, meaning: str) -> Quantity:
    """Make a reader of a metric of the last layer."""
    return Quantity(key, meaning, lambda run, epoch=None: run.value(key, run.depths[-1], epoch))


def _of_group(metric: str, meaning: str, group: str, split: str) -> Quantity:
    """Make a reader of a metric of the last layer among the classes with many samples, or with few."""
    key, where = f"{metric}.{group}", ", test data" if split == "test" else ""
    grown, signed = metric in {"accuracy", "pfc3"}, metric == "cosine"
    words = f"{meaning}, of the classes with {group} samples{where}"
    return Quantity(f"{key}{where}", words, lambda run: run.value(key, run.depths[-1], None, split), 1 if grown else -1, signed)


def _recorded(
    place: str, meaning: str, *, key: str = "", sign: int = -1, signed: bool = False, given: bool = False
) -> Quantity:
    """Make a reader of an entry of the last record, such as ``energy.efficiency``."""
    return Quantity(key or place.partition(".")[2], meaning, recorded(place), sign, signed, given)


def _error(metric: str, which: int) -> Quantity:
    """How far the straight line, or the baseline, is off the layers."""
    name, words = (("line", "straight line"), ("baseline", "log-linear baseline"))[which]
    meaning = f"{metric.upper()} of the {words}, off the measured layers, RMS in decades, at their projection on the chord"
    return Quantity(f"{name} {metric}", meaning, lambda run: run.prediction_errors(metric)[which])


def _depth(run: Run) -> float | None:
    found = run.effective_depth
    return found.depth if found is not None and found.reached else None


def _train_loss(run: Run) -> float | None:
    # A recorder need not be told the loss.
    return run.history[-1].loss if run.history and not math.isnan(run.history[-1].loss) else None


def _excess_over(field: str) -> Callable[[Run], float | None]:
    def read(run: Run) -> float | None:
        record = run.last_objective
        return record.excess / getattr(record, field) if record is not None and record.weight_decay else None

    return read


QUANTITIES = (
    Quantity("train accuracy", "share of training samples classified right", lambda run: run.status.train_accuracy, sign=1),
    Quantity("train loss", "mean over the last epoch, while it trained", _train_loss, signed=True),
    _metric("pfc1", "within- over between-class variance"),
    _metric("pfc2", "distance of class means to a simplex ETF"),
    _metric("pfc3_error", "error of the nearest class center"),
    *(_of_group(*grouped, group, split) for grouped in _GROUPED for split in ("train", "test") for group in ("many", "few")),
    _metric("nc1", "tr(Σ_W Σ_B⁺)/K"),
    _metric("nc2_equinorm", "spread of the lengths of class means"),
    _metric("nc2_equiangularity", "spread of the cosines of class means"),
    _metric("nc3", "classifier against class means"),
    _metric("nc2_etf_weights", "distance of the classifier to a simplex ETF"),
    _metric("nc3_cosine", "one minus the mean cosine of features with their classifier rows"),
    _recorded("objective.objective", "loss and λ/2 times the squared weights"),
    _recorded(
        "objective.floor",
        "what no such network gets below: the generalized unconstrained features model's minimum",
        given=True,
    ),
    _recorded(
        "objective.depth_floor", "what no such network of this depth gets below, its first layer being as it is", given=True
    ),
    _recorded("objective.excess", "objective minus floor"),
    Quantity(
        "excess/λ", "objective minus floor, over λ: what is left of it where λ falls with depth", _excess_over("weight_decay")
    ),
    Quantity("excess/floor", "objective minus floor, over the floor", _excess_over("floor")),
    _recorded(
        "objective.relative_gradient",
        f"0 at a stationary point; claims about optima count runs of at most {RULES.stationary:g}",
    ),
    _recorded("objective.distance", "of features and last layer from the minimizers of that model, relative"),
    Quantity(
        "effective depth", f"blocks up to a nearest-center error of at most {EPSILON:g}; undefined where not reached", _depth
    ),
    Quantity(
        "τ",
        f"weight-decay time; the terminal phase is from {RULES.terminal_tau:g} on, without training error",
        lambda run: run.status.weight_decay_time,
        given=True,
    ),
    _recorded(
        "straightness.mean",
        "chord over path length of the features, mean over samples; 1 is straight",
        key="straightness",
        sign=1,
    ),
    _recorded(
        "straightness.line_shape_score_mean",
        "number of steps over the length of the sum of their directions, mean over samples; 1 is straight",
        key="line-shape score",
    ),
    _error("pfc1", 0),
    _error("pfc1", 1),
    _error("pfc2", 0),
    _error("pfc2", 1),
    Quantity(
        "flow pfc2",
        "PFC2 of the flow of class means, off the measured layers, RMS in decades, at their projection on the chord",
        lambda run: run.flow_error(),
    ),
    _recorded("mean_path.gap", "decades of PFC2 between straight line and flow", key="line to flow", given=True),
    _recorded(
        "mean_path.exponent",
        "of the class means' path, without a clock: 0 is the flow, 1/2 a straight line; undefined where these are alike",
        key="path exponent",
        signed=True,
        given=True,
    ),
    _recorded(
        "mean_path.cost",
        "squared weights of the least maps of the class means from layer to layer, over the least of any residual blocks",
        key="mean path cost",
    ),
    _recorded("energy.energy", "kinetic energy, the first of the chain of costs, squared features"),
    _recorded("energy.identity_cost", "cost of the network's own pairing of first and last features, squared features"),
    _recorded("energy.wasserstein2", "squared Wasserstein-2 distance of first and last features, on a sample"),
    _recorded("energy.gelbrich", "Gelbrich's lower bound of it, from means and covariances"),
    _recorded("energy.efficiency", "energy of the straight line at constant speed over that of the path; 1 is best", sign=1),
    _recorded(
        "energy.transport_score",
        "squared Wasserstein-2 distance over the cost of the network's own pairing; 1 is optimal",
        sign=1,
    ),
    _recorded("excess.speed_share", "share of steps of unequal length in what the energy is above optimal transport"),
    _recorded("excess.bend_share", "share of paths off their chord in it"),
    _recorded("excess.pairing_share", "share of a pairing of first and last features that is not optimal in it"),
    _recorded(
        "excess.detour",
        "sum of the Wasserstein-2 distances of consecutive layers over that of first and last, on a sample; 1 is a geodesic",
    ),
    _recorded("energy.random_ratio", "cost of a random pairing over the best; near 1 any pairing is nearly optimal"),
    _recorded(
        "alignment.alignment", "of first and last class means; 1 where no rotation brings them nearer", sign=1, signed=True
    ),
    _recorded("flattening.misalignment", "how far the last class means are from the singular vectors of the first, relative"),
    _recorded("flattening.ratio_defect", "how far from singular values that become more equal in the same order"),
    _recorded("flattening.etf_distance", "how far from a simplex ETF"),
    _recorded(
        "flattening.polar_distance", "how far from a simplex ETF that no rotation brings nearer to the first class means"
    ),
    _recorded(
        "weight_decay.tightness",
        "share of what parameters and inputs allow that the blocks add",
        key="decay bound",
    ),
)
BY_KEY = {quantity.key: quantity for quantity in QUANTITIES}


def setting_rows(sweep: Sweep, quantity: Quantity) -> list[SettingRow]:
    """Read a quantity at every setting of a sweep."""
    rows = []
    for _, runs in sweep.by_setting():
        found = (quantity.read(run) for run in runs)
        values = tuple(value for value in found if value is not None)
        rows.append(SettingRow(values, statistics.fmean(values) if values else math.nan, spread(values)))
    return rows


def slope_of(axis: Axis, quantity: Quantity, groups: Sequence[Sequence[Run]]) -> Estimate | None:
    """Estimate the log-log slope over the runs with a positive setting, where it says something about learning."""
    # Not for what the settings decide alone, not from fewer than three settings, which any power law fits too well, and not
    # over runs that did not fit the training set: they are in another regime.
    runs = [(x, run) for x, group in zip(axis.places, groups, strict=True) for run in group if x > 0]
    pairs = [(x, y) for x, run in runs if (y := quantity.read(run)) is not None]
    if quantity.given or not axis.numeric or any(y <= 0 for _, y in pairs) or len({x for x, _ in pairs}) < 3:
        return None
    if any(run.status.train_accuracy != 1.0 for _, run in runs):
        return None
    return log_log_slope(*zip(*pairs, strict=True))
