"""From runs to evidence: the seeds of each setting, tested one by one."""

from collections.abc import Callable, Sequence

from ncollapse.claims.estimates import mean_estimate, share_estimate
from ncollapse.claims.rules import Evidence, is_terminal, judge_mean, judge_share
from ncollapse.drawing.tables import differing_settings
from ncollapse.drawing.wording import counted
from ncollapse.records.reading import Run

__all__ = ["SeedTest", "by_seed", "settings_of"]

SeedTest = Callable[[Run], float | bool | None]


def by_seed(runs: Sequence[Run], statistic: str, test: SeedTest, *, terminal: bool = True) -> list[Evidence]:
    """Test every run; one piece of evidence a setting."""
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


def settings_of(runs: Sequence[Run], apart: str = "") -> dict[str, list[Run]]:
    """Runs by their settings in words, seeds apart, and a field too."""
    told = any(run.recipe.changed for run in runs)
    groups: dict[tuple[tuple[str, str], ...], list[Run]] = {}
    for run, differing in zip(runs, differing_settings(runs), strict=True):
        groups.setdefault(tuple((field, value) for field, value in differing if field != apart), []).append(run)
    named: dict[str, list[Run]] = {}
    for fields, members in groups.items():
        first = members[0].recipe
        changed = [item for item in first.changed if not item.startswith(f"{apart}=")]
        words = ", ".join([first.name, *changed] if told else [f"{field}={value}" for field, value in fields])
        if words in named:
            # Runs of two versions of a recipe changed the same, and are two settings for all that.
            words = ", ".join(f"{field}={value}" for field, value in fields)
        named[words or first.name] = members
    return named
