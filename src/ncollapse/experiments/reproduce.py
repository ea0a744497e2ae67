"""Running an experiment, seed by seed: each is kept in a file of its own, so that what is finished is never run again."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ncollapse.experiments.experiment import Experiment, Point, SeedFile
from ncollapse.experiments.work import Work
from ncollapse.machine import machine
from ncollapse.records.files import check_no_link, make_folder, make_own_folder
from ncollapse.records.json_files import fail, read_json, write_json

RUNS = "runs"
# Of one figure, far above what is written.
_MOST_LINES, _LONGEST, _LARGEST = 100, 200, 1e100
_AGAIN = "Delete it and run `ncollapse reproduce` again: the runs behind it are kept."


@dataclass(frozen=True)
class Place:
    """The folder of all experiments: one folder for each, and one for the runs, which they share."""

    out: Path

    def of(self, experiment: Experiment, at_paper_size: bool = False) -> Path:
        """Return the folder of an experiment; the paper's size has one of its own."""
        return self.out / (experiment.folder + ("-paper" if at_paper_size else ""))

    def seeds(self, experiment: Experiment, at_paper_size: bool = False) -> tuple[SeedFile, ...]:
        """Read the results of the finished seeds, in order."""
        found = {file: read_json(file, SeedFile, _AGAIN) for file in self.of(experiment, at_paper_size).glob("seed=*.json")}
        for file, item in found.items():
            if file.name != _name(item.seed):
                # A copy would count a seed twice.
                fail(file, f"holds seed {item.seed}", _AGAIN)
            if wrong := _undrawable(item.points):
                fail(file, wrong, _AGAIN)
        return tuple(sorted(found.values(), key=lambda item: item.seed))

    def runs(self, seeds: Sequence[SeedFile]) -> list[Path]:
        """Return the run directories behind seeds; a seed's file names them, and cannot lead out of the folder."""
        there = {path.name: path for path in (self.out / RUNS).glob("*") if path.is_dir() and not path.is_symlink()}
        names = dict.fromkeys(Path(run).name for seed in seeds for run in seed.runs)
        return [there[name] for name in names if name in there]


def _undrawable(points: Sequence[Point]) -> str:
    """Say which points no experiment writes: a page would take hours to draw them, or not at all."""
    if len({(point.panel, point.line) for point in points}) > _MOST_LINES:
        return f"needed at most {_MOST_LINES} lines in its figure, has more"
    for point in points:
        if any(isinstance(value, float) and abs(value) > _LARGEST for value in (point.x, point.y)):
            return f"needed numbers of at most {_LARGEST:g} in its figure, has larger ones"
        if not all(word.isprintable() and len(word) <= _LONGEST for word in (point.panel, point.line, str(point.x))):
            return f"needed printable names of at most {_LONGEST} characters in its figure, has others"
    return ""


def reproduce(
    experiment: Experiment,
    place: Place,
    seeds: Sequence[int],
    *,
    at_paper_size: bool = False,
    say: Callable[[int, str], None] = lambda done, words: None,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[SeedFile, ...]:
    """Run an experiment with every seed that is not there yet.

    Args:
        experiment: What is run.
        place: Where its results and its runs are kept.
        seeds: Those that are wanted.
        at_paper_size: Run the paper's settings instead of the small version.
        say: Called with the number of finished seeds and the progress of the next one.
        should_stop: Asked after every batch; an experiment that was stopped goes on from there.

    Returns:
        The results of all seeds in the folder, including those that were not asked for.

    Raises:
        ValueError: If data is missing, or there is no version of the paper's size.
        RunStopped: If ``should_stop`` said so.
    """
    if at_paper_size and not experiment.has_paper_size:
        raise ValueError(f"{experiment.name} has one size only, got --paper. Leave it out.")
    folder = place.of(experiment, at_paper_size)
    check_no_link(folder)
    check_no_link(place.out / RUNS)
    there = {found.seed for found in place.seeds(experiment, at_paper_size)}
    for done, seed in enumerate(seeds):
        say(done, "")
        if seed not in there:
            work = Work(seed, at_paper_size, place.out / RUNS, partial(say, done), should_stop)
            write_json(_file(folder, seed), _measured(experiment, work, folder))
    say(len(seeds), "")
    return place.seeds(experiment, at_paper_size)


def _measured(experiment: Experiment, work: Work, folder: Path) -> SeedFile:
    started = time.monotonic()
    found = experiment.measure(work)
    # What runs took counts once, also where another experiment has made them.
    seconds = time.monotonic() - started - work.waited + sum(work.used.values())
    runs = tuple(Path(os.path.relpath(path, folder)).as_posix() for path in work.used)
    where = machine(torch.device("cpu"))
    return SeedFile(work.seed, found.value, found.before, found.points, runs, seconds, where)


def _file(folder: Path, seed: int) -> Path:
    make_folder(folder.parent)
    make_own_folder(folder)
    return folder / _name(seed)


def _name(seed: int) -> str:
    return f"seed={seed}.json"
