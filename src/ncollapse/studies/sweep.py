"""A sweep: one recipe over values of its fields and over seeds, every run in a run directory of its own."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ncollapse.groups import Processes
from ncollapse.recipes.recipe import Recipe, RecipeError
from ncollapse.recipes.settings import differences, override
from ncollapse.records import file_names
from ncollapse.records.errors import DamagedRunError, ReportError, RunDirectoryError
from ncollapse.records.files import check_no_link
from ncollapse.records.json_files import encode, read_json
from ncollapse.records.lock import Lock
from ncollapse.records.manifest import CheckedFiles
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import Status
from ncollapse.records.saving import held_files, save_files
from ncollapse.records.sweep import SweepEntry, SweepFile, swept_words
from ncollapse.stop_signals import RunStopped
from ncollapse.studies.held_recipe import held_recipe
from ncollapse.studies.machine import device_named
from ncollapse.studies.recipe_check import check_feasible
from ncollapse.studies.workers import run_locally, run_on_ray

Engine = Literal["local", "ray"]
_TWICE = "A field can be swept once only; list all its values in one --over or --with."


class SweepRun(NamedTuple):
    """One run of a sweep.

    Attributes:
        name: Its swept settings and seed, the name of its folder.
        settings: Swept fields and their values, as text.
        recipe: What is run.
        path: Its run directory.
        tied: Fields whose values belong to those of a swept one, and their values, as text.
    """

    name: str
    settings: dict[str, str]
    recipe: Recipe
    path: Path
    tied: dict[str, str]

    def status(self) -> Status | None:
        """Return what ``status.json`` says; None where there is none that can be read.

        The state of a run that was finished and has lost a file since is "damaged".
        """
        directory = RunDirectory(self.path)
        status = directory.status()
        is_damaged = status is not None and status.state == "finished" and directory.missing()
        return replace(status, state="damaged") if status is not None and is_damaged else status

    @property
    def is_finished(self) -> bool:
        """Whether the run has come to its end, and its files are there."""
        status = self.status()
        return status is not None and status.state == "finished"


@dataclass(frozen=True)
class SweepOutcome:
    """How a sweep has ended.

    Attributes:
        runs: All its runs, in order.
        errors: By name, why a run is not finished.
    """

    runs: tuple[SweepRun, ...]
    errors: dict[str, str]


def plan_sweep(recipe: Recipe, over: Sequence[str | Sequence[str]], seeds: int, out: str | Path) -> tuple[SweepRun, ...]:
    """Return all runs of a sweep, seeds fastest: every combination of the values, with every seed.

    Args:
        recipe: What is swept; its own seed is the first.
        over: Items ``field=value,value,...``, fields as in ``override``. A sequence of such items is one axis: the first is
            swept, and the values of the others belong to its values one by one, as an optimizer's learning rate does:
            ``("train.optimizer=sgd,adam", "train.learning_rate=0.1,0.001")``.
        seeds: How many seeds each combination is run with, counted up from the recipe's.
        out: The sweep's folder.

    Raises:
        RecipeError: If an item has no values or the same twice, a field is named twice, values that belong together are not
            equally many, or a value does not fit its field or gives a network that does not fit the data or can't be measured.
    """
    if seeds < 1:
        raise RecipeError(f"A sweep needs at least one seed, got {seeds}. Leave --seeds out for one.")
    axes = [_axis(*([item] if isinstance(item, str) else item)) for item in over]
    names = [name for axis in axes for setting in axis[0] for name in setting]
    if len(set(names)) < len(names):
        raise RecipeError(_TWICE)
    if "seed" in names:
        raise RecipeError("Seeds are swept by --seeds N; set the first with --set seed=S.")
    runs = []
    planned: dict[Recipe, list[str]] = {}
    for places in itertools.product(*axes):
        settings = {key: value for swept, _ in places for key, value in swept.items()}
        tied = {key: value for _, others in places for key, value in others.items()}
        words = [f"{key}={value}" for key, value in (settings | tied).items()]
        varied = override(recipe, words)
        _check_setting(varied, words, planned)
        for seed in range(recipe.seed, recipe.seed + seeds):
            name = re.sub(r"[^A-Za-z0-9._=+-]", "_", "_".join([*words[: len(settings)], f"seed={seed}"]))
            runs.append(SweepRun(name, settings, replace(varied, seed=seed), Path(out) / name, tied))
    return tuple(runs)


def _check_setting(varied: Recipe, words: list[str], planned: dict[Recipe, list[str]]) -> None:
    """Refuse what was planned already, under another spelling too, and what no run can be made of."""
    same = planned.setdefault(varied, words)
    if same is not words:
        twice = "; ".join(f"{one} and {other}" for one, other in zip(same, words, strict=True) if one != other)
        raise RecipeError(f"--over has a value twice, in two spellings: {twice}. Name each once; repeat runs with --seeds.")
    try:
        check_feasible(varied)
    except ValueError as error:
        raise RecipeError(f"{error} (set by {', '.join(words)})" if words else str(error)) from error


def _axis(first: str, *others: str) -> list[tuple[dict[str, str], dict[str, str]]]:
    """List the places of one axis: the swept field's value at each, and the values that belong to it."""
    key, values = _parse("--over", first)
    if len(set(values)) < len(values):
        raise RecipeError(f"--over {first!r} has a value twice. Name each once; repeat runs with --seeds.")
    tied = dict(_parse("--with", other) for other in others)
    if len(tied) < len(others):
        raise RecipeError(_TWICE)
    for field, its in tied.items():
        if len(its) != len(values):
            raise RecipeError(
                f"--with {field}=... needs one value for each of the {len(values)} of --over {first}, got {len(its)}: "
                f"{','.join(its)}. Write them in the same order."
            )
    return [({key: value}, {field: its[place] for field, its in tied.items()}) for place, value in enumerate(values)]


