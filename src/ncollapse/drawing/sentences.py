"""Sentences about a run: three lines, and every detail."""

import itertools
import math
from collections.abc import Sequence

from ncollapse.drawing.findings import SHORT, depth_cell, held_out_accuracy, part_followed
from ncollapse.drawing.path_sentences import say_bounds, say_straightness, say_transport
from ncollapse.drawing.theory_sentences import (
    compare_errors,
    say_mean_path,
    say_objective,
    say_prediction,
    say_theorems,
)
from ncollapse.drawing.wording import MEASURED_ONLY, MISSING_DEPTH, counted, listed, number, percent, spelled
from ncollapse.records.depth import LayerProgression
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import setting

# From here on the two accuracies of a training are told apart in the summary.
_APART = 0.02
_NAMES = {
    "pfc1": "PFC1 (within- over between-class variance)",
    "pfc2": "PFC2 (distance of the class means to a simplex ETF)",
    "pfc3_error": "The error of the nearest class center (1 − PFC3)",
}
_IN_SHORT = _NAMES | {"pfc2": "PFC2 (class means against a simplex ETF)", "pfc3_error": "the nearest-center error"}


def summarize(run: Run) -> list[str]:
    """Return three lines on the last measured epoch: training, collapse over depth, and the prediction by the straight line.

    Lines before them say which settings were changed, and whether the run has failed or is not finished.
    """
    said = [*_say_changes(run), *_say_state(run), _training_in_short(run)]
    if not run.has_depth:
        return [*said, _ends_in_short(run), MISSING_DEPTH]
    over_depth = listed([_progression_in_short(run, metric) for metric in _NAMES])
    which = f" ({part})" if (part := part_followed(run)) else ""
    return [
        *said,
        f"Over depth{which}: {over_depth}. Effective depth: {_depth_in_short(run)}.",
        f"Straight line against the log-linear baseline: {_line_in_short(run)}.",
    ]


def describe(run: Run) -> list[str]:
    """Return sentences with everything that the run found at its last measured epoch, in the order of a reader's questions.

    Training, monotone progression, effective depth, straightness, optimal transport, the prediction by the straight line, the
    theorems. What is undefined is said to be undefined, and a metric that does not fall over depth is said to rise, with the
    layers.
    """
    return [*_say_changes(run), *(sentence for sentences in describe_by_topic(run).values() for sentence in sentences)]


def describe_by_topic(run: Run) -> dict[str, list[str]]:
    """Return the sentences of ``describe``, apart from the changed settings, by their topic."""
    training = {"Training": [*_say_state(run), _say_training(run), *say_objective(run.last_objective)]}
    if not run.has_depth:
        return training | {"Over depth": [MISSING_DEPTH]}
    return training | {
        "Collapse over depth": [
            *(_say_progression(run, metric) for metric in _NAMES),
            *_say_off_path(run),
            *_say_start(run),
            _say_effective_depth(run),
        ],
        "The path of the features": [say_straightness(run), *say_transport(run), *say_bounds(run)],
        "The straight line and the baseline": [
            *(say_prediction(run, metric) for metric in ("pfc1", "pfc2")),
            say_mean_path(run),
        ],
        "The theorems about the straight line": say_theorems(run),
    }


_UNFINISHED = {
    "running": "it is running now",
    "stopped": "it was stopped and can be continued",
    "dead": "its process has died, and it can be continued",
}


def _say_changes(run: Run) -> list[str]:
    changed = run.recipe.changed
    return [f"Changed relative to the recipe {run.recipe.name}: {', '.join(map(spelled, changed))}."] if changed else []


def _say_state(run: Run) -> list[str]:
    """Warn that the run failed, is not finished, or was measured earlier."""
    status, sentences = run.status, []
    if status.state == "failed":
        why = (status.reason or "unknown reason").rstrip(".")
        sentences.append(f"This run failed: {why}. It was last saved at {run.unit} {status.epoch} of {status.epochs}.")
    elif status.state != "finished":
        why = _UNFINISHED.get(status.state, "it is not finished")
        how = " with --resume" if "continued" in why and not run.is_recorded else ""
        sentences.append(
            f"This run is not finished: {why}{how}. It was last saved at {run.unit} {status.epoch} of {status.epochs}."
        )
    if run.last.epoch != status.epoch:
        sentences.append(
            f"The layers were last measured at {run.unit} {run.last.epoch}. All that is said of them is from then."
        )
    return sentences


