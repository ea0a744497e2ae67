"""From runs to evidence: one draw per seed, and one piece of evidence per setting.

A setting is everything that a training depends on, except the seed. ``settings_of`` groups runs by it. There are two ways to
the draws of a setting: ``by_seed`` tests every run by itself; ``families`` joins the runs of a seed that differ in one field,
such as the depth, so that a test can compare them. Verdicts follow from the evidence in ``verdicts.py`` and ``pooling.py``.
"""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ncollapse.claims.estimates import Estimate, mean_estimate, share_estimate
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import differing_settings, setting

Value = float | bool
# A test of a run, at the last epoch unless one is given; None if there is nothing to test.
RunTest = Callable[..., Value | None]
UNBOUNDED = (-math.inf, math.inf)
BEFORE_TRAINING, IN_RANDOM_ORDER = "before training", "layers in random order"


@dataclass(frozen=True)
class Draw:
    """What the runs of one seed say: true or false, or a number that is positive where the claim is right."""

    seed: int  # decides initial weights and the order of the samples
    value: Value  # the result of the test at the last epoch
    runs: tuple[str, ...]  # the run directories behind it
    # The base rate: the result without the cause in question, usually before training. None if it was not tested.
    before: Value | None = None
    # Probability that the same layers in a random order pass; None if the claim is not about an order.
    shuffled: float | None = None
    steps: int | None = None  # number of steps from layer to layer that were tested; None if the claim is not about an order


@dataclass(frozen=True)
class Evidence:
    """What the seeds of one setting say in one test.

    Attributes:
        setting: The settings that these runs share, in words.
        statistic: What is estimated, in words.
        draws: One draw per seed, in the order of the seeds. Several draws of a seed are merged: true if all are true, or the
            mean of the numbers.
        bounds: Smallest and largest possible number. Intervals are cut to them.
        silent: Number of runs, or of seeds if runs are compared, in which there was nothing to test.
        why: Why there is no test; usually empty.
        base: What the base rate ``before`` of the draws is, in words.
        needs_base: Whether the claim is about a cause, such as training, so that a draw without ``before`` does not count.
        without_base: Number of seeds that were left out for the lack of a base rate (``with_base_rates``).
    """

    setting: str
    statistic: str
    draws: tuple[Draw, ...]
    bounds: tuple[float, float] = UNBOUNDED
    silent: int = 0
    why: str = ""
    base: str = BEFORE_TRAINING
    needs_base: bool = False
    without_base: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "draws", tuple(_one_per_seed(self.draws)))

    @property
    def estimate(self) -> Estimate:
        """The share of draws in which the claim is right, or the mean of their numbers."""
        return estimate_of([draw.value for draw in self.draws], self.bounds)

    @property
    def supporting(self) -> tuple[str, ...]:
        """The runs of draws for the claim."""
        return tuple(run for draw in self.draws if draw.value > 0 for run in draw.runs)

    @property
    def opposing(self) -> tuple[str, ...]:
        """The runs of draws against the claim."""
        return tuple(run for draw in self.draws if draw.value <= 0 for run in draw.runs)


def estimate_of(values: Sequence[Value], bounds: tuple[float, float] = UNBOUNDED) -> Estimate:
    """Estimate a share from truth values, else a mean, its interval cut to what is possible."""
    if all(isinstance(value, bool) for value in values):
        return share_estimate(sum(value is True for value in values), len(values))
    mean = mean_estimate(values)
    return mean._replace(low=max(mean.low, bounds[0]), high=min(mean.high, bounds[1]))


def pooled(evidence: Sequence[Evidence]) -> list[Draw]:
    """Take the draws of several settings together, and merge those of one seed."""
    return _one_per_seed(draw for item in evidence for draw in item.draws)


