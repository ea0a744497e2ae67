"""The straight line, the theorems about it and the objective's floor, in words."""

from ncollapse.drawing.wording import POSITIONS, counted, listed, number
from ncollapse.records.depth import APART
from ncollapse.records.reading import Run
from ncollapse.records.run_files import ObjectiveRecord
from ncollapse.records.theorems import Flattening, PolarAlignment, Theorem1, Theorem2, Theorem3

BASELINE = "the baseline (log-linear interpolation between the two ends)"

_STATES = {True: "holds", False: "does not hold", None: "is undefined"}
# PFC2 of an exact ETF whose features are float32 is some 1e-7.
_ETF_ROUNDING = 1e-6
_UNDEFINED = "because a class has no samples or all class means of an end coincide."


def say_prediction(run: Run, metric: str) -> str:
    """Compare the line with the baseline, at the layers' projection and at their index, which layers cannot choose."""
    name = metric.upper()
    if len(run.layers) < 3:
        return f"{name} of the straight line cannot be compared: there is no layer between first and last."
    line, baseline = run.prediction_errors(metric)
    said = (
        f"{name} of the layers between first and last, placed at their {POSITIONS['projection']}: the straight line is off by "
        f"{number(line)} decades (RMS; a decade is a factor of ten), {BASELINE} by {number(baseline)}; "
        f"{compare_errors(line, baseline)}."
    )
    line, baseline = run.prediction_errors(metric, "index")
    if line is not None and baseline is not None:
        said += f" Placed at their {POSITIONS['index']}: {number(line)} against {number(baseline)}; "
        said += f"{compare_errors(line, baseline)}."
    return said


def compare_errors(line: float | None, baseline: float | None) -> str:
    """Which of two errors is smaller, and by what factor."""
    if line is None or baseline is None:
        return "no comparison, because a value is undefined"
    if line == baseline:
        return "a tie"
    name, better, worse = ("line", line, baseline) if line < baseline else ("baseline", baseline, line)
    return f"the {name} is better by a factor of {number(worse / better)}" if better > 0 else f"the {name} is exact"


def say_errors(line: float | None, baseline: float | None, flow: float | None = None) -> str:
    """Say in the caption of a panel over depth how far the predictions are off."""
    if line is None and baseline is None:
        return "nothing to compare with the lines"
    said = f"off by {number(line)} decades (line), {number(baseline)} (baseline)"
    return said if flow is None else f"{said}, {number(flow)} (flow of class means)"


def say_mean_path(run: Run) -> str:
    """Say where the class means go: how far the flow is off, the exponent of their path, and its cost."""
    path, flow = run.last.mean_path, run.flow_error()
    if path is None or len(run.layers) < 3:
        return (
            "The flow of class means (affine-invariant geodesic of their Gram matrices) needs a layer between first and last, "
            "and class means of both that span K−1 dimensions."
        )
    line, baseline = run.prediction_errors("pfc2")
    said = (
        "The flow of class means is another prediction of PFC2 from the two ends: the affine-invariant geodesic between their "
        f"Gram matrices. It is off by {number(flow)} decades, the straight line by {number(line)}, the baseline by "
        f"{number(baseline)}. "
    )
    if path.gap is None or path.gap < APART:
        said += f"Flow and straight line differ by {number(path.gap)} decades here, too little to tell them apart."
    elif path.exponent is None:
        said += "Flow and straight line are two of a family of paths with one exponent. None of the family fits these layers."
    else:
        said += (
            "Flow and straight line are two of a family of paths with one exponent: 0 is the flow, 0.5 the straight line. The "
            f"exponent that fits these layers best is {number(path.exponent)}, wherever they are placed along the path."
        )
    if path.cost is not None:
        said += (
            f" Linear blocks that move the class means from layer to layer as here need at least {number(path.cost)} times "
            "the squared weights of the cheapest path between the same ends."
        )
    return said


def say_theorems(run: Run) -> list[str]:
    """State what the theorems about the straight line say about PFC1, PFC2 and PFC3."""
    record = run.last
    return _say_without_classes(run) or [
        _say_theorem1(record.theorem1),
        _say_theorem2(record.theorem2),
        *_say_alignment(record.alignment),
        *_say_flattening(record.flattening),
        _say_theorem3(record.theorem3),
    ]


def _say_without_classes(run: Run) -> list[str]:
    """Where all class means of an end coincide, what the theorems ask for is met by any network: not a word about learning."""
    layers, points = {"starts": run.layers[0], "ends": run.layers[-1]}, coincident(run, "nc1_total")
    sentences = []
    for end in coincident(run, "pfc1"):
        what, whose = "class means", "classes"
        if end in points:
            what, whose = "features", "samples, for which any pairing is optimal transport"
        sentences.append(
            f"At {layers[end]}, where the straight line {end}, all {what} coincide. There is no class information there: the "
            f"line {end} at one point for all {whose}. Any network meets the conditions of the theorems about the line or "
            "leaves them undefined, so they say nothing about learning."
        )
    return sentences


