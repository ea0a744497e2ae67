"""From runs to evidence: the seeds of each setting, and pairs of settings that differ in the weight decay only."""

import math
from collections.abc import Callable, Sequence

from scipy import stats

from ncollapse.report.claim_rules import Evidence, is_terminal, judge_mean, judge_share
from ncollapse.report.estimates import mean_estimate, share_estimate
from ncollapse.report.reading import Run
from ncollapse.report.tables import differing_settings
from ncollapse.report.wording import counted

__all__ = ["SeedTest", "by_seed", "settings_of", "straightened"]

SeedTest = Callable[[Run], float | bool | None]
_DECAY = "train.weight_decay"


def by_seed(runs: Sequence[Run], statistic: str, test: SeedTest, *, terminal: bool = True) -> list[Evidence]:
    """Test every run; one piece of evidence a setting.

    Args:
        runs: Runs of any settings, each seed of a setting once.
        statistic: What the estimate is of.
        test: True or false of a run, or a number that is positive where the claim is right; None does not count.
        terminal: Whether the claim is about the terminal phase: the runs in it are then tested; where a setting has none, all
            are, and the evidence does not count.

    Returns:
        The evidence: shares of seeds for truths, means over seeds for numbers.
    """
    return [_of_setting(setting, members, statistic, test, terminal) for setting, members in settings_of(runs).items()]


def _of_setting(setting: str, members: list[Run], statistic: str, test: SeedTest, terminal: bool) -> Evidence:
    within = [run for run in members if is_terminal(run)] if terminal else members
    found = [(str(run.path), value) for run in within or members if (value := test(run)) is not None]
    values = [value for _, value in found]
    if all(isinstance(value, bool) for value in values):
        estimate = share_estimate(sum(value is True for value in values), len(values))
        verdict, why = judge_share(estimate)
    else:
        estimate = mean_estimate(values)
        verdict, why = judge_mean(estimate)
    outside, silent = len(members) - len(within), len(within or members) - len(found)
    reasons = [
        why,
        f"{counted(outside, 'run')} outside the terminal phase" if outside else "",
        f"nothing to test in {counted(silent, 'run')}" if silent else "",
    ]
    supporting = tuple(path for path, value in found if value > 0)
    opposing = tuple(path for path, value in found if value <= 0)
    return Evidence(setting, statistic, estimate, verdict, "; ".join(filter(None, reasons)), bool(within), supporting, opposing)


def straightened(runs: Sequence[Run]) -> list[Evidence]:
    """Kendall's tau-b of straightness with weight decay, one value a seed; its mean over seeds, cut to [-1, 1].

    Args:
        runs: Runs of any settings, each seed of a setting once.

    Returns:
        Evidence of every set of runs that differ in weight decay and seed only, from the seeds that were run with each decay of
        the set; none of sets with a single decay.
    """
    found = []
    for setting, members in settings_of(runs, apart=_DECAY).items():
        decays = sorted({decay for run in members if (decay := _decay(run)) is not None})
        if len(decays) < 2:
            continue
        seeds = sorted({run.recipe.seed for run in members if run.recipe.seed is not None})
        of_seed = {seed: [run for run in members if run.recipe.seed == seed] for seed in seeds}
        taus = {seed: tau for seed in seeds if (tau := _kendall(of_seed[seed], len(decays))) is not None}
        estimate = mean_estimate(list(taus.values()))
        estimate = estimate._replace(low=max(estimate.low, -1.0), high=min(estimate.high, 1.0))
        statistic = f"Kendall's τ of straightness with weight decay {', '.join(f'{decay:g}' for decay in decays)}; mean"
        supporting = tuple(str(run.path) for seed, tau in taus.items() if tau > 0 for run in of_seed[seed])
        opposing = tuple(str(run.path) for seed, tau in taus.items() if tau <= 0 for run in of_seed[seed])
        found.append(Evidence(setting, statistic, estimate, *judge_mean(estimate), True, supporting, opposing))
    return found


def _kendall(runs: Sequence[Run], num_decays: int) -> float | None:
    """One seed's rank correlation; None if a decay is missing, a straightness undefined, or all of them are equal."""
    straightness = [run.last.straightness.mean if run.last.straightness else None for run in runs]
    if len(runs) < num_decays or None in straightness:
        return None
    tau = float(stats.kendalltau([_decay(run) for run in runs], straightness).statistic)
    return None if math.isnan(tau) else tau


def _decay(run: Run) -> float | None:
    train = run.recipe_entries.get("train")
    decay = train.get("weight_decay") if isinstance(train, dict) else None
    return float(decay) if isinstance(decay, int | float) else None


def settings_of(runs: Sequence[Run], apart: str = "") -> dict[str, list[Run]]:
    """Runs by their settings in words, seeds apart, and the field ``apart`` too."""
    groups: dict[str, list[Run]] = {}
    for run, differing in zip(runs, differing_settings(runs), strict=True):
        words = ", ".join(f"{field}={value}" for field, value in differing if field != apart)
        groups.setdefault(words or run.recipe.name, []).append(run)
    return groups
