"""Examinations that compare runs of one seed which differ in one setting: weight decay, depth, connections."""

import math
import statistics
from collections.abc import Callable, Sequence

from ncollapse.claims import predicates
from ncollapse.claims.estimates import log_log_slope, rank_correlation
from ncollapse.claims.evidence import Draw, Evidence, Family, RunTest, Value, at_start, families, settings_of
from ncollapse.claims.quantities import BY_KEY
from ncollapse.claims.rules import Examine
from ncollapse.drawing.wording import counted
from ncollapse.records.reading import Run

_BLOCKS = "model.num_blocks"
_LEAST_DEPTHS = 3
# Decays that are one λ: λ/L is computed.
_SAME = 1e-9


def ranked_by_decay(statistic: str, read: RunTest, sign: int) -> Examine:
    """Kendall's tau-b of a quantity with weight decay, one value per seed; its mean over seeds, cut to [-1, 1]."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for family in families(runs, "train.weight_decay"):
            if len(family.values) < 2:
                continue
            numbers_of = family.read(read).items()
            taus = {seed: sign * rank_correlation(family.values, numbers) for seed, numbers in numbers_of}
            taus = {seed: tau for seed, tau in taus.items() if not math.isnan(tau)}
            listed = ", ".join(f"{value:g}" for value in family.values)
            said = f"Kendall's τ of {statistic} with weight decay {listed}{'' if sign > 0 else ', sign reversed'}; mean"
            found.append(family.evidence(said, taus, bounds=(-1.0, 1.0)))
        return found

    return examine


def depth_saturates(runs: Sequence[Run]) -> list[Evidence]:
    """Test whether the effective depth of the deepest network is no larger than that of the second deepest; share of seeds."""
    found = []
    for family in families(runs, _BLOCKS):
        if len(family.values) > 1:
            second, deepest = family.values[-2:]
            pair = family.only(second, deepest)
            depths = pair.read(BY_KEY["effective depth"].read)
            said = f"effective depth with {deepest:g} blocks at most that with {second:g}, if that is above 1; share of seeds"
            # At 1, the least there is, no deeper network could need more of what the other leaves unused.
            found.append(pair.evidence(said, {seed: last <= before for seed, (before, last) in depths.items() if before > 1}))
    return found


def gained(
    field: str,
    chosen: str,
    statistic: str,
    read: RunTest,
    *,
    default: str,
    tied: tuple[str, ...] = (),
    before: bool = False,
) -> Examine:
    """Compute a quantity with the chosen value of a field minus that with each other value; mean over seeds."""

    # Tied are fields that change with it, such as the learning rate with the optimizer.
    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for family in families(runs, field, default=default, tied=tied):
            others = [value for value in family.values if value != chosen]
            for other in others if len(others) < len(family.values) else []:
                pair = family.only(chosen, other)
                reads = (read, at_start(read)) if before else (read,)
                gains = [{seed: first - second for seed, (first, second) in pair.read(one).items()} for one in reads]
                found.append(pair.evidence(f"{statistic}, {chosen} minus {other}; mean", *gains))
        return found

    return examine


def slopes(
    key: str, words: str, fits: Callable[[Run], bool], test: Callable[[float], Value], *, before: bool = False
) -> Examine:
    """Test the log-log slope of a quantity with the number of blocks L, one per seed."""
    read = BY_KEY[key].read
    reads = (read, at_start(read)) if before else (read,)

    def values_of(family: Family, one: RunTest) -> dict[int, Value]:
        # A quantity that is not positive has no logarithm: that seed says nothing.
        numbers = {seed: values for seed, values in family.read(one).items() if min(values) > 0}
        return {seed: test(log_log_slope(family.values, values).value) for seed, values in numbers.items()}

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for family in families([run for run in runs if fits(run)], _BLOCKS):
            said = words.format(", ".join(f"{value:g}" for value in family.values))
            if len(family.values) < _LEAST_DEPTHS:
                why = f"{counted(len(family.values), 'number')} of blocks L, {_LEAST_DEPTHS} needed"
                found.append(family.evidence(said, {}, why=why))
                continue
            found.append(family.evidence(said, *(values_of(family, one) for one in reads)))
        return found

    return examine


def gained_over_control(key: str, fits: Callable[[Run], bool]) -> Examine:
    """Compute decades by which deeper networks are below the shallowest with the same λ in a quantity; mean over seeds."""
    # Where λ falls with L, a deep network beats a shallow one for its smaller λ alone. The control has that λ, and as many
    # steps.
    read = BY_KEY[key].read

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        known = [run for run in runs if fits(run) and predicates.num_blocks(run) is not None]
        for name, members in settings_of(known, apart=(_BLOCKS, "train.weight_decay", "decay_over_blocks")).items():
            # All seeds have the same control: one whose own run of that depth does not count says nothing.
            shallowest = min(blocks for run in members if (blocks := predicates.num_blocks(run)) is not None)
            by_seed: dict[int, list[Run]] = {}
            for run in members:
                if run.recipe.seed is not None:
                    by_seed.setdefault(run.recipe.seed, []).append(run)
            made = (_over_control(seed, own, shallowest, read) for seed, own in by_seed.items())
            draws = tuple(draw for draw in made if draw is not None)
            control = counted(shallowest, "block")
            said = f"log10 of {key}, control of {control} minus deeper network; mean over depths and seeds"
            found.append(Evidence(name, said, draws, silent=len(by_seed) - len(draws), needs_base=True))
        return found

    return examine


def _over_control(seed: int, runs: Sequence[Run], shallowest: int, read: RunTest) -> Draw | None:
    """Compare the runs of a seed with that of the fewest blocks and the same λ, after training and before it."""
    controls = [run for run in runs if predicates.num_blocks(run) == shallowest]
    pairs = [(run, other) for run in runs if run not in controls for other in controls if _same_decay(run, other)]
    known = [(pair, gain) for pair in pairs if (gain := _decades(read, *pair)) is not None]
    if not known:
        return None
    before = [gain for pair, _ in known if (gain := _decades(at_start(read), *pair)) is not None]
    used = dict.fromkeys(str(run.path) for pair, _ in known for run in pair)
    value = statistics.fmean(gain for _, gain in known)
    return Draw(seed, value, tuple(used), statistics.fmean(before) if len(before) == len(known) else None)


def _decades(read: RunTest, run: Run, control: Run) -> float | None:
    """Return by how many decades a run is below its control; None where that has no logarithm."""
    deep, shallow = read(run), read(control)
    return math.log10(shallow / deep) if deep is not None and shallow is not None and min(deep, shallow) > 0 else None


def _same_decay(run: Run, other: Run) -> bool:
    one, two = (item.last_objective for item in (run, other))
    return one is not None and two is not None and math.isclose(one.weight_decay, two.weight_decay, rel_tol=_SAME)
