"""How experiments stand: what their seeds say under the rules of the ledger, in a folder or as they were recorded here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import msgspec

from ncollapse.claims.evidence import Draw
from ncollapse.claims.rules import Verdict
from ncollapse.claims.verdicts import RowTest, has_enough, holm, judge, judge_check, row_of, too_few
from ncollapse.drawing.wording import counted
from ncollapse.experiments.experiment import Experiment, SeedFile

State = Verdict | Literal["not run"]
RECORD = "recorded.json"


@dataclass(frozen=True)
class Standing:
    """The verdict on an experiment, with its numbers.

    Attributes:
        state: The verdict of its seeds, or "not run".
        why: Why there is no verdict, or no clearer one.
        row: The numbers over the seeds; None where there are none.
        seconds: Seconds for all seeds; nan if unknown.
    """

    state: State
    why: str = ""
    row: RowTest | None = None
    seconds: float = math.nan


def standings(results: Mapping[str, Sequence[SeedFile]], experiments: Iterable[Experiment]) -> dict[str, Standing]:
    """Rule on experiments by the results of their seeds; those of a paper with enough seeds are corrected together."""
    known = {experiment.name: experiment for experiment in experiments}
    rows = {name: row_of(_draws(results.get(name, ())), (-math.inf, math.inf)) for name in known}
    corrected: dict[str, float] = {}
    for source in {experiment.source for experiment in known.values()}:
        decided = [n for n, e in known.items() if e.source == source and not e.checks_code and has_enough(rows[n])]
        corrected |= dict(zip(decided, holm([rows[name].p_value for name in decided]), strict=True))
    return {name: _standing(known[name], rows[name], results.get(name, ()), corrected.get(name)) for name in known}


def _draws(seeds: Sequence[SeedFile]) -> list[Draw]:
    return [Draw(item.seed, item.value, item.runs, item.before) for item in seeds if item.value is not None]


def _standing(experiment: Experiment, row: RowTest, seeds: Sequence[SeedFile], corrected: float | None) -> Standing:
    if not seeds:
        return Standing("not run")
    seconds = math.fsum(item.seconds for item in seeds)
    if experiment.checks_code or not row.estimate.n:
        state, why = judge_check(row)
    elif corrected is not None:
        state, why = judge(row, corrected)
    else:
        right = sum(item.value > 0 for item in seeds if item.value is not None)
        state, why = "undecided", f"right in {right} of {counted(row.estimate.n, 'seed')}; {too_few(row).partition(', ')[2]}"
    return Standing(state, why, row, seconds)


def recorded() -> dict[str, tuple[SeedFile, ...]]:
    """Return the results of the project's own seeds: values and seconds, without the points of the figures."""
    content = files("ncollapse.experiments").joinpath(RECORD).read_bytes()
    return msgspec.json.decode(content, type=dict[str, tuple[SeedFile, ...]])