def _training_in_short(run: Run) -> str:
    status = run.status
    if run.is_measured_only:
        return _say_measured(run)
    during, after = _accuracy_in_training(run), status.train_accuracy
    said = f"Training: {percent(after)} train accuracy at {run.unit} {status.epoch} of {status.epochs}"
    said += "" if (held := held_out_accuracy(run)) is None else f", {percent(held)} on the test set"
    if during is not None and after is not None and abs(during - after) >= _APART:
        said += f", in eval mode; during the {run.unit}, in training mode, it was {percent(during)}"
    if status.first_perfect_epoch is None:
        return f"{said}. No measured {run.unit} has every training sample right."
    return f"{said}. Every training sample was right first at measured {run.unit} {status.first_perfect_epoch}."


def _accuracy_in_training(run: Run) -> float | None:
    """Return what the training loop saw in the last epoch; None where nobody noted it."""
    seen = [record.accuracy for record in run.history if record.epoch == run.status.epoch]
    return seen[0] if seen and math.isfinite(seen[0]) else None


def _say_measured(run: Run) -> str:
    """Say that a network was not trained here, and how well it classifies."""
    accuracy = run.value("accuracy", len(run.measured_layers) - 1)
    said = "was not measured" if accuracy is None else f"on the split {run.split} is {percent(accuracy)}"
    trained = f" Its weights are those of {run.unit} {run.status.epoch}." if run.status.epoch else ""
    return f"This is {MEASURED_ONLY}. Its accuracy {said}.{trained}"


def _say_training(run: Run) -> str:
    status = run.status
    if run.is_measured_only:
        return _say_measured(run)
    during = _accuracy_in_training(run)
    said = (
        f"The train accuracy is {percent(status.train_accuracy)} at {run.unit} {status.epoch} of {status.epochs}, in eval "
        "mode: without dropout, and with the running statistics of BatchNorm if there is any. "
    )
    said += "" if during is None else f"During the {run.unit}, in training mode, it was {percent(during)}. "
    said += "" if (held := held_out_accuracy(run)) is None else f"The test accuracy is {percent(held)}. "
    if status.first_perfect_epoch is None:
        said += f"No measured {run.unit} has every training sample right."
    else:
        beyond = counted(status.epoch - status.first_perfect_epoch, run.unit)
        said += f"Every training sample was right first at measured {run.unit} {status.first_perfect_epoch}"
        said += f" ({_say_before(run, status.first_perfect_epoch)}); training went on for {beyond} after that."
    tau = status.weight_decay_time
    rate = "learning rate" if setting(run, "train.optimizer") == "sgdw" else "learning rate / (1 − momentum)"
    meaning = f"{rate} times weight decay, summed over the steps; deep collapse needs about 4 to 8"
    return said if tau is None else f"{said} Weight-decay time τ = {number(tau)} ({meaning})."


def _say_before(run: Run, epoch: int) -> str:
    """Between two measured epochs nobody looked: the first that was seen need not be the first."""
    before = [measured for measured in run.epochs if measured < epoch]
    return f"not yet at {run.unit} {before[-1]}, the one measured before" if before else "the first one measured"


def _say_progression(run: Run, metric: str) -> str:
    name, names = _NAMES[metric], run.layers
    values, progression = run.over_depth(metric), run.last.progression.get(metric)
    unknown = [layer for layer, value in zip(names, values, strict=True) if value is None]
    if progression is None or len(unknown) == len(names):
        return f"{name} is undefined or was not measured."
    steps = len(names) - 1
    if not steps:
        return f"{name} is {number(values[0])} at {names[0]}, the only layer, so there is no depth to compare."
    ends = f"from {number(values[0])} at {names[0]} to {number(values[-1])} at {names[-1]}"
    level, rises = _level(values), progression.violations
    if unknown:
        said = f"{name} is undefined at {listed(unknown)}, so nothing can be said about every step. It goes {ends}"
        said += f" and rises into {_rises(run, metric, rises)}" if rises else ""
    elif rises:
        said = f"{name} does not fall monotonically over depth: it rises at {len(rises)} of {counted(steps, 'step')}, "
        said += f"into {_rises(run, metric, rises)}. It goes {ends}"
    elif level:
        said = f"{name} never rises over the {counted(steps, 'step')} of depth and stays level at {level} of them, {ends}"
    else:
        said = f"{name} falls at {'the only step' if steps == 1 else f'each of the {steps} steps'} of depth, {ends}"
    return f"{said}.{_say_tolerance(progression)}"


def _ends_in_short(run: Run) -> str:
    """Say what the metrics are at both ends of the layers, where nothing else is known over depth."""
    first, last = run.measured_layers[0], run.measured_layers[-1]
    values = (run.over_depth(metric) for metric in _NAMES)
    ends = ", ".join(
        f"{short} {number(found[0])} → {number(found[-1])}" for short, found in zip(SHORT.values(), values, strict=True)
    )
    return f"From the first layer, {first}, to the last, {last}: {ends}."


