"""From draws to a verdict: the tests of one row, Holm's correction over the rows of a paper, and the words."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy import stats

from ncollapse.claims.estimates import Estimate, spread
from ncollapse.claims.evidence import Draw, estimate_of
from ncollapse.claims.rules import RULES, Verdict
from ncollapse.drawing.wording import counted
from ncollapse.records.run_files import BaseRate


@dataclass(frozen=True)
class RowTest:
    """The numbers of one row: one draw a seed.

    Attributes:
        estimate: Share of draws in which the claim is right, with the exact interval, or mean of their numbers, with the t
            interval; both of 95 %, not corrected.
        is_share: Whether it is a share.
        p_value: Of the two-sided test against ½ (exact) or 0 (t). Where the claim would be right, the largest of this and of
            those against its base rates.
        bases: Its base rates.
        steps: Fewest and most steps from layer to layer among the draws; None if it is not about an order.
    """

    estimate: Estimate
    is_share: bool
    p_value: float
    bases: tuple[BaseRate, ...]
    steps: tuple[int, int] | None

    @property
    def is_right(self) -> bool:
        """Whether the estimate is on the side of the claim."""
        return self.estimate.value > (0.5 if self.is_share else 0.0)


def row_of(draws: Sequence[Draw], bounds: tuple[float, float]) -> RowTest:
    """Test the draws of a row."""
    # A claim must be right more often than not, and more often than without what it is about. A verdict for it needs all of
    # these tests at once, so that the largest p-value is that of the row (Berger, 1982). Against it one is enough.
    values = [draw.value for draw in draws]
    is_share = all(isinstance(value, bool) for value in values)
    estimate = estimate_of(values, bounds)
    bases = tuple(base for base in (_untrained(draws, is_share), _shuffled(draws)) if base is not None)
    own = _sign_test(sum(map(bool, values)), len(values)) if is_share else _t_test(values)
    steps = [draw.steps for draw in draws if draw.steps is not None]
    row = RowTest(estimate, is_share, own, bases, (min(steps), max(steps)) if steps else None)
    if not row.is_right:
        return row
    return RowTest(estimate, is_share, max([own, *(base.p_value for base in bases)]), bases, row.steps)


def _untrained(draws: Sequence[Draw], is_share: bool) -> BaseRate | None:
    """Compare with the same draws before training: pairs that differ, by the sign test or the t test."""
    pairs = [(draw.value, draw.before) for draw in draws if draw.before is not None]
    if len(pairs) < len(draws) or not pairs:
        return None
    value = statistics.fmean(before for _, before in pairs)
    if is_share:
        gained, lost = (sum(pair == kind for pair in pairs) for kind in ((True, False), (False, True)))
        p_value = _sign_test(gained, gained + lost) if gained > lost else 1.0
    else:
        gains = [after - before for after, before in pairs]
        p_value = _t_test(gains) if statistics.fmean(gains) > 0 else 1.0
    return BaseRate("before training", value, p_value)


def _shuffled(draws: Sequence[Draw]) -> BaseRate | None:
    """Compare with layers in random order: as many right ones have at most this probability."""
    chances = [draw.shuffled for draw in draws if draw.shuffled is not None]
    if len(chances) < len(draws) or not chances:
        return None
    right = sum(bool(draw.value) for draw in draws)
    p_value = float(stats.binomtest(right, len(draws), max(chances), alternative="greater").pvalue)
    return BaseRate("layers in random order", statistics.fmean(chances), p_value)


def _sign_test(right: int, n: int) -> float:
    return float(stats.binomtest(right, n, 0.5).pvalue) if n else 1.0


def _t_test(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 1.0
    mean, deviation = statistics.fmean(values), spread(values)
    if deviation == 0:
        # Rank correlations of a few settings are often equal in all seeds: no reason for p = 0.
        return 1.0 if mean == 0 else _sign_test(len(values), len(values))
    return float(2 * stats.t.sf(abs(mean) / deviation * math.sqrt(len(values)), len(values) - 1))


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Return p-values corrected for their number after Holm (1979): :math:`\max_{j \le i} \min(1, (m - j + 1) p_{(j)})`."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def has_enough(row: RowTest) -> bool:
    """Return whether a row has the draws that a verdict needs."""
    return row.estimate.n >= RULES.least_draws


def judge(row: RowTest, corrected: float) -> tuple[Verdict, str]:
    """Return the verdict on a row with enough draws, and what hinders a clearer one."""
    if corrected <= RULES.level:
        return ("holds" if row.is_right else "fails"), ""
    blocking = [base.name for base in row.bases if base.p_value > RULES.level] if row.is_right else []
    if blocking:
        return "undecided", f"no better than {' and '.join(blocking)}"
    return "undecided", f"p = {corrected:.2g} after correction for all rows of the paper"


def judge_check(row: RowTest) -> tuple[Verdict, str]:
    """Return whether the code passed: what a theorem says must be right in every draw."""
    if not row.estimate.n:
        return "not testable here", "there was nothing to test"
    return ("check passed" if row.estimate.value == 1 else "check failed"), ""


def too_few(row: RowTest) -> str:
    """Say how many draws are missing."""
    return f"{counted(row.estimate.n, 'seed')}, {RULES.least_draws} needed"
