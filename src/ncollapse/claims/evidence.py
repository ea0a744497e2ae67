"""From runs to evidence: the seeds of each setting, tested one by one or compared with other runs of the same seed."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ncollapse.claims.estimates import Estimate, mean_estimate, share_estimate
from ncollapse.claims.rules import Evidence, Verdict, is_terminal, judge_mean, judge_share
from ncollapse.drawing.wording import counted
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import differing_settings, setting

SeedTest = Callable[[Run], float | bool | None]


def by_seed(runs: Sequence[Run], statistic: str, test: SeedTest, *, terminal: bool = True) -> list[Evidence]:
    """Test every run, and judge the seeds of each setting together.

    Args:
        runs: The runs that a claim is about. Those that differ in the seed alone are one setting.
        statistic: What is estimated, in words, such as "share of seeds".
        test: Of one run. True or False asks for a share of seeds, a number (positive where the claim is right) for a mean over
            seeds; None leaves the run out.
        terminal: Whether only runs in the terminal phase of training count.

    Returns:
        One piece of evidence for each setting.
    """
    return [_of_setting(name, members, statistic, test, terminal) for name, members in settings_of(runs).items()]


def _of_setting(name: str, members: list[Run], statistic: str, test: SeedTest, terminal: bool) -> Evidence:
    within = [run for run in members if is_terminal(run)] if terminal else members
    found = [(str(run.path), value) for run in within or members if (value := test(run)) is not None]
    estimate, verdict, why = _judge([value for _, value in found])
    outside, silent = len(members) - len(within), len(within or members) - len(found)
    reasons = [
        why,
        f"{counted(outside, 'run')} outside the terminal phase" if outside else "",
        f"nothing to test in {counted(silent, 'run')}" if silent else "",
    ]
    supporting = tuple(path for path, value in found if value > 0)
    opposing = tuple(path for path, value in found if value <= 0)
    return Evidence(name, statistic, estimate, verdict, "; ".join(filter(None, reasons)), bool(within), supporting, opposing)


def _judge(
    values: Sequence[float | bool], bounds: tuple[float, float] = (-math.inf, math.inf)
) -> tuple[Estimate, Verdict, str]:
    """Estimate a share of seeds from truth values, else a mean over seeds, its interval cut to what is possible."""
    if all(isinstance(value, bool) for value in values):
        share = share_estimate(sum(value is True for value in values), len(values))
        return share, *judge_share(share)
    mean = mean_estimate(values)
    mean = mean._replace(low=max(mean.low, bounds[0]), high=min(mean.high, bounds[1]))
    return mean, *judge_mean(mean)


@dataclass(frozen=True)
class Family:
    """Runs that differ in one field and their seed only: the field's values in order, and every seed's runs by value."""

    name: str
    values: tuple[Any, ...]
    seeds: Mapping[int, Mapping[Any, Run]]

    def read(self, read: Callable[[Run], float | None]) -> dict[int, list[float]]:
        """Read a number of every run, in the order of the values, for seeds that have all of them."""
        found = {}
        for seed, runs in self.seeds.items():
            numbers = [read(runs[value]) if value in runs else None for value in self.values]
            known = [number for number in numbers if number is not None]
            if len(known) == len(numbers):
                found[seed] = known
        return found

    def judge(
        self, statistic: str, by_seed: Mapping[int, float | bool], bounds: tuple[float, float] = (-math.inf, math.inf)
    ) -> Evidence:
        """Evidence from a number or a truth for each seed, with all of the seed's runs for the claim or against it."""
        supporting = tuple(str(run.path) for seed, value in by_seed.items() if value > 0 for run in self.seeds[seed].values())
        opposing = tuple(str(run.path) for seed, value in by_seed.items() if value <= 0 for run in self.seeds[seed].values())
        return Evidence(self.name, statistic, *_judge(list(by_seed.values()), bounds), True, supporting, opposing)

    def only(self, *values: Any) -> "Family":
        """Return the same family with some of its values."""
        seeds = {seed: {value: run for value, run in runs.items() if value in values} for seed, runs in self.seeds.items()}
        return Family(self.name, values, seeds)


def families(runs: Sequence[Run], field: str, default: object = None) -> list[Family]:
    """Group runs by all but one field and the seed; recipes without the field have the default."""
    found = []
    for name, members in settings_of(runs, apart=field).items():
        seeds: dict[int, dict[Any, Run]] = {
            seed: {} for seed in sorted({r.recipe.seed for r in members if r.recipe.seed is not None})
        }
        for run in members:
            value = default if setting(run, field) is None else setting(run, field)
            if value is not None and run.recipe.seed is not None:
                seeds[run.recipe.seed][value] = run
        values = sorted({value for own in seeds.values() for value in own})
        found.append(Family(name, tuple(values), seeds))
    return found


def settings_of(runs: Sequence[Run], apart: str = "") -> dict[str, list[Run]]:
    """Group runs by their settings in words, apart from the seed and one field."""
    has_changes = any(run.recipe.changed for run in runs)
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run, differing in zip(runs, differing_settings(runs), strict=True):
        groups.setdefault(tuple((field, value) for field, value in differing if field != apart), []).append(run)
    named: dict[str, list[Run]] = {}
    for fields, members in groups.items():
        first = members[0].recipe
        changed = [item for item in first.changed if not item.startswith(f"{apart}=")]
        words = ", ".join([first.name, *changed] if has_changes else [f"{field}={value}" for field, value in fields])
        if words in named:
            # Runs of two versions of a recipe changed the same, and are two settings for all that.
            words = ", ".join(f"{field}={value}" for field, value in fields)
        named[words or first.name] = members
    return named
