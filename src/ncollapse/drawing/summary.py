"""What a run found, in words: pure functions from a run to sentences, for the page and the command line."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from ncollapse.drawing.labels import POSITIONS
from ncollapse.drawing.objective_words import say_objective
from ncollapse.drawing.vacuous import coincident, say_vacuous
from ncollapse.drawing.verdicts import say_bounds, say_collapsed_optimality, say_theorems
from ncollapse.drawing.wording import counted, listed, number, percent
from ncollapse.records.depth import EffectiveDepth, Energy, LayerProgression
from ncollapse.records.reading import Run

__all__ = ["Finding", "findings", "summarize"]

_PROGRESSIVE = {
    "pfc1": "PFC1 (within- over between-class variance)",
    "pfc2": "PFC2 (distance of the class means to a simplex ETF)",
    "pfc3_error": "The error of the nearest class center (1 − PFC3)",
}
_SHORT = {"pfc1": "PFC1", "pfc2": "PFC2", "pfc3_error": "NCC error"}


class Finding(NamedTuple):
    """One cell of the comparison between runs: what it is about, the value, and a remark (may be empty)."""

    name: str
    value: str
    remark: str


def summarize(run: Run) -> list[str]:
    """Say what the run found at its last measured epoch.

    Every sentence is made from the files; what is undefined is said to be undefined, and a metric that does not fall over
    depth is said to rise, with the layers.

    Args:
        run: The run.

    Returns:
        Sentences, plain text, in the order of a reader's questions: training, monotone progression, effective depth,
        straightness, optimal transport, the prediction by the straight line, the theorems.
    """
    return [
        *_say_changes(run),
        *_say_training(run),
        *say_objective(run.last_objective),
        *(_say_progression(run, metric) for metric in _PROGRESSIVE),
        *_say_own_input(run),
        *_say_start(run),
        _say_effective_depth(run),
        _say_straightness(run),
        *_say_transport(run),
        *say_bounds(run.last.weight_decay),
        *(_say_prediction(run, metric) for metric in ("pfc1", "pfc2")),
        *(say_vacuous(run) or say_theorems(run.last)),
    ]


def findings(run: Run, position: str = "projection") -> list[Finding]:
    """The same in a few cells, to set runs side by side."""
    status, last = run.status, run.last
    depths = {item.epsilon: item for item in last.effective_depth}
    depth = depths.get(0.005) or next(iter(depths.values()), None)
    straight = last.straightness.mean if last.straightness else None
    efficiency = last.energy.efficiency if last.energy else None
    perfect = status.first_perfect_epoch
    cells = [
        Finding(
            "Train accuracy",
            percent(status.train_accuracy),
            "perfect at no measured epoch" if perfect is None else f"first perfect at measured epoch {perfect}",
        ),
        *(_progression_cell(run, metric) for metric in _PROGRESSIVE),
        Finding("Effective depth", *_depth_cell(depth)),
        Finding("Straightness", number(straight), f"energy efficiency {number(efficiency)}"),
    ]
    for metric in ("pfc1", "pfc2"):
        line, null = _errors(run, metric, position)
        has_interior = len(run.layers) > 2
        value = f"{number(line)} : {number(null)} decades" if has_interior else "–"
        said = _winner(line, null) if has_interior else "no layer between first and last"
        cells.append(Finding(f"Line against null, {_SHORT[metric]}", value, said))
    return cells


def _say_changes(run: Run) -> list[str]:
    changed = run.recipe.changed
    return [f"Changed relative to the recipe {run.recipe.name}: {', '.join(changed)}."] if changed else []


def _say_training(run: Run) -> list[str]:
    status, sentences = run.status, []
    if status.state == "failed":
        why = (status.reason or "unknown reason").rstrip(".")
        sentences.append(f"This run FAILED: {why}. Its last checkpoint is of epoch {status.epoch} of {status.epochs}.")
    elif status.state != "finished":
        sentences.append(f"This run is not finished: it stands at epoch {status.epoch} of {status.epochs}.")
    said = f"At epoch {status.epoch} of {status.epochs} the train accuracy is {percent(status.train_accuracy)}"
    if status.first_perfect_epoch is None:
        said += "; no measured epoch classified every training sample correctly, so nothing here is beyond zero error"
    else:
        beyond = counted(status.epoch - status.first_perfect_epoch, "epoch")
        said += f"; every training sample was right first at measured epoch {status.first_perfect_epoch}"
        said += f" ({_say_before(run, status.first_perfect_epoch)}), and training went on for {beyond} beyond it"
    tau = status.weight_decay_time
    sentences.append(f"{said}. Weight-decay time τ = {number(tau)}." if tau is not None else f"{said}.")
    if run.last.epoch != status.epoch:
        sentences.append(f"The layers were measured last at epoch {run.last.epoch}; what follows is about that epoch.")
    return sentences


def _say_before(run: Run, epoch: int) -> str:
    """Between two measured epochs nobody looked: the first that was seen need not be the first."""
    before = [measured for measured in run.epochs if measured < epoch]
    return f"the one measured before was {before[-1]}" if before else "the first one measured"


def _say_progression(run: Run, metric: str) -> str:
    name, names = _PROGRESSIVE[metric], run.layers
    values, progression = run.over_depth(metric), run.last.progression.get(metric)
    unknown = [layer for layer, value in zip(names, values, strict=True) if value is None]
    if progression is None or len(unknown) == len(names):
        return f"{name} is undefined or was not measured."
    steps = len(names) - 1
    if not steps:
        return f"{name} is {number(values[0])} at {names[0]}, the only layer, so there is no depth to compare."
    ends = f"from {number(values[0])} at {names[0]} to {number(values[-1])} at {names[-1]}"
    level = sum(a == b for a, b in itertools.pairwise(values) if a is not None)
    if unknown:
        said = f"{name} is undefined at {listed(unknown)}, so nothing can be said about every step; it goes {ends}"
        said += f" and rises into {_rises(run, metric, progression.violations)}" if progression.violations else ""
    elif progression.violations:
        said = f"{name} does NOT fall monotonically over depth: of {counted(steps, 'step')} it rises at "
        said += f"{len(progression.violations)}, "
        said += f"into {_rises(run, metric, progression.violations)}; it goes {ends}"
    elif level:
        said = f"{name} never rises over the {counted(steps, 'step')} of depth and stays level at {level} of them, {ends}"
    else:
        said = f"{name} falls at {'the only step' if steps == 1 else f'every one of the {steps} steps'} of depth, {ends}"
    return f"{said}.{_say_tolerance(progression)}"


def _say_own_input(run: Run) -> list[str]:
    """What the classifier takes, where that has another dimension than the layers, as behind pooling."""
    depth = len(run.layers)
    values = [f"{short} {number(run.value(metric, depth))}" for metric, short in _SHORT.items()]
    return [
        f"{name} is what the classifier takes, made of {run.layers[-1]}, of another dimension and so no part of the depth: "
        f"{', '.join(values)}."
        for name in run.measured_layers[depth:]
    ]


def _rises(run: Run, metric: str, violations: Sequence[str]) -> str:
    """The layers into which a metric rose, each with the values before and after where both are known."""
    values = dict(zip(run.layers, run.over_depth(metric), strict=True))
    before = dict(zip(run.layers[1:], run.layers, strict=False))
    rises = []
    for layer in violations:
        old, new = values.get(before.get(layer, "")), values.get(layer)
        rises.append(layer if old is None or new is None else f"{layer} ({number(old)} → {number(new)})")
    return listed(rises)


def _say_tolerance(progression: LayerProgression) -> str:
    if not progression.violations or not progression.tolerance or progression.violations_tol is None:
        return ""
    kept = listed(list(progression.violations_tol)) if progression.violations_tol else "no layer"
    return f" With a tolerance of {progression.tolerance:.3g} relative, the rise counts at {kept}."


def _say_start(run: Run) -> list[str]:
    """How unordered the layers were at first: progress over depth is learned, not built in."""
    first = run.epochs[0]
    if first == run.last.epoch:
        return []
    progression = run.records[first].progression
    rose = [
        f"{_SHORT[metric]} at {counted(len(progression[metric].violations), 'step')}"
        for metric in _PROGRESSIVE
        if metric in progression
    ]
    when = "Before training" if first == 0 else f"At epoch {first}"
    return [f"{when}, of {counted(len(run.layers) - 1, 'step')} of depth, there rose: {', '.join(rose)}."] if rose else []


def _say_effective_depth(run: Run) -> str:
    if not run.last.effective_depth:
        return "The effective depth was not measured."
    groups: dict[tuple[bool, int | None, bool | None], list[str]] = {}
    for item in run.last.effective_depth:
        key = (True, item.depth, item.monotone_after) if item.reached else (False, None, None)
        groups.setdefault(key, []).append(f"{item.epsilon:g}")
    parts = []
    for (reached, depth, stays), epsilons in groups.items():
        again = ", but rises above it again deeper" if stays is False else ""
        where = f"at depth {depth} of {len(run.layers) - 1} ({_layer(run, depth)}){again}" if reached else "at no layer"
        parts.append(f"{listed(epsilons)} {where}")
    return f"Effective depth: the error of the nearest class center first is at most {'; '.join(parts)}."


def _layer(run: Run, depth: int | None) -> str:
    return run.layers[depth] if depth is not None and 0 <= depth < len(run.layers) else "undefined"


def _say_straightness(run: Run) -> str:
    straight, energy = run.last.straightness, run.last.energy
    mean, median = (straight.mean, straight.median) if straight else (None, None)
    score = straight.line_shape_score_mean if straight else None
    return (
        f"Straightness (chord over path length of the features; 1 is straight): mean {number(mean)}, median {number(median)}; "
        f"line-shape score {number(score)} (1 is straight). Energy efficiency (what the straight line at constant speed would "
        f"cost, over what was spent; 1 is best): {number(energy.efficiency if energy else None)}."
    )


def _say_transport(run: Run) -> list[str]:
    """How optimal the pairings with the last features and with their class means are; from or to one point any is."""
    if coincident(run, "nc1_total"):
        return []
    return [*_say_score(run.last.energy), *say_collapsed_optimality(run.last.collapsed_optimality)]


def _say_score(energy: Energy | None) -> list[str]:
    """How optimal the network's pairing of first and last features is; nothing where it was not computed."""
    if energy is None or energy.wasserstein2 is None or not energy.identity_cost_sample:
        return []
    said = (
        f"Optimal transport score on {energy.num_samples_wasserstein:,} samples (squared Wasserstein-2 distance of first and "
        f"last features over the cost of the network's own pairing; 1 is optimal): {number(energy.transport_score)}."
    )
    if energy.random_ratio is not None:
        said += f" A random pairing costs {number(energy.random_ratio)} times the best."
    if energy.pair_violation_rate is not None and energy.num_pairs:
        crossing = round(energy.pair_violation_rate * energy.num_pairs)
        said += f" Of {energy.num_pairs:,} pairs of samples {crossing:,} would gain by a swap."
    return [said]