def _level(values: Sequence[float | None]) -> int:
    return sum(a == b for a, b in itertools.pairwise(values) if a is not None)


def _progression_in_short(run: Run, metric: str) -> str:
    values, progression, steps = run.over_depth(metric), run.last.progression.get(metric), len(run.layers) - 1
    if progression is None or None in values or not steps:
        said = "is undefined or was not measured at some layer" if steps else "has no depth to compare"
    elif progression.violations:
        said = f"rises at {len(progression.violations)} of {counted(steps, 'step')}"
    else:
        said = "never rises" if _level(values) else "falls at every step"
    return f"{_IN_SHORT[metric]} {said} ({number(values[0])} → {number(values[-1])})"


def _say_off_path(run: Run) -> list[str]:
    """Name the layers of other dimensions, which are not part of the depth: the classifier's input, or other stages."""
    names, last = run.measured_layers, run.measured_layers[-1]
    if names == run.layers:
        return []
    values = ", ".join(f"{short} {number(run.value(metric, len(names) - 1))}" for metric, short in SHORT.items())
    if names[:-1] == run.layers:
        return [
            f"The classifier reads layer {last}, which is computed from layer {run.layers[-1]}. It has another dimension, so "
            f"it is not part of the depth: {values}."
        ]
    said = f"All this is about {part_followed(run)}, which have one dimension."
    return [said if last in run.layers else f"{said} At the last layer, {last}: {values}."]


def _rises(run: Run, metric: str, violations: Sequence[str]) -> str:
    """List the layers into which a metric rose, each with the values before and after where both are known."""
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
    kept = f"into {listed(list(progression.violations_tol))}" if progression.violations_tol else "at no step"
    return f" With a relative tolerance of {number(progression.tolerance)}, it rises {kept}."


def _say_start(run: Run) -> list[str]:
    """How unordered the layers were at first: progress over depth is learned, not built in."""
    first, steps = run.epochs[0], len(run.layers) - 1
    if first == run.last.epoch:
        return []
    progression = run.records[first].progression
    rose = [
        f"{_IN_SHORT[metric].split(' (')[0]} rose at {_of_all(len(progression[metric].violations), steps)}"
        for metric in _NAMES
        if metric in progression
    ]
    when = "Before training" if first == 0 else f"At {run.unit} {first}"
    return [f"{when}, {listed(rose)}."] if rose else []


def _of_all(count: int, steps: int) -> str:
    if count == steps:
        return "the only step" if steps == 1 else f"all {steps} steps"
    return f"{count} of {counted(steps, 'step')}" if count else "no step"


def _say_effective_depth(run: Run) -> str:
    """Name the first layer that classifies by its class centers up to a threshold; thresholds with one answer share it."""
    if not run.last.effective_depth:
        return "The effective depth was not measured."
    groups: dict[tuple[bool, int | None, bool | None], list[str]] = {}
    for item in run.last.effective_depth:
        key = (True, item.depth, item.monotone_after) if item.reached else (False, None, None)
        groups.setdefault(key, []).append(number(item.epsilon))
    parts = []
    names: dict[int | None, str] = dict(enumerate(run.layers))
    for (reached, depth, stays), thresholds in groups.items():
        again = ", but the error rises above it again deeper" if stays is False else ""
        where = f"{depth} of {len(run.layers) - 1} ({names.get(depth, 'undefined')})" if reached else "not reached"
        if len(groups) == 1 < len(thresholds):
            # The effective depth does not rise with the threshold: what holds at both ends holds between them.
            said = f"{'every' if reached else 'any'} threshold from {thresholds[0]} to {thresholds[-1]}"
        else:
            said = f"the threshold{'s' if len(thresholds) > 1 else ''} {listed(thresholds)}"
        parts.append(f"{where} for {said}{again}")
    return f"Effective depth (first layer whose nearest-center error is at most a threshold): {'; '.join(parts)}."


def _line_in_short(run: Run) -> str:
    if len(run.layers) < 3:
        return "nothing to compare, because there is no layer between first and last"
    return "; ".join(f"for {SHORT[metric]} {compare_errors(*run.prediction_errors(metric))}" for metric in ("pfc1", "pfc2"))


def _depth_in_short(run: Run) -> str:
    value, _ = depth_cell(run.effective_depth)
    return f"{value} of {len(run.layers) - 1}" if value.isdecimal() else value
