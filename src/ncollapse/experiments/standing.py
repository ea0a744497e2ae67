"""How experiments stand: what their seeds say under the rules of the ledger, in a folder or as they were recorded here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

import msgspec

from ncollapse.claims.evidence import UNBOUNDED, Draw, comparable
from ncollapse.claims.rules import Verdict
from ncollapse.claims.verdicts import RowTest, has_enough, holm, judge, judge_check, row_of, too_few, without_base_rate
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
    draws = {name: _draws(experiment, results.get(name, ())) for name, experiment in known.items()}
    rows = {name: row_of(draws[name], UNBOUNDED, experiment.base) for name, experiment in known.items()}
    corrected: dict[str, float] = {}
    for source in {experiment.source for experiment in known.values()}:
        decided = [n for n, e in known.items() if e.source == source and not e.checks_code and has_enough(rows[n])]
        corrected |= dict(zip(decided, holm([rows[name].p_value for name in decided]), strict=True))
    stands = {name: _stands(known[name], draws[name], rows[name], corrected.get(name)) for name in known}
    return {name: _standing(rows[name], *stands[name], results.get(name, ())) for name in known}


def _draws(experiment: Experiment, seeds: Sequence[SeedFile]) -> list[Draw]:
    draws = [Draw(item.seed, item.value, item.runs, item.before) for item in seeds if item.value is not None]
    return draws if experiment.checks_code else comparable(draws, draws)


def _stands(experiment: Experiment, draws: Sequence[Draw], row: RowTest, corrected: float | None) -> tuple[Verdict, str]:
    if experiment.checks_code or not draws:
        return judge_check(row)
    if corrected is not None:
        state, why = judge(row, corrected)
        if state == "fails" and experiment.takes_least:
            return "undecided", "the least of several gains may be below zero by chance alone"
        return state, why
    right = sum(draw.value > 0 for draw in draws)
    return "undecided", f"right in {right} of {counted(len(draws), 'seed')}; {too_few(row).partition(', ')[2]}"


def _standing(row: RowTest, state: Verdict, why: str, seeds: Sequence[SeedFile]) -> Standing:
    if not seeds:
        return Standing("not run")
    left_out = without_base_rate(sum(item.value is not None for item in seeds) - row.estimate.n)
    words = "; ".join([*([why] if why else []), *left_out])
    return Standing(state, words, row, math.fsum(item.seconds for item in seeds))


def recorded() -> dict[str, tuple[SeedFile, ...]]:
    """Return the results of the project's own seeds: values and seconds, without the points of the figures."""
    content = files("ncollapse.experiments").joinpath(RECORD).read_bytes()
    return msgspec.json.decode(content, type=dict[str, tuple[SeedFile, ...]])