def _errors(run: Run, metric: str, position: str) -> tuple[float | None, float | None]:
    error = run.last.prediction_error.get(position)
    return (error.line.get(metric), error.null.get(metric)) if error else (None, None)


def _say_prediction(run: Run, metric: str) -> str:
    """The line against the null at the layers' projection; and at their index, which the layers do not choose themselves."""
    if len(run.layers) < 3:
        return f"{_SHORT[metric]} of the straight line is compared with nothing: there is no layer between first and last."
    line, null = _errors(run, metric, "projection")
    said = f"{_SHORT[metric]} of the interior layers, laid at their {POSITIONS['projection']}: the straight line is "
    said += f"{number(line)} decades off (RMS; a decade is a factor of ten), "
    said += f"the log-linear null {number(null)}: {_winner(line, null)}."
    line, null = _errors(run, metric, "index")
    if line is not None and null is not None:
        said += f" Laid at their {POSITIONS['index']}: {number(line)} against {number(null)}, {_winner(line, null)}."
    return said


def _winner(line: float | None, null: float | None) -> str:
    if line is None or null is None:
        return "no comparison, since a value is undefined"
    if line == null:
        return "a tie"
    name, better, worse = ("the line", line, null) if line < null else ("the null", null, line)
    return f"{name} wins by a factor of {worse / better:.2g}" if better > 0 else f"{name} wins, being exact"


def _progression_cell(run: Run, metric: str) -> Finding:
    values, progression = run.over_depth(metric), run.last.progression.get(metric)
    value = f"{number(values[0])} → {number(values[-1])}"
    if progression is None or any(item is None for item in values):
        return Finding(_SHORT[metric], value, "undefined at some layer")
    rises = progression.violations
    return Finding(_SHORT[metric], value, f"rises into {listed(list(rises))}" if rises else "never rises over depth")


def _depth_cell(item: EffectiveDepth | None) -> tuple[str, str]:
    if item is None:
        return "undefined", ""
    return (str(item.depth) if item.reached else "not reached"), f"NCC error at most {item.epsilon:g}"
