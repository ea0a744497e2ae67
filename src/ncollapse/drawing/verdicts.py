"""The theorem predicates in words, each with the quantity that it tests and with what it does not bind."""

from ncollapse.drawing.wording import counted, listed, number
from ncollapse.records.depth import (
    CollapsedOptimality,
    DepthRecord,
    PolarAlignment,
    Theorem1,
    Theorem2,
    Theorem3,
    WeightDecayBound,
)

__all__ = ["say_bounds", "say_collapsed_optimality", "say_theorems"]

_STATES = {True: "holds", False: "does not hold", None: "is undefined"}
# PFC2 of an exact ETF whose features are float32 is some 1e-7.
_ETF_ROUNDING = 1e-6
_UNDEFINED = "because a class has no samples or all class means of an end coincide."


def say_theorems(record: DepthRecord) -> list[str]:
    """What the theorems about the straight line say of PFC1, PFC2 and PFC3."""
    return [
        _say_theorem1(record.theorem1),
        _say_theorem2(record.theorem2),
        *_say_alignment(record.alignment),
        _say_theorem3(record.theorem3),
    ]


def _say_theorem1(theorem: Theorem1 | None) -> str:
    """Theorem 1: PFC1 falls along the line if the centered means of both ends correlate (C ≥ 0) and the end is collapsed."""
    if theorem is None:
        return "Theorem 1 (PFC1 along the straight line) was not computed."
    # Files of earlier versions call C = 0 of class means that coincide a condition that holds.
    if theorem.holds is None or theorem.normalized is None:
        return f"Theorem 1 (PFC1 along the straight line) is undefined {_UNDEFINED}"
    sign = "not negative" if theorem.holds else "negative"
    said = (
        f"Theorem 1 (PFC1): its condition {_STATES[theorem.holds]}: the correlation of first and last centered class means is "
    )
    said += f"{sign}, C = {number(theorem.correlation)} (the mean over classes of their inner products; normalized to [−1, 1]: "
    said += f"{number(theorem.normalized)}). "
    if theorem.monotone is None:
        return said + "Whether PFC1 falls along the line between the measured ends is undefined."
    if theorem.monotone:
        return said + "Between the measured ends PFC1 falls all along the line."
    peak = theorem.argmax_t
    where = f", with its maximum at t = {number(peak)}" if peak is not None and 0 < peak < 1 else ""
    return said + f"Between the measured ends, which need not be collapsed, PFC1 does NOT fall all along the line{where}."


def _say_theorem2(theorem: Theorem2 | None) -> str:
    """Theorem 2: PFC2 falls along the line if the transport cost is small; here by the exact test."""
    if theorem is None:
        return "Theorem 2 (PFC2 along the straight line) was not computed."
    if theorem.monotone is None:
        return f"Theorem 2 (PFC2 along the straight line) is undefined {_UNDEFINED}"
    if theorem.monotone:
        said = "Theorem 2 (PFC2): by the exact test PFC2 falls all along the line. "
    else:
        intervals = [f"t = {' to '.join(number(t) for t in interval)}" for interval in theorem.intervals or ()]
        where = listed(intervals) or "an interval that is undefined"
        said = f"Theorem 2 (PFC2): by the exact test PFC2 does NOT fall all along the line: it rises on {where}. "
    said += "Relative transport cost (distance of first and last class means over the length of the last): "
    return f"{said}{number(theorem.relative_cost)}. {_say_sufficient(theorem)}"


def _say_sufficient(theorem: Theorem2) -> str:
    """The two sufficient conditions, and whether the end is what they are about."""
    distance = theorem.end_distance
    if distance is None:
        binding = "how far this end is from one is undefined"
    elif distance > _ETF_ROUNDING:
        binding = f"this end is none (its PFC2 is {number(distance)}), so that they do not bind here"
    else:
        binding = "this end is one up to rounding"
    return (
        f"Two conditions would suffice if the end were an exact simplex ETF; {binding}: (A), first- and second-order change of "
        f"the means' Gram matrix away from the end do not oppose and the relative cost is at most 1, "
        f"{_STATES[theorem.sufficient_a]}; (B), the first-order change outweighs the second-order one, "
        f"{_STATES[theorem.sufficient_b]}."
    )


def _say_alignment(found: PolarAlignment | None) -> list[str]:
    """The theorem of the optimal rotation, which is ours: PFC2 falls towards an ETF that is aligned, at any transport cost."""
    if found is None or found.alignment is None:
        return []
    said = f"Alignment of first and last class means (1 where no rotation brings them nearer): {number(found.alignment)}. "
    if found.guaranteed:
        return [f"{said}The end is an ETF too: PFC2 cannot rise along the line, whatever the transport cost."]
    return [f"{said}At 1, with an exact simplex ETF as the end, PFC2 could not rise along the line; this does not bind here."]


def say_bounds(found: WeightDecayBound | None) -> list[str]:
    """What weight decay bounds."""
    if found is None or found.tightness is None:
        return []
    said = f"What the blocks add, E‖f(h)‖² summed over blocks, is {number(found.tightness)} times what weights and inputs allow"
    return [f"{said}." if found.is_bound else f"{said}, which is no bound here, since the blocks normalize."]


def _say_theorem3(theorem: Theorem3 | None) -> str:
    """PFC3 along the line: no pair of sample and rival class may turn from right to wrong."""
    if theorem is None:
        return "For PFC3 along the straight line the predicate was not computed."
    if theorem.guaranteed is None:
        return "For PFC3 along the straight line the predicate is undefined because a class has no samples."
    pairs = "an undefined number" if theorem.violating_pairs is None else f"{theorem.violating_pairs:,}"
    total = "" if theorem.num_pairs is None else f" of {theorem.num_pairs:,}"
    said = (
        f"PFC3: if the end were collapsed to its class means, PFC3 {'could not' if theorem.guaranteed else 'might'} fall along "
    )
    said += f"the line: {pairs}{total} pairs of a sample and a rival class can turn from right to wrong. "
    if theorem.num_falls is None or theorem.num_steps is None:
        return said + "Whether it falls between the measured ends was not recorded."
    steps = counted(theorem.num_steps, "step")
    if not theorem.num_falls:
        return said + f"Between the measured ends it never falls in {steps}."
    return said + f"Between the measured ends, which need not be collapsed, it FALLS at {theorem.num_falls} of {steps}."


def say_collapsed_optimality(verdict: CollapsedOptimality | None) -> list[str]:
    """The exact test for a collapsed end: the map of all samples onto the last class means, optimal or improved by a cycle."""
    if verdict is None or verdict.optimal is None:
        return []
    said = "For an end collapsed to its class means, which the measured one need not be, the map of all samples onto them is "
    if verdict.optimal:
        said += "optimal transport: a linear classifier with those class means as weights makes no error, ties aside, on the "
        return [f"{said}first features."]
    said += "NOT optimal transport"
    if verdict.cycle:
        classes = " → ".join(str(k) for k in (*verdict.cycle, verdict.cycle[0]))
        said += f": one sample handed on along the classes {classes} lowers the total cost by {number(verdict.gain)}"
    return [f"{said}."]