def coincident(run: Run, metric: str) -> list[str]:
    """Name the ends of the line at which a metric is undefined though not at every layer."""
    # A class without samples leaves all layers undefined; at an end alone, the class means coincide for ``pfc1``, and all
    # features for ``nc1_total``, as those of a class token before the first block.
    values = run.over_depth(metric)
    if not any(value is not None for value in values):
        return []
    return [name for name, value in (("starts", values[0]), ("ends", values[-1])) if value is None]


def _say_theorem1(theorem: Theorem1 | None) -> str:
    """Theorem 1: PFC1 falls along the line if the centered means of both ends correlate (C ≥ 0) and the end is collapsed."""
    if theorem is None:
        return "Theorem 1 (PFC1 along the straight line) was not computed."
    # Files of earlier versions call C = 0 of class means that coincide a condition that holds.
    if theorem.holds is None or theorem.normalized is None:
        return f"Theorem 1 (PFC1 along the straight line) is undefined {_UNDEFINED}"
    said = (
        f"Theorem 1 (PFC1 along the straight line): its condition {_STATES[theorem.holds]}. The correlation of first and last "
        f"centered class means is {'not negative' if theorem.holds else 'negative'}: C = {number(theorem.correlation)} (mean "
        f"over classes of their inner products; {number(theorem.normalized)} when normalized to [−1, 1]). "
    )
    if theorem.monotone is None:
        return said + "Whether PFC1 falls along the line between the measured ends is undefined."
    if theorem.monotone:
        return said + "Between the measured ends, PFC1 falls all along the line."
    peak = theorem.argmax_t
    where = f"; its maximum is at t = {number(peak)}" if peak is not None and 0 < peak < 1 else ""
    return (
        f"{said}The theorem is about a last layer that is collapsed. Between the measured ends, which need not be collapsed, "
        f"PFC1 does not fall all along the line{where}."
    )


def _say_theorem2(theorem: Theorem2 | None) -> str:
    """Theorem 2: PFC2 falls along the line if the transport cost is small; here by the exact test."""
    if theorem is None:
        return "Theorem 2 (PFC2 along the straight line) was not computed."
    if theorem.monotone is None:
        return f"Theorem 2 (PFC2 along the straight line) is undefined {_UNDEFINED}"
    said = "Theorem 2 (PFC2 along the straight line): by the exact test, PFC2 "
    if theorem.monotone:
        said += "falls all along the line."
    else:
        intervals = [f"t = {' to '.join(number(t) for t in interval)}" for interval in theorem.intervals or ()]
        said += f"does not fall all along the line; it rises for {listed(intervals) or 'an interval that is undefined'}."
    said += f" The relative transport cost is {number(theorem.relative_cost)} (distance of first and last class means over the "
    return f"{said}length of the last). {_say_sufficient(theorem)}"


def _say_sufficient(theorem: Theorem2) -> str:
    """State the two sufficient conditions, and whether they are about this end."""
    distance = theorem.end_distance
    said = "The theorem's two sufficient conditions, (A) and (B), assume that the last layer is an exact simplex ETF. "
    if distance is None:
        return f"{said}Its distance from one is undefined."
    if distance > _ETF_ROUNDING:
        return f"{said}Its PFC2 is {number(distance)}, so they do not apply here."
    return (
        f"{said}It is one up to rounding. Both look at how the Gram matrix of the class means changes on the way back from the "
        f"last layer. (A) {_STATES[theorem.sufficient_a]}: the first- and the second-order change must not oppose each other, "
        f"and the relative cost must be at most 1. (B) {_STATES[theorem.sufficient_b]}: the first-order change must be the "
        "larger one."
    )


def _say_alignment(found: PolarAlignment | None) -> list[str]:
    """State our theorem of the optimal rotation: PFC2 falls towards an ETF that is aligned, at any transport cost."""
    if found is None or found.alignment is None:
        return []
    said = f"The alignment of first and last class means is {number(found.alignment)} (1: no rotation brings them nearer). "
    if found.guaranteed:
        return [f"{said}The last layer is a simplex ETF too, so PFC2 cannot rise along the line, whatever the transport cost."]
    return [
        f"{said}Where it is 1 and the last layer is an exact simplex ETF, PFC2 cannot rise along the line. That is not so here."
    ]


