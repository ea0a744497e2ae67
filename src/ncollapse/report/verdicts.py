"""The theorem predicates in words, each with the quantity that it tests."""

from ncollapse.report.formats import CollapsedOptimality, Theorem1, Theorem2, Theorem3
from ncollapse.report.wording import listed, number

__all__ = ["say_collapsed_optimality", "say_theorem1", "say_theorem2", "say_theorem3"]


def say_theorem1(theorem: Theorem1 | None) -> str:
    """Theorem 1: PFC1 falls along the line if the centered class means of both ends correlate (C ≥ 0) and the end is collapsed.

    Args:
        theorem: The predicate, or None if it was not computed.

    Returns:
        One or two sentences.
    """
    if theorem is None or theorem.holds is None:
        return "Theorem 1 (PFC1 along the straight line) is undefined here."
    sign, holds = ("not negative", "holds") if theorem.holds else ("negative", "does not hold")
    said = f"Theorem 1 (PFC1): its condition {holds}: the correlation of first and last centered class means is {sign}, "
    said += f"C = {number(theorem.correlation)} (normalized {number(theorem.normalized)}). "
    if theorem.monotone is None:
        return said + "Whether PFC1 falls along the line between the measured ends is undefined."
    if theorem.monotone:
        return said + "Between the measured ends PFC1 falls all along the line."
    peak = theorem.argmax_t
    where = f", with its maximum at t = {number(peak)}" if peak is not None and 0 < peak < 1 else ""
    return said + f"Between the measured ends, which need not be collapsed, PFC1 does NOT fall all along the line{where}."


def say_theorem2(theorem: Theorem2 | None) -> str:
    """Theorem 2: PFC2 falls along the line if the transport cost is small; here by the exact test.

    Args:
        theorem: The predicate, or None if it was not computed.

    Returns:
        One or two sentences.
    """
    if theorem is None or theorem.monotone is None:
        return "Theorem 2 (PFC2 along the straight line) is undefined here."
    if theorem.monotone:
        said = "Theorem 2 (PFC2): by the exact test PFC2 falls all along the line. "
    else:
        intervals = [f"t = {' to '.join(number(t) for t in interval)}" for interval in theorem.intervals or ()]
        where = listed(intervals) or "an interval that is undefined"
        said = f"Theorem 2 (PFC2): by the exact test PFC2 does NOT fall all along the line: it rises on {where}. "
    states = {True: "holds", False: "does not hold", None: "is undefined"}
    said += f"Of the sufficient conditions for an ETF as the end, (A) {states[theorem.sufficient_a]} and (B) "
    return f"{said}{states[theorem.sufficient_b]}; relative transport cost of the class means {number(theorem.relative_cost)}."


def say_theorem3(theorem: Theorem3 | None) -> str:
    """PFC3 along the line: no pair of sample and rival class may turn from right to wrong.

    Args:
        theorem: The predicate, or None if it was not computed.

    Returns:
        One sentence.
    """
    if theorem is None or theorem.guaranteed is None:
        return "For PFC3 along the straight line the predicate is undefined here."
    pairs = "an undefined number" if theorem.violating_pairs is None else f"{theorem.violating_pairs:,}"
    total = "" if theorem.num_pairs is None else f" of {theorem.num_pairs:,}"
    said = f"PFC3: {pairs}{total} pairs of a sample and a rival class can turn from right to wrong along the line, so that "
    return said + f"PFC3 is {'guaranteed' if theorem.guaranteed else 'NOT guaranteed'} to grow along it (for a collapsed end)."


def say_collapsed_optimality(verdict: CollapsedOptimality | None) -> list[str]:
    """The exact test for a collapsed end: the map of all samples onto the last class means, optimal or improved by a cycle.

    Args:
        verdict: The predicate, or None in runs that did not compute it.

    Returns:
        One sentence, or none.
    """
    if verdict is None or verdict.optimal is None:
        return []
    said = "For an end collapsed to its class means, which the measured one need not be, the map of all samples onto them is "
    if verdict.optimal:
        said += "optimal transport: a linear classifier with those class means as weights makes no error on the first features."
        return [said]
    said += "NOT optimal transport"
    if verdict.cycle:
        classes = " → ".join(str(k) for k in (*verdict.cycle, verdict.cycle[0]))
        said += f": one sample handed on along the classes {classes} lowers the total cost by {number(verdict.gain)}"
    return [f"{said}."]
