"""From settings to a row: each setting with enough seeds has one vote (docs/claims.md, Settings)."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ncollapse.claims.distributions import normal_tail, sign_test, t_quantile, t_tail
from ncollapse.claims.estimates import LEVEL, Estimate, mean_estimate
from ncollapse.claims.evidence import UNBOUNDED, Evidence, Value, pooled
from ncollapse.claims.rules import RULES
from ncollapse.claims.verdicts import RowTest, Vote, against_shuffled, holm, range_of_steps, row_of, with_largest_p_value
from ncollapse.records.run_files import BaseRate

# Relative size of an error that is the rounding of float64 sums.
_ROUNDING = 1e-12


def row_over(evidence: Sequence[Evidence], least_seeds: int = RULES.least_seeds) -> RowTest:
    """Test the settings of a row together; if none has the seeds that a vote needs, all are taken."""
    # All draws have the same base rates, or none: evidence.with_base_rates leaves out the others.
    known = [item for item in evidence if item.draws]
    voting = [item for item in known if len(item.draws) >= least_seeds] or known
    votes, together = _votes(voting), pooled(voting)
    if len(votes) < 2:
        return replace(votes[0].row, votes=votes) if votes else row_of((), UNBOUNDED)
    mean = Mean([{draw.seed: draw.value for draw in item.draws} for item in voting])
    bounds = (0.0, 1.0) if mean.is_share else voting[0].bounds
    among = mean_estimate([vote.row.estimate.value for vote in votes])
    row = RowTest(
        _cut(mean.estimate, bounds)._replace(n=len(together)),
        mean.is_share,
        mean.p_value,
        tuple(base for base in (_against_before(voting), against_shuffled(together)) if base is not None),
        range_of_steps(together),
        votes,
        _cut(among, bounds)[1:3],
    )
    return with_largest_p_value(row) if row.side else replace(row, p_value=_disagreement(votes))


def _votes(voting: Sequence[Evidence]) -> tuple[Vote, ...]:
    rows = [row_of(item.draws, item.bounds, item.base) for item in voting]
    names = Counter(item.setting for item in voting)
    # Comparisons of one setting with several others differ in what is compared.
    words = [item.setting if names[item.setting] == 1 else f"{item.setting}: {item.statistic}" for item in voting]
    corrected = holm([row.p_value for row in rows])
    return tuple(Vote(*vote) for vote in zip(words, voting, rows, corrected, strict=True))


def _cut(estimate: Estimate, bounds: tuple[float, float]) -> Estimate:
    return estimate._replace(low=max(estimate.low, bounds[0]), high=min(estimate.high, bounds[1]))


def _disagreement(votes: Sequence[Vote]) -> float:
    """Return the p-value of a claim that is right in one of the settings and wrong in another."""
    # Both at once need the larger one (Berger, 1982); each is the best of all settings, so it is times their number.
    best = [min((vote.row.p_value for vote in votes if vote.row.side == side), default=1.0) for side in (1, -1)]
    return min(1.0, len(votes) * max(best))


class Mean:
    """The mean over settings, given as values by seed, of the mean over their seeds, with its standard error and its test."""

    def __init__(self, settings: Sequence[Mapping[int, Value]]) -> None:
        self.is_share = all(isinstance(value, bool) for own in settings for value in own.values())
        self.value = statistics.fmean(statistics.fmean(own.values()) for own in settings)
        self._settings = settings
        self._freedom = math.inf if self.is_share else min(map(len, settings)) - 1
        # Of the seeds within settings.
        self.error = self._share_error() if self.is_share else self._number_error()
        self.p_value = self._test()  # two-sided: against ½ for shares, against 0 for numbers

    @property
    def estimate(self) -> Estimate:
        """The mean with its interval of 95 %; n is the number of seeds in all."""
        half = t_quantile(0.5 + LEVEL / 2, self._freedom) * self.error if self._freedom > 0 else math.nan
        return Estimate(self.value, self.value - half, self.value + half, sum(map(len, self._settings)))

    def _share_error(self) -> float:
        # A truth has at most the variance 1/4. A seed in several settings is one draw with all of their weights.
        weights: dict[int, float] = defaultdict(float)
        for own in self._settings:
            for seed in own:
                weights[seed] += 1 / (len(self._settings) * len(own))
        return math.hypot(*weights.values()) / 2

    def _number_error(self) -> float:
        parts: dict[int, float] = defaultdict(float)
        for own in self._settings:
            mean, n = statistics.fmean(own.values()), len(own)
            for seed, value in own.items():
                parts[seed] += (value - mean) / (len(self._settings) * math.sqrt(n * max(n - 1, 1)))
        error = math.hypot(*parts.values())
        return error if error > _ROUNDING * max(abs(value) for own in self._settings for value in own.values()) else 0.0

    def _test(self) -> float:
        if self.is_share:
            # A share moves in steps; half of the largest one is the correction for that.
            step = max(1 / (len(self._settings) * len(own)) for own in self._settings)
            return min(1.0, 2 * normal_tail((abs(self.value - 0.5) - step / 2) / self.error))
        if self._freedom < 1:
            return 1.0
        if self.error == 0:
            num_seeds = len({seed for own in self._settings for seed in own})
            return 1.0 if self.value == 0 else sign_test(num_seeds, num_seeds)
        return 2 * t_tail(abs(self.value) / self.error, self._freedom)


def _against_before(voting: Sequence[Evidence]) -> BaseRate | None:
    """Compare with the same draws without what is claimed, settings weighed alike."""
    pairs = [{draw.seed: (draw.value, draw.before) for draw in item.draws if draw.before is not None} for item in voting]
    if any(len(own) < len(item.draws) for own, item in zip(pairs, voting, strict=True)):
        return None
    value = statistics.fmean(statistics.fmean(base for _, base in own.values()) for own in pairs)
    is_share = all(isinstance(value, bool) for own in pairs for value, _ in own.values())
    # Pairs of truths that do not differ say nothing.
    gains: list[dict[int, Value]] = [
        {
            seed: bool(value) if is_share else value - other
            for seed, (value, other) in own.items()
            if value != other or not is_share
        }
        for own in pairs
    ]
    # Every setting must be better than its base rate, however little, as it must be on the side of the claim.
    better = all(statistics.fmean(value - other for value, other in own.values()) > 0 for own in pairs)
    gains = [own for own in gains if own]
    return BaseRate(voting[0].base, value, Mean(gains).p_value if better else 1.0)
