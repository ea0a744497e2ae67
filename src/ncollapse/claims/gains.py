"""Numbers of a run that are positive where a claim is right: leads of predictions, order and collapse gained in training."""

import math
from itertools import combinations, pairwise

from ncollapse.claims.estimates import rank_correlation
from ncollapse.claims.evidence import RunTest
from ncollapse.records.reading import Run

_PROGRESSIVE = ("pfc1", "pfc2", "pfc3_error")
# A few late epochs say what training came to, not how.
_LEAST_EPOCHS = 8


def line_lead(metric: str, position: str = "projection") -> RunTest:
    """How many decades the straight line's RMS error over the interior layers is below the baseline's."""

    def read(run: Run, epoch: int | None = None) -> float | None:
        line, baseline = run.prediction_errors(metric, position, epoch)
        return None if line is None or baseline is None else baseline - line

    return read


def flow_lead(rival: int) -> RunTest:
    """How many decades the flow's RMS error in PFC2 is below the straight line's (0) or the baseline's (1)."""

    def read(run: Run, epoch: int | None = None) -> float | None:
        flow, other = run.flow_error(epoch=epoch), run.prediction_errors("pfc2", epoch=epoch)[rival]
        return None if flow is None or other is None else other - flow

    return read


def order_gained(run: Run) -> float | None:
    """Share of steps at which PFC1, PFC2 and the NCC error rise before training, minus that share at the last epoch."""
    if run.epochs[0] != 0 or run.epochs[-1] == 0:
        return None
    before, after = (_share_of_rises(run, epoch) for epoch in (0, run.epochs[-1]))
    return None if before is None or after is None else before - after


def order_trend(run: Run) -> float | None:
    """Rank correlation (Kendall's τ-b) of the share of steps that fall with training time, over the epochs after the start."""
    # Without epoch 0: an order that is there at once has not come gradually. None where as many steps fall at all epochs.
    shares = {epoch: _share_of_rises(run, epoch) for epoch in run.epochs if epoch}
    known = {epoch: share for epoch, share in shares.items() if share is not None}
    if len(known) < _LEAST_EPOCHS or len(set(known.values())) == 1:
        return None
    return -rank_correlation(list(known), list(known.values()))


def order_gained_by_chance(run: Run) -> float | None:
    """Return the same for last layers in random order: of their steps between unequal values half are rises."""
    before = _share_of_rises(run, 0) if run.epochs[0] == 0 else None
    pairs = [pair for metric in _PROGRESSIVE for pair in combinations(run.over_depth(metric), 2)]
    return None if before is None or not pairs else before - sum(one != other for one, other in pairs) / len(pairs) / 2


def _share_of_rises(run: Run, epoch: int) -> float | None:
    steps = [step for metric in _PROGRESSIVE for step in pairwise(run.over_depth(metric, epoch))]
    rises = [after > before for before, after in steps if before is not None and after is not None]
    return sum(rises) / len(rises) if rises and len(rises) == len(steps) else None


def _lost_in_training(metric: str) -> RunTest:
    """Decades by which a metric of the last layer falls from before training to the end; None where one is undefined or 0."""

    def read(run: Run) -> float | None:
        last = run.depths[-1]
        before, after = run.value(metric, last, 0), run.value(metric, last)
        return math.log10(before / after) if before and after else None

    return read


pfc1_lost_in_training, nc0_lost_in_training = _lost_in_training("pfc1"), _lost_in_training("nc0")
