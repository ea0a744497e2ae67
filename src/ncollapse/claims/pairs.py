"""From runs to evidence on what a setting does: runs of one seed that differ in that setting only, compared."""

import math
from collections.abc import Callable, Sequence

from scipy import stats

from ncollapse.claims.estimates import mean_estimate, share_estimate
from ncollapse.claims.evidence import settings_of
from ncollapse.claims.rules import RULES, Evidence, judge_mean, judge_share
from ncollapse.claims.scope import RESIDUAL, setting
from ncollapse.records.reading import Run

__all__ = ["against_residual", "ranked", "saturated"]

Reading = Callable[[Run], float | None]
_CONNECTIONS = "model.connections"


def ranked(runs: Sequence[Run], field: str, words: str, statistic: str, read: Reading, sign: int) -> list[Evidence]:
    """Kendall's tau-b of a quantity with a setting, one value a seed; its mean over seeds, cut to [-1, 1]."""
    found = []
    for name, members, values in _sets(runs, field):
        taus = {seed: tau for seed, own in _seeds(members) if (tau := _kendall(own, field, values, read)) is not None}
        taus = {seed: sign * tau for seed, tau in taus.items()}
        estimate = mean_estimate(list(taus.values()))
        estimate = estimate._replace(low=max(estimate.low, -1.0), high=min(estimate.high, 1.0))
        direction = "" if sign > 0 else ", sign turned"
        said = f"Kendall's τ of {statistic} with {words} {_listed(values)}{direction}; mean"
        found.append(Evidence(name, said, estimate, *judge_mean(estimate), True, *_sides(members, taus)))
    return found


def saturated(runs: Sequence[Run], field: str) -> list[Evidence]:
    """Whether the effective depth of the deepest network is no larger than that of the second deepest; share of seeds."""
    found = []
    for name, members, values in _sets(runs, field):
        second, deepest = values[-2:]
        truths: dict[int, float] = {}
        for seed, own in _seeds(members):
            depths = [_effective_depth(run) for value in (second, deepest) for run in own if setting(run, field) == value]
            if len(depths) == 2 and depths[0] is not None and depths[1] is not None:
                truths[seed] = 1.0 if depths[1] <= depths[0] else -1.0
        estimate = share_estimate(sum(truth > 0 for truth in truths.values()), len(truths))
        said = f"effective depth with {deepest:g} blocks at most that with {second:g}; share of seeds"
        found.append(Evidence(name, said, estimate, *judge_share(estimate), True, *_sides(members, truths)))
    return found


def against_residual(runs: Sequence[Run], statistic: str, read: Reading) -> list[Evidence]:
    """A quantity of the residual network minus that of the network of other connections with the same seed; mean over seeds."""
    found = []
    for name, members in settings_of(runs, apart=_CONNECTIONS).items():
        kinds = {_connections(run) for run in members}
        for kind in sorted(kinds - {RESIDUAL}) if RESIDUAL in kinds else []:
            both = [run for run in members if _connections(run) in {RESIDUAL, kind}]
            gains: dict[int, float] = {}
            for seed, own in _seeds(both):
                values = {_connections(run): read(run) for run in own}
                residual, other = values.get(RESIDUAL), values.get(kind)
                if residual is not None and other is not None:
                    gains[seed] = residual - other
            estimate = mean_estimate(list(gains.values()))
            said = f"{statistic}, residual minus {kind}; mean"
            found.append(Evidence(name, said, estimate, *judge_mean(estimate), True, *_sides(both, gains)))
    return found


def _connections(run: Run) -> str:
    return str(setting(run, _CONNECTIONS) or RESIDUAL)


def _sets(runs: Sequence[Run], field: str) -> list[tuple[str, list[Run], list[float]]]:
    """Sets of runs that differ in a field and the seed only, with the field's values in order; those with two or more."""
    found = []
    for name, members in settings_of(runs, apart=field).items():
        values = sorted({float(value) for run in members if isinstance(value := setting(run, field), int | float)})
        if len(values) > 1:
            found.append((name, members, values))
    return found


def _seeds(runs: Sequence[Run]) -> list[tuple[int, list[Run]]]:
    seeds = sorted({run.recipe.seed for run in runs if run.recipe.seed is not None})
    return [(seed, [run for run in runs if run.recipe.seed == seed]) for seed in seeds]


def _sides(runs: Sequence[Run], by_seed: dict[int, float]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The runs of the seeds that agree with the claim, and of those that do not."""
    of_seed = dict(_seeds(runs))
    supporting = tuple(str(run.path) for seed, value in by_seed.items() if value > 0 for run in of_seed[seed])
    opposing = tuple(str(run.path) for seed, value in by_seed.items() if value <= 0 for run in of_seed[seed])
    return supporting, opposing


def _kendall(runs: Sequence[Run], field: str, values: Sequence[float], read: Reading) -> float | None:
    """One seed's rank correlation; None if a value is missing, a quantity undefined, or all of them are equal."""
    quantities = [read(run) for run in runs]
    if len(runs) < len(values) or None in quantities:
        return None
    tau = float(stats.kendalltau([setting(run, field) for run in runs], quantities).statistic)
    return None if math.isnan(tau) else tau


def _effective_depth(run: Run) -> int | None:
    found = next((item for item in run.last.effective_depth if item.epsilon == RULES.epsilon), None)
    return found.depth if found is not None and found.reached else None


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