def _say_flattening(found: Flattening | None) -> list[str]:
    """State how far the ends are from each theorem about PFC2, and which hypothesis is nearest."""
    if found is None or found.defect is None:
        return []
    said = (
        "Flattening theorem: PFC2 cannot rise along the line if the class means of both ends have the same singular vectors, "
        "and their singular values keep their order and become more equal. The last class means miss this by "
        f"{number(found.defect)} of their length ({number(found.misalignment)} in the singular vectors, "
        f"{number(found.ratio_defect)} in the values). "
    )
    if found.guaranteed:
        return [f"{said}The theorem tolerates {number(found.radius)}, so PFC2 cannot rise along the line."]
    said += f"The theorem tolerates at most {number(found.radius)}, so it does not apply here. "
    reached = {"the flattening theorem": found.defect, "the theorem of the alignment": found.polar_distance}
    if found.etf_sufficient:
        reached["Theorem 2"] = found.etf_distance
    known = {name: distance for name, distance in reached.items() if distance is not None}
    nearest = min(known, key=lambda name: known[name])
    condition = {
        True: "if they reached it, condition (A) or (B) would hold",
        False: "if they reached it, neither condition would hold",
        None: "there are too few dimensions for one",
    }
    return [
        f"{said}Theorem 2 assumes a simplex ETF at the end. The relative distance of the last class means from one is "
        f"{number(found.etf_distance)} ({condition[found.etf_sufficient]}). The theorem of the alignment assumes a simplex ETF "
        "that no rotation brings nearer to the first class means; from that the distance is "
        f"{number(found.polar_distance)}. So {nearest} comes nearest to applying."
    ]


def _say_theorem3(theorem: Theorem3 | None) -> str:
    """PFC3 along the line: no pair of sample and rival class may turn from right to wrong."""
    if theorem is None:
        return "The condition for PFC3 along the straight line was not computed."
    if theorem.guaranteed is None:
        return "The condition for PFC3 along the straight line is undefined because a class has no samples."
    pairs = "an undefined number" if theorem.violating_pairs is None else f"{theorem.violating_pairs:,}"
    total = "" if theorem.num_pairs is None else f" of {theorem.num_pairs:,}"
    said = (
        "PFC3 along the straight line: suppose that every sample ended at the last layer's mean of its class. Then PFC3 "
        f"{'cannot' if theorem.guaranteed else 'might'} fall along the line: {pairs}{total} pairs of a sample and a wrong "
        "class can turn from right to wrong. "
    )
    if theorem.num_falls is None or theorem.num_steps is None:
        return said + "Whether it falls between the measured ends was not recorded."
    steps = counted(theorem.num_steps, "step")
    if not theorem.num_falls:
        return said + f"With the measured last features, it never falls in {steps}."
    return said + f"With the measured last features, it falls at {theorem.num_falls} of {steps}."


def say_objective(record: ObjectiveRecord | None) -> list[str]:
    """Compare the objective with the minimum of the generalized unconstrained features model."""
    if record is None:
        return []
    side, but = ("above", "") if record.excess >= 0 else ("below", ", which should be impossible")
    away = f"Features and last layer are {number(record.distance)} away from its minimizers (relative distance)."
    if record.distance is None:
        away = "How far features and last layer are from its minimizers is undefined."
    return [
        f"The objective with λ = {number(record.weight_decay)} is {number(record.objective, 6)} (loss "
        f"{number(record.loss)}, penalty {number(record.penalty)}). That is {number(abs(record.excess))} {side} its floor "
        f"{number(record.floor, 6)}{but}: no network of this kind can get below the minimum of the generalized unconstrained "
        f"features model. {away}",
        *_say_gradient(record),
        *_say_depth_floor(record),
    ]


def _say_gradient(record: ObjectiveRecord) -> list[str]:
    if record.relative_gradient is None:
        return []
    return [
        f"The objective's gradient is {number(record.relative_gradient)} of the summed norms of its two parts, those of loss "
        "and penalty: 0 at a stationary point, 1 where they do not oppose each other."
    ]


def _say_depth_floor(record: ObjectiveRecord) -> list[str]:
    """Compare the objective with the floor that knows depth and first layer, or name what it lacks."""
    if record.depth_floor is None:
        lacks = f"A higher floor, which depends on the depth, does not apply here. It needs {listed(list(record.unmet))}."
        return [lacks] if record.unmet else []
    whose = "with this (trained) first layer" if record.unmet else "on these data"
    above, share = record.objective - record.depth_floor, record.depth_floor - record.floor
    return [
        f"No network of this depth {whose} can get below {number(record.depth_floor, 6)}, which is {number(share)} higher. "
        f"The objective is {number(abs(above))} {'above' if above >= 0 else 'below'} this floor."
    ]
