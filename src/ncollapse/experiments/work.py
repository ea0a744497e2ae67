"""The work for one seed of an experiment: finished runs of recipes, their networks, and their samples."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from ncollapse.data.catalog import load_samples
from ncollapse.data.labeled import LabeledData
from ncollapse.recipes import override, recipe_by_name
from ncollapse.recipes.recipe import Recipe
from ncollapse.records import file_names
from ncollapse.records.errors import FolderInUseError, RunDirectoryWarning
from ncollapse.records.files import check_no_link
from ncollapse.records.lock import living_holder
from ncollapse.records.reading import Run, read_run
from ncollapse.records.rows import EpochRecord
from ncollapse.records.run_directory import RunDirectory
from ncollapse.stop_signals import RunStopped
from ncollapse.studies.run import run_recipe
from ncollapse.targets.networks import load_network

# Receives the progress in a few words, such as the epoch.
Say = Callable[[str], None]
# Most letters of recipe and settings in the name of a folder. The fingerprint at its end makes the name unique.
_LONGEST = 100
# Between two looks at a run that another process trains.
_PAUSE_SECONDS = 1.0
# How often another process may begin a run between our look at its folder and our own start.
_ATTEMPTS = 3


@dataclass
class Work:
    """One seed of an experiment under way.

    Runs lie in one folder for all experiments, so that a run which several of them need is trained once.

    Attributes:
        seed: Decides initial weights, the order of samples, and whatever else is drawn.
        at_paper_size: Whether to take the paper's settings instead of the small ones.
        runs: The folder of all runs.
        say: Called with the progress in words.
        should_stop: Asked after every batch; None never stops.
        used: The runs that this seed uses, with the seconds of their training, in this or in another experiment.
        waited: Seconds that this experiment has spent on its runs: training them, or waiting for others who train them.
    """

    seed: int
    at_paper_size: bool
    runs: Path
    say: Say
    should_stop: Callable[[], bool] | None = None
    used: dict[Path, float] = field(default_factory=dict)
    waited: float = 0.0

    def run(self, name: str, *settings: str) -> Run:
        """Return the finished run of a recipe with changed settings and this seed; trains it, or what is left of it, first."""
        recipe = override(recipe_by_name(name), [*settings, f"seed={self.seed}"])
        words = re.sub(r"[^A-Za-z0-9._=+-]", "_", "_".join([name, *settings]))[:_LONGEST]
        path = self.runs / f"{words}_seed={self.seed}_{recipe.fingerprint()[:8]}"
        check_no_link(path)
        started, said = time.monotonic(), ", ".join([name, *settings])

        def say(record: EpochRecord, epochs: int) -> None:
            self.say(f"{said}: epoch {record.epoch} of {epochs}")

        for attempts_left in reversed(range(_ATTEMPTS)):
            self._wait_for_others(path)
            if _is_finished(path):
                break
            try:
                run_recipe(recipe, path, resume=True, on_epoch=say, should_stop=self.should_stop)
                break
            except FolderInUseError:
                # Another process may have begun the same run since we looked. Then we wait for it. The number of attempts is
                # limited, because a process that holds the folder without saying who it is cannot be waited for.
                if not attempts_left:
                    raise
        run = read_run(path)
        self.used[path] = run.status.seconds or 0.0
        self.waited += time.monotonic() - started
        return run

    def _wait_for_others(self, path: Path) -> None:
        """Wait until no other process trains a run."""
        if (holder := living_holder(path)) is not None:
            who = f"process {holder.pid} on {holder.host} has been training this run since {holder.since}"
            warnings.warn(f"{path}: {who}. This process waits for it.", RunDirectoryWarning, stacklevel=2)
        while living_holder(path) is not None:
            self.go_on(f"{path} is trained by another process.")
            time.sleep(_PAUSE_SECONDS)

    def go_on(self, place: str = "The experiment was asked to stop.") -> None:
        """Raise ``RunStopped`` if this seed was asked to stop; otherwise do nothing."""
        if self.should_stop is not None and self.should_stop():
            raise RunStopped(f"{place} Give the same command again.")

    def network(self, run: Run) -> nn.Module:
        """Return the trained network of a run, on the CPU."""
        return load_network(run.path, device="cpu")

    def samples(self, run: Run, *settings: str) -> LabeledData:
        """Return the samples that a run was trained on, or others that its recipe names with changed settings."""
        return load_samples(override(recipe_of(run), settings).data)


def _is_finished(path: Path) -> bool:
    directory = RunDirectory(path)
    status = directory.status()
    # A run that was killed at the very end of its last save is resumed once more, which ends the save.
    return status is not None and status.state == "finished" and directory.is_whole()


def recipe_of(run: Run) -> Recipe:
    """Return the recipe of a run."""
    return Recipe.from_json((run.path / file_names.RECIPE).read_text())
