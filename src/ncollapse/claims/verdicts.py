"""From draws to a verdict: the tests of one row, Holm's correction over the rows of a paper, and the words.

A row is one statement in the table of a paper. ``row_of`` tests it by the draws of one setting; ``pooling.py`` joins the
settings, each with one vote. ``judge`` then turns the corrected p-value into a verdict. The rules are in docs/claims.md.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from ncollapse.claims.distributions import binomial_tail, sign_test, t_tail
from ncollapse.claims.estimates import Estimate, spread
from ncollapse.claims.evidence import BEFORE_TRAINING, IN_RANDOM_ORDER, Draw, Evidence, estimate_of
from ncollapse.claims.rules import RULES, Verdict
from ncollapse.drawing.wording import counted
from ncollapse.records.run_files import BaseRate

Side = Literal[-1, 0, 1]
# A verdict names at most so many settings, and otherwise says how many there are.
_MOST_NAMED = 2


@dataclass(frozen=True)
class RowTest:
    """The numbers of one row: one draw per seed."""

    # The share of draws in which the claim is right, with the exact interval, or the mean of their numbers, with the t
    # interval. Intervals are of 95 %, not corrected. Over several settings it is the mean of their estimates.
    estimate: Estimate
    is_share: bool
    # Not corrected. It belongs to the two-sided test against ½ (exact) or 0 (t). If the estimate is on the side of the claim,
    # it is the largest of this one and those against the base rates. If settings lie on both sides, it belongs to the test
    # that they do (docs/claims.md, Settings).
    p_value: float
    bases: tuple[BaseRate, ...]  # each with the p-value of the test against it
    steps: tuple[int, int] | None  # fewest and most steps from layer to layer among the draws; None if it is not about an order
    votes: tuple[Vote, ...] = ()  # what each setting says; empty if settings are not told apart
    over_settings: tuple[float, float] | None = None  # the t interval of the votes; None for fewer than two

    @property
    def side(self) -> Side:
        """1 if the estimates of all settings are on the side of the claim, -1 if all are against it, else 0."""
        if len(self.votes) > 1:
            sides = {vote.row.side for vote in self.votes}
            return sides.pop() if len(sides) == 1 else 0
        middle = 0.5 if self.is_share else 0.0
        return 1 if self.estimate.value > middle else -1 if self.estimate.value < middle else 0


@dataclass(frozen=True)
class Vote:
    """What the seeds of one setting say, with the p-value after Holm's correction over the settings of its row."""

    setting: str
    evidence: Evidence
    row: RowTest
    corrected: float

    @property
    def stands(self) -> Literal["right", "wrong", "open"]:
        """Whether the claim is right or wrong in this setting by the test of its own seeds."""
        if self.corrected > RULES.level or not self.row.side:
            return "open"
        return "right" if self.row.side > 0 else "wrong"


def row_of(draws: Sequence[Draw], bounds: tuple[float, float], base_name: str = BEFORE_TRAINING) -> RowTest:
    """Test the draws of a row, of which all have the same base rates, or none."""
    values = [draw.value for draw in draws]
    is_share = all(isinstance(value, bool) for value in values)
    found = (_against_before(draws, is_share, base_name), against_shuffled(draws))
    bases = tuple(base for base in found if base is not None)
    p_value = sign_test(sum(map(bool, values)), len(values)) if is_share else _t_test(values)
    return with_largest_p_value(RowTest(estimate_of(values, bounds), is_share, p_value, bases, range_of_steps(draws)))


def with_largest_p_value(row: RowTest) -> RowTest:
    """Give a row that is on the side of its claim the largest p-value: its own, or one against a base rate."""
    # A claim must be right more often than not, and more often than without what it is about. A verdict for it needs all of
    # these tests at once, so the largest p-value is that of the row (Berger, 1982). A verdict against it needs only the first.
    return replace(row, p_value=max([row.p_value, *(base.p_value for base in row.bases)])) if row.side > 0 else row


