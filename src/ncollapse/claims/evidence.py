"""From runs to evidence: the draws of each setting, tested one by one or compared with other runs of the same seed."""

import math
import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ncollapse.claims.estimates import Estimate, mean_estimate, share_estimate
from ncollapse.records.reading import Run
from ncollapse.records.recipe_settings import differing_settings, setting

Value = float | bool
UNBOUNDED = (-math.inf, math.inf)
BEFORE_TRAINING, IN_RANDOM_ORDER = "before training", "layers in random order"


@dataclass(frozen=True)
class Draw:
    """What the runs of one seed say: true or false, or a number that is positive where the claim is right."""

    seed: int  # of initial weights and the order of the samples
    value: Value  # of the test at the last epoch
    runs: tuple[str, ...]  # the run directories behind it
    # The base rate: the same without what is claimed, such as before training; None if that says nothing.
    before: Value | None = None
    # Probability that the same layers in a random order pass; None if order is not what is tested.
    shuffled: float | None = None
    steps: int | None = None  # steps from layer to layer that were tested


@dataclass(frozen=True)
class Evidence:
    """What the seeds of one setting say in one test.

    Attributes:
        setting: The settings that these runs share, in words.
        statistic: What is estimated, in words.
        draws: What each seed says, in order. Several draws of a seed are merged: true if all are, or the mean of the numbers.
        bounds: Smallest and largest possible number, by which intervals are cut.
        silent: Runs in which there is nothing to test.
        why: What hinders the test; may be empty.
        base: What ``before`` of its draws is, in words.
        needs_base: Whether a draw must have ``before``: the claim is about what training, or another cause, makes.
        without_base: Seeds that were left out because they lack a base rate that the claim needs or others of their row have.
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
        object.__setattr__(self, "draws", tuple(_one_a_seed(self.draws)))

    @property
    def estimate(self) -> Estimate:
        """The share of draws in which it is right, or the mean of their numbers."""
        return estimate_of([draw.value for draw in self.draws], self.bounds)

    @property
    def supporting(self) -> tuple[str, ...]:
        """Runs for the claim."""
        return tuple(run for draw in self.draws if draw.value > 0 for run in draw.runs)

    @property
    def opposing(self) -> tuple[str, ...]:
        """Runs against it."""
        return tuple(run for draw in self.draws if draw.value <= 0 for run in draw.runs)


def estimate_of(values: Sequence[Value], bounds: tuple[float, float] = UNBOUNDED) -> Estimate:
    """Estimate a share from truth values, else a mean, its interval cut to what is possible."""
    if all(isinstance(value, bool) for value in values):
        return share_estimate(sum(value is True for value in values), len(values))
    mean = mean_estimate(values)
    return mean._replace(low=max(mean.low, bounds[0]), high=min(mean.high, bounds[1]))


def pooled(evidence: Sequence[Evidence]) -> list[Draw]:
    """Return one draw per seed of several settings together."""
    return _one_a_seed(draw for item in evidence for draw in item.draws)


def with_base_rates(evidence: Sequence[Evidence]) -> list[Evidence]:
    """Leave out draws without a base rate which the claim needs or others of the row have: no row is judged without its own."""
    every = [draw for item in evidence for draw in item.draws]
    found = []
    for item in evidence:
        kept = [draw for draw in comparable(item.draws, every) if draw.before is not None or not item.needs_base]
        found.append(replace(item, draws=tuple(kept), without_base=item.without_base + len(item.draws) - len(kept)))
    return found


def comparable(draws: Sequence[Draw], among: Sequence[Draw]) -> list[Draw]:
    """Return the draws that have every base rate that one of the others has."""
    before, shuffled = (any(getattr(draw, name) is not None for draw in among) for name in ("before", "shuffled"))
    return [draw for draw in draws if (draw.before is not None or not before) and (draw.shuffled is not None or not shuffled)]


def _one_a_seed(draws: Iterable[Draw]) -> list[Draw]:
    by_seed: dict[int, list[Draw]] = {}
    for draw in draws:
        by_seed.setdefault(draw.seed, []).append(draw)
    return [_merged(own) for _, all_own in sorted(by_seed.items()) if (own := comparable(all_own, all_own))]


def _merged(draws: Sequence[Draw]) -> Draw:
    # They have the same base rates: those that lack one were left out.
    before = [draw.before for draw in draws if draw.before is not None]
    shuffled = [draw.shuffled for draw in draws if draw.shuffled is not None]
    steps = [draw.steps for draw in draws if draw.steps is not None]
    return Draw(
        draws[0].seed,
        _combined([draw.value for draw in draws]),
        tuple(run for draw in draws for run in draw.runs),
        _combined(before) if before else None,
        math.prod(shuffled) if shuffled else None,
        min(steps, default=None),
    )


def _combined(values: Sequence[Value]) -> Value:
    return all(values) if all(isinstance(value, bool) for value in values) else statistics.fmean(values)


# A test of a run, at the last epoch unless one is given; None if there is nothing to test.
RunTest = Callable[..., Value | None]


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
        before: Whether to make the same test before training too. A claim about training must do better than that.
        other_base: Another base rate in its place: what it is, in words, and a test that gives it.
        shuffled: Probability that the same layers pass in a random order, for tests of an order.
        steps: Number of steps from layer to layer in such a test.
        bounds: Smallest and largest possible number.

    Returns:
        One piece of evidence for each setting.
    """
    name_of_base, base = other_base or (BEFORE_TRAINING, at_start(test) if before else lambda run: None)

    def draw(run: Run) -> Draw | None:
        value = test(run)
        if value is None or run.recipe.seed is None:
            return None
        return Draw(run.recipe.seed, value, (str(run.path),), base(run), shuffled(run), steps(run))

    found = []
    for name, members in settings_of(runs).items():
        draws = [made for run in members if (made := draw(run)) is not None]
        # Runs that differ in what was measured of them alone are one setting, and may share a seed.
        silent, needs_base = len(members) - len(draws), before or other_base is not None
        found.append(Evidence(name, statistic, tuple(draws), bounds, silent, base=name_of_base, needs_base=needs_base))
    return found