def with_base_rates(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Leave out the draws that cannot be compared with a base rate, and count them in ``without_base``."""
    # A row is compared with its base rate over the same seeds. So if one draw of the row has a base rate, a draw without one
    # does not count. If the claim needs a base rate, this is so even if no draw has one.
    every = [draw for item in evidence for draw in item.draws]
    found = []
    for item in evidence:
        kept = [draw for draw in comparable(item.draws, every) if draw.before is not None or not item.needs_base]
        found.append(replace(item, draws=tuple(kept), without_base=item.without_base + len(item.draws) - len(kept)))
    return found


def comparable(draws: Sequence[Draw], among: Sequence[Draw]) -> list[Draw]:
    """Return those draws that have each base rate (``before``, ``shuffled``) which any draw among the others has."""
    before, shuffled = (any(getattr(draw, name) is not None for draw in among) for name in ("before", "shuffled"))
    return [draw for draw in draws if (draw.before is not None or not before) and (draw.shuffled is not None or not shuffled)]


def _one_per_seed(draws: Iterable[Draw]) -> list[Draw]:
    by_seed: dict[int, list[Draw]] = {}
    for draw in draws:
        by_seed.setdefault(draw.seed, []).append(draw)
    kept = (comparable(own, own) for _, own in sorted(by_seed.items()))
    return [_merged(own) for own in kept if own]


def _merged(draws: Sequence[Draw]) -> Draw:
    """Merge the draws of one seed, which all have the same base rates."""
    before = [draw.before for draw in draws if draw.before is not None]
    shuffled = [draw.shuffled for draw in draws if draw.shuffled is not None]
    steps = [draw.steps for draw in draws if draw.steps is not None]
    return Draw(
        draws[0].seed,
        _combined([draw.value for draw in draws]),
        tuple(run for draw in draws for run in draw.runs),
        _combined(before) if before else None,
        # The merged draw is true if all of them are. The layers of each run are shuffled by themselves, so chances multiply.
        math.prod(shuffled) if shuffled else None,
        min(steps, default=None),
    )


def _combined(values: Sequence[Value]) -> Value:
    return all(values) if all(isinstance(value, bool) for value in values) else statistics.fmean(values)


def by_seed(
    runs: Sequence[Run],
    statistic: str,
    test: RunTest,
    *,
    before: bool = False,
    other_base: tuple[str, RunTest] | None = None,
    shuffled: Callable[[Run], float | None] = lambda run: None,
    steps: Callable[[Run], int | None] = lambda run: None,
    bounds: tuple[float, float] = UNBOUNDED,
) -> list[Evidence]:
    """Test every run by itself.

    Args:
        runs: The runs that a claim is about. Those that differ in the seed alone are one setting.
        statistic: What is estimated, in words, such as "share of seeds".
        test: Called with a run, and with epoch 0 too if ``before``. True or False asks for a share of seeds, a number (positive
            where the claim is right) for a mean over seeds; None leaves the run out.
        before: Whether the base rate is the same test before training. A claim about training must do better than that.
        other_base: Another base rate instead: what it is, in words, and a test that computes it.
        shuffled: For tests of an order: the probability that the same layers pass in a random order.
        steps: For tests of an order: the number of steps from layer to layer.
        bounds: Smallest and largest possible number.

    Returns:
        One piece of evidence for each setting.
    """
    base_name, base = other_base or (BEFORE_TRAINING, at_start(test) if before else lambda run: None)
    needs_base = before or other_base is not None

    def draw(run: Run) -> Draw | None:
        value = test(run)
        if value is None or run.recipe.seed is None:
            return None
        return Draw(run.recipe.seed, value, (str(run.path),), base(run), shuffled(run), steps(run))

    found = []
    for name, members in settings_of(runs).items():
        draws = [made for run in members if (made := draw(run)) is not None]
        silent = len(members) - len(draws)
        found.append(Evidence(name, statistic, tuple(draws), bounds, silent, base=base_name, needs_base=needs_base))
    return found


def at_start(test: RunTest) -> RunTest:
    """Turn a test into the same test before training. Its result is None for a run that was not measured then, or only then."""
    return lambda run: test(run, 0) if run.epochs[0] == 0 < run.epochs[-1] else None


@dataclass(frozen=True)
class Family:
    """Runs that differ only in one field and in their seed."""

    name: str  # the settings that they share, in words
    values: tuple[Any, ...]  # the values of the field, in order
    seeds: Mapping[int, Mapping[Any, Run]]  # the runs of each seed by their value of the field; a seed may lack some values

    def read(self, read: Callable[[Run], float | None]) -> dict[int, list[float]]:
        """Read one number from every run, in the order of the values. Seeds that lack a run or a number are left out."""
        found = {}
        for seed, runs in self.seeds.items():
            numbers = [read(runs[value]) if value in runs else None for value in self.values]
            known = [number for number in numbers if number is not None]
            if len(known) == len(numbers):
                found[seed] = known
        return found

    def evidence(
        self,
        statistic: str,
        results: Mapping[int, Value],
        before: Mapping[int, Value] | None = None,
        *,
        bounds: tuple[float, float] = UNBOUNDED,
        why: str = "",
    ) -> Evidence:
        """Make evidence from a result for each seed. All runs of the seed count for the claim, or all against it."""
        runs = {seed: tuple(str(run.path) for run in own.values()) for seed, own in self.seeds.items()}
        draws = (Draw(seed, value, runs[seed], (before or {}).get(seed)) for seed, value in results.items())
        silent = len(self.seeds) - len(results)
        return Evidence(self.name, statistic, tuple(draws), bounds, silent, why, needs_base=before is not None)

    def only(self, *values: Any) -> "Family":
        """Return the same family with only some of its values."""
        seeds = {seed: {value: run for value, run in runs.items() if value in values} for seed, runs in self.seeds.items()}
        return Family(self.name, values, seeds)


def families(runs: Sequence[Run], field: str, default: object = None, tied: Sequence[str] = ()) -> list[Family]:
    """Group runs that differ only in a field, in fields tied to it, and in the seed; ``default`` is for recipes without it."""
    found = []
    for name, members in settings_of(runs, apart=(field, *tied)).items():
        seeds: dict[int, dict[Any, Run]] = {
            seed: {} for seed in sorted({r.recipe.seed for r in members if r.recipe.seed is not None})
        }
        for run in members:
            value = default if setting(run, field) is None else setting(run, field)
            if value is not None and run.recipe.seed is not None:
                seeds[run.recipe.seed][value] = run
        found += [Family(name, tuple(sorted(values)), own) for values, own in _by_values(seeds)]
    return found


def _by_values(seeds: Mapping[int, dict[Any, Run]]) -> Iterator[tuple[frozenset[Any], dict[int, dict[Any, Run]]]]:
    """Split seeds by the values of the field that they were run with."""
    # Seeds 1 to 6 with depths 2, 4, 8 and seeds 11 to 16 with depths 3, 6 are two families. A seed with depths 2 and 4 alone
    # belongs to the first: it has a part of its values, as if some of its runs were still missing.
    sets = dict.fromkeys(frozenset(own) for own in seeds.values())
    for values in sets:
        if not any(values < other for other in sets):
            yield values, {seed: own for seed, own in seeds.items() if own.keys() <= values}


def settings_of(runs: Sequence[Run], apart: Collection[str] = ()) -> dict[str, list[Run]]:
    """Group runs by what their training depends on, in words, apart from the seed and some fields."""

    def matters(field: str) -> bool:
        # Runs that differ only in what was measured of them are one setting, and may share a seed.
        return field not in apart and not field.startswith("measure.")

    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run, differing in zip(runs, differing_settings(runs), strict=True):
        groups.setdefault(tuple((field, value) for field, value in differing if matters(field)), []).append(run)
    # A setting is named by its recipe and the settings that were changed. Runs without a list of changes are named by the
    # fields in which they differ.
    has_changes = any(run.recipe.changed for run in runs)
    named: dict[str, list[Run]] = {}
    for fields, members in groups.items():
        first = members[0].recipe
        changed = [item for item in first.changed if matters(item.partition("=")[0])]
        listed = [f"{field}={value}" for field, value in fields]
        name = ", ".join([first.name, *changed] if has_changes else listed)
        if name in named:
            # Two versions of a recipe with the same changes are two settings.
            name = ", ".join(listed)
        named[name or first.name] = members
    return named