def _parse(option: str, item: str) -> tuple[str, list[str]]:
    key, separator, text = item.partition("=")
    values = [value.strip() for value in text.split(",")]
    if not separator or not all(values):
        raise RecipeError(f"{option} needs field=value,value,..., got {item!r}. Try {option} train.weight_decay=0,5e-4.")
    return key.strip(), values


def run_sweep(
    runs: Sequence[SweepRun],
    out: str | Path,
    *,
    engine: Engine = "local",
    workers: int = 1,
    address: str | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SweepOutcome:
    """Bring all runs of a sweep to their end, in several processes.

    A script must call it under ``if __name__ == "__main__":``, since the processes import the script. Notebooks need nothing.

    Finished runs are left as they are, others go on from their last checkpoints; a process that dies is started again, twice
    at most. Killed at any moment and called again, a sweep ends with the same tables, and a run has the same bits here as from
    ``run_recipe``. A folder that holds runs of the same recipe with other values or seeds is extended: they stay in its list.

    Args:
        runs: From ``plan_sweep``.
        out: The sweep's folder; ``sweep.json`` in it lists the runs.
        engine: "local" for processes on this machine, "ray" for a Ray cluster that shares this file system.
        workers: Processes at a time.
        address: Address of a running Ray cluster. None takes a cluster that is found, or starts one here.
        on_progress: Called about twice a second with the epochs that are done and the epochs in all.
        should_stop: Asked about twice a second, see ``stop_signals``. Once it is true, no run is begun, the processes are asked
            to save theirs, and when they have ended ``RunStopped`` is raised.

    Returns:
        The runs, and why those that are not finished are not.

    Raises:
        RunDirectoryError: If the folder is a file, another process writes to it, or it holds a sweep over other fields, of
            another recipe or of other settings.
        RecipeError: If the device of a run is not there.
        OSError: If the folder is full or read-only.
        ImportError: If Ray is asked for and not installed.
        RunStopped: If ``should_stop`` said so and a run is not finished.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise RunDirectoryError(f"{folder} must be a folder for the runs of a sweep, got a file. Choose another with --out.")
    with Lock(folder):
        listed = _listing(runs, folder)
        if engine == "local":
            for device in {run.recipe.device for run in runs}:
                device_named(device, Processes())
        save_files(folder, {file_names.SWEEP: encode(SweepFile(listed))}, held_files(folder))
        where = {"engine": engine, "workers": workers, "address": address}
        return _run_all(runs, folder, where, on_progress, should_stop or bool)


def _run_all(
    runs: Sequence[SweepRun],
    folder: Path,
    where: dict[str, Any],
    on_progress: Callable[[int, int], None] | None,
    should_stop: Callable[[], bool],
) -> SweepOutcome:
    def tick() -> None:
        if on_progress is not None:
            done = sum(status.epoch for run in runs if (status := run.status()) is not None)
            on_progress(done, sum(run.recipe.train.epochs for run in runs))

    unfinished = [run for run in runs if not (run.is_finished and RunDirectory(run.path).is_whole())]
    tasks = [(run.recipe.to_json(), str(run.path)) for run in unfinished]
    if where["engine"] == "ray":
        found = run_on_ray(tasks, where["workers"], tick, should_stop, where["address"])
    else:
        found = run_locally(tasks, where["workers"], tick, should_stop)
    # A run may have ended after the last look at it.
    tick()
    if should_stop() and any(found):
        finished = sum(run.is_finished for run in runs)
        raise RunStopped(f"{folder} is saved, {finished} of {len(runs)} runs finished. Go on with the same command.")
    return SweepOutcome(tuple(runs), {run.name: error for run, error in zip(unfinished, found, strict=True) if error})


def _listing(runs: Sequence[SweepRun], folder: Path) -> tuple[SweepEntry, ...]:
    """Read the runs of the folder, also of an earlier sweep, and check that they differ in swept values and seeds only."""
    listed = tuple(SweepEntry(run.name, run.settings, run.recipe.seed, run.tied) for run in runs)
    planned = {run.name for run in runs}
    earlier = tuple(item for item in _earlier(folder) if item.name not in planned)
    for item in earlier:
        # In their order too, which the names of the runs have.
        if (tuple(item.settings), set(item.tied)) != (tuple(runs[0].settings), set(runs[0].tied)):
            raise RunDirectoryError(
                f"{folder} holds a sweep over {swept_words(item.settings, item.tied)}, and this one is over "
                f"{swept_words(runs[0].settings, runs[0].tied)}. Choose another place with --out."
            )
        _check_held(folder / item.name, runs[0].recipe, {"seed", *item.settings, *item.tied})
    for run in runs:
        # What is finished is not trained again: it must be what is asked for.
        _check_held(run.path, run.recipe, set())
    return tuple(sorted(listed + earlier, key=_place)) if earlier else listed


def _earlier(folder: Path) -> tuple[SweepEntry, ...]:
    """Read the folder's list; nothing where there is none that can be read."""
    try:
        return read_json(folder / file_names.SWEEP, SweepFile, read=CheckedFiles(folder).read).runs
    except DamagedRunError:
        raise
    except (OSError, ReportError):
        return ()


def _check_held(path: Path, recipe: Recipe, free: set[str]) -> None:
    """Check that an existing run has this recipe, apart from some fields: else the sweep's tables would mix settings."""
    check_no_link(path)
    try:
        held = held_recipe(RunDirectory(path))
    except RunDirectoryError:
        # No run, or a damaged one, which fails by itself.
        return
    if held.fingerprint() == recipe.fingerprint():
        return
    other = [item for item in differences(held, recipe) if item.partition("=")[0] not in free]
    if other or held.name != recipe.name or not free:
        settings = ", ".join(other)
        raise RunDirectoryError(
            f"{path} holds a run of {held.name!r}{f' with {settings}' if other else ''}, and this sweep's is of "
            f"{recipe.name!r} with other settings. Choose another place with --out, or delete the folder."
        )


def _place(item: SweepEntry) -> tuple[Any, ...]:
    """Return the place of a run in the list: by its values, numbers by size, then by seed."""

    def order(value: str) -> tuple[float, str]:
        try:
            return float(value), ""
        except ValueError:
            return math.inf, value

    return *(order(value) for value in item.settings.values()), item.seed