def at_start(test: RunTest) -> RunTest:
    """Make the same test before training; None for a run that was not measured then, or only then."""
    return lambda run: test(run, 0) if run.epochs[0] == 0 < run.epochs[-1] else None


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

    def evidence(
        self,
        statistic: str,
        by_seed: Mapping[int, Value],
        before: Mapping[int, Value] | None = None,
        *,
        bounds: tuple[float, float] = UNBOUNDED,
        why: str = "",
    ) -> Evidence:
        """Evidence from a number or a truth for each seed, with all of the seed's runs for the claim or against it."""
        runs = {seed: tuple(str(run.path) for run in own.values()) for seed, own in self.seeds.items()}
        draws = (Draw(seed, value, runs[seed], (before or {}).get(seed)) for seed, value in by_seed.items())
        silent = len(self.seeds) - len(by_seed)
        return Evidence(self.name, statistic, tuple(draws), bounds, silent, why, needs_base=before is not None)

    def only(self, *values: Any) -> "Family":
        """Return the same family with some of its values."""
        seeds = {seed: {value: run for value, run in runs.items() if value in values} for seed, runs in self.seeds.items()}
        return Family(self.name, values, seeds)


def families(runs: Sequence[Run], field: str, default: object = None, tied: Sequence[str] = ()) -> list[Family]:
    """Group runs by all but one field, those tied to it, and the seed; recipes without the field have the default."""
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
    """Split seeds by the values that they were run with. A seed with a part of the values of others is an incomplete one."""
    sets = dict.fromkeys(frozenset(own) for own in seeds.values())
    for values in sets:
        if not any(values < other for other in sets):
            yield values, {seed: own for seed, own in seeds.items() if own.keys() <= values}


def settings_of(runs: Sequence[Run], apart: Collection[str] = ()) -> dict[str, list[Run]]:
    """Group runs by what their training depends on, in words, apart from the seed and some fields."""

    def counts(field: str) -> bool:
        return field not in apart and not field.startswith("measure.")

    has_changes = any(run.recipe.changed for run in runs)
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run, differing in zip(runs, differing_settings(runs), strict=True):
        groups.setdefault(tuple((field, value) for field, value in differing if counts(field)), []).append(run)
    named: dict[str, list[Run]] = {}
    for fields, members in groups.items():
        first = members[0].recipe
        changed = [item for item in first.changed if counts(item.partition("=")[0])]
        words = ", ".join([first.name, *changed] if has_changes else [f"{field}={value}" for field, value in fields])
        if words in named:
            # Runs of two versions of a recipe changed the same, and are two settings for all that.
            words = ", ".join(f"{field}={value}" for field, value in fields)
        named[words or first.name] = members
    return named