def _against_before(draws: Sequence[Draw], is_share: bool, base_name: str) -> BaseRate | None:
    """Compare every draw with the same draw without the cause in question, usually before training."""
    pairs = [(draw.value, draw.before) for draw in draws if draw.before is not None]
    if len(pairs) < len(draws) or not pairs:
        return None
    value = statistics.fmean(before for _, before in pairs)
    # The tests are two-sided. A difference in the wrong direction is no evidence for the claim, so its p-value is 1.
    if is_share:
        # The sign test of pairs (McNemar's, exact): pairs that agree say nothing.
        gained, lost = (sum(pair == kind for pair in pairs) for kind in ((True, False), (False, True)))
        p_value = sign_test(gained, gained + lost) if gained > lost else 1.0
    else:
        gains = [after - before for after, before in pairs]
        p_value = _t_test(gains) if statistics.fmean(gains) > 0 else 1.0
    return BaseRate(base_name, value, p_value)


def against_shuffled(draws: Sequence[Draw]) -> BaseRate | None:
    """Compare with layers in random order."""
    chances = [draw.shuffled for draw in draws if draw.shuffled is not None]
    if len(chances) < len(draws) or not chances:
        return None
    right = sum(bool(draw.value) for draw in draws)
    # No draw passes by chance with more than the largest of these probabilities. So the binomial tail at the largest bounds the
    # probability that as many draws or more are right by chance.
    p_value = binomial_tail(right, len(draws), max(chances))
    return BaseRate(IN_RANDOM_ORDER, statistics.fmean(chances), p_value)


def range_of_steps(draws: Sequence[Draw]) -> tuple[int, int] | None:
    """Return the fewest and the most steps among draws; None if no draw has any."""
    steps = [draw.steps for draw in draws if draw.steps is not None]
    return (min(steps), max(steps)) if steps else None


def _t_test(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 1.0
    mean, deviation = statistics.fmean(values), spread(values)
    if deviation == 0:
        # Rank correlations of a few settings are often equal in all seeds: no reason for p = 0.
        return 1.0 if mean == 0 else sign_test(len(values), len(values))
    return 2 * t_tail(abs(mean) / deviation * math.sqrt(len(values)), len(values) - 1)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Return p-values corrected for their number after Holm (1979): :math:`\max_{j \le i} \min(1, (m - j + 1) p_{(j)})`."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def has_enough(row: RowTest) -> bool:
    """Return whether a row has the draws that a verdict needs, and its settings those that a vote needs."""
    return row.estimate.n >= RULES.least_draws and all(vote.row.estimate.n >= RULES.least_seeds for vote in row.votes)


def judge(row: RowTest, corrected: float) -> tuple[Verdict, str]:
    """Return the verdict on a row with enough draws, and what hinders a clearer one."""
    if corrected <= RULES.level:
        # The p-value of a row on neither side is that of the test that its settings lie on both sides.
        verdicts: dict[Side, Verdict] = {1: "holds", 0: "depends on the setting", -1: "fails"}
        return verdicts[row.side], "" if row.side else _parts(row)
    blocking = [base.name for base in row.bases if base.p_value > RULES.level] if row.side > 0 else []
    if blocking:
        return "undecided", f"no better than {' and '.join(blocking)}"
    parts = "" if row.side or len(row.votes) < 2 else f"settings differ: {_parts(row)}; "
    return "undecided", f"{parts}p = {corrected:.2g} after correction for all rows of the paper"


def _parts(row: RowTest) -> str:
    """Say in which settings a claim is right, wrong or open by their own seeds. One or two settings are named."""
    found = {kind: [vote.setting for vote in row.votes if vote.stands == kind] for kind in ("right", "wrong", "open")}
    return "; ".join(f"{kind} in {_named(names)}" for kind, names in found.items() if names)


def _named(settings: Sequence[str]) -> str:
    return f"{len(settings)} settings" if len(settings) > _MOST_NAMED else " and ".join(f"({name})" for name in settings)


def judge_check(row: RowTest) -> tuple[Verdict, str]:
    """Return the verdict on the code: what a theorem proves must be right in every draw."""
    if not row.estimate.n:
        return "not testable here", "there was nothing to test"
    return ("check passed" if row.estimate.value == 1 else "check failed"), ""


def without_base_rate(num_seeds: int) -> list[str]:
    """Say how many seeds do not count because they have no base rate; the list is empty if there are none."""
    verbs = "has no base rate and does" if num_seeds == 1 else "have no base rate and do"
    return [f"{counted(num_seeds, 'seed')} {verbs} not count"] if num_seeds else []


def too_few(row: RowTest) -> str:
    """Say how many draws are missing."""
    if row.estimate.n >= RULES.least_draws:
        return f"no setting has the {RULES.least_seeds} seeds that a vote needs"
    return f"{counted(row.estimate.n, 'seed')}, {RULES.least_draws} needed"
