"""From runs to evidence on collapse against the number of blocks: one log-log slope a seed, and the floor of the objective."""

import math
from collections.abc import Callable, Sequence

from ncollapse.claims.estimates import log_log_slope, mean_estimate, share_estimate
from ncollapse.claims.evidence import by_seed, settings_of
from ncollapse.claims.rules import Evidence, Verdict, judge_mean, judge_share
from ncollapse.drawing.wording import counted
from ncollapse.records.reading import Run

__all__ = [
    "above_floor",
    "falls_with_blocks",
    "has_objective",
    "is_control",
    "is_covered",
    "last_layer",
    "of_objective",
    "rises_with_blocks",
]

_BLOCKS = "num_blocks"
_LEAST_DEPTHS = 3
Value = Callable[[Run], float | None]


def last_layer(metric: str) -> Value:
    """How a metric of the last layer at the last epoch is read from a run."""
    return lambda run: run.value(metric, len(run.layers) - 1)


def of_objective(field: str) -> Value:
    """How an entry of the objective at the last epoch is read from a run."""
    return lambda run: getattr(run.last_objective, field, None)


def has_objective(run: Run) -> bool:
    """Whether it is a run of a regularized objective with a floor, which these claims are about."""
    return bool(run.objective)


def is_covered(run: Run) -> bool:
    """Whether theory says that a network collapses as it deepens: blocks of one linear layer, or a decay that falls with L."""
    return run.last_objective is not None and (_linear_layers(run) == 1 or run.recipe_entries.get("decay_over_blocks") is True)


def is_control(run: Run) -> bool:
    """Whether it is the negative control: blocks of two linear layers at the same decay whatever L."""
    return run.last_objective is not None and not is_covered(run)


def _linear_layers(run: Run) -> int | None:
    model = run.recipe_entries.get("model")
    found = model.get("linear_layers", model.get("mlp_layers")) if isinstance(model, dict) else None
    return found if isinstance(found, int) else None


def above_floor(runs: Sequence[Run]) -> list[Evidence]:
    """Whether the objective lies above its floor at every measured epoch; the share of seeds."""
    known = [run for run in runs if run.objective]
    return by_seed(
        known,
        "share of seeds",
        lambda run: all(item.excess is not None and item.excess >= 0 for item in run.objective.values()),
        terminal=False,
    )


def falls_with_blocks(name: str, value: Value, fits: Callable[[Run], bool]) -> Callable[[Sequence[Run]], list[Evidence]]:
    """A test of whether a quantity falls with the number of blocks L: minus its log-log slope, one a seed, mean over seeds."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for setting, blocks, slopes in _slopes([run for run in runs if fits(run)], value):
            estimate = mean_estimate([-slope for slope, _ in slopes])
            statistic = f"minus the log-log slope of {name} with L = {_listed(blocks)}; mean"
            ruled = _too_few(blocks) or judge_mean(estimate)
            found.append(Evidence(setting, statistic, estimate, *ruled, True, *_sides(slopes, lambda s: s < 0)))
        return found

    return examine


def rises_with_blocks(name: str, value: Value, fits: Callable[[Run], bool]) -> Callable[[Sequence[Run]], list[Evidence]]:
    """Test whether a quantity does not fall with the number of blocks: share of seeds with a log-log slope of 0 or more."""

    def examine(runs: Sequence[Run]) -> list[Evidence]:
        found = []
        for setting, blocks, slopes in _slopes([run for run in runs if fits(run)], value):
            estimate = share_estimate(sum(slope >= 0 for slope, _ in slopes), len(slopes))
            statistic = f"share of seeds whose log-log slope of {name} with L = {_listed(blocks)} is not negative"
            ruled = _too_few(blocks) or judge_share(estimate)
            found.append(Evidence(setting, statistic, estimate, *ruled, True, *_sides(slopes, lambda s: s >= 0)))
        return found

    return examine


_Slopes = list[tuple[float, list[Run]]]


def _slopes(runs: Sequence[Run], value: Value) -> list[tuple[str, list[int], _Slopes]]:
    """Of every setting: its words, its numbers of blocks, and the slope of each seed that has all of them, if enough."""
    found = []
    for setting, members in settings_of(runs, apart=f"model.{_BLOCKS}").items():
        depths = sorted({depth for run in members if (depth := _blocks(run))})
        slopes: _Slopes = []
        seeds = {run.recipe.seed for run in members if run.recipe.seed is not None}
        for seed in () if _too_few(depths) else sorted(seeds):
            of_seed = sorted((run for run in members if run.recipe.seed == seed and _blocks(run)), key=_blocks)
            values = [value(run) for run in of_seed]
            positive = [number for number in values if number is not None and number > 0]
            if len(positive) == len(depths):
                slopes.append((log_log_slope(depths, positive).value, of_seed))
        found.append((setting, depths, slopes))
    return found


def _too_few(blocks: Sequence[int]) -> tuple[Verdict, str] | None:
    """What stands for a verdict where there are too few numbers of blocks for one."""
    if len(blocks) >= _LEAST_DEPTHS:
        return None
    return "not testable here", f"{counted(len(blocks), 'number')} of blocks L, {_LEAST_DEPTHS} needed"


def _listed(blocks: Sequence[int]) -> str:
    return ", ".join(map(str, blocks))


def _blocks(run: Run) -> int:
    model = run.recipe_entries.get("model")
    blocks = model.get(_BLOCKS) if isinstance(model, dict) else None
    return blocks if isinstance(blocks, int) else 0


def _sides(slopes: _Slopes, agrees: Callable[[float], bool]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The run directories for and against."""
    supporting = tuple(str(run.path) for slope, runs in slopes if agrees(slope) for run in runs)
    opposing = tuple(str(run.path) for slope, runs in slopes if not math.isnan(slope) and not agrees(slope) for run in runs)
    return supporting, opposing
