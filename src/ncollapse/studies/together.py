"""Running recipes that differ in seed and steps of training only as one computation, each into its own run directory."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

from ncollapse.models import FCResNet, FCResNetConfig, FCResNetStack
from ncollapse.studies.machine import device_named, threads
from ncollapse.studies.recipe import Recipe
from ncollapse.studies.run import Run, failure_noted
from ncollapse.studies.run_directory import RunDirectory
from ncollapse.train.ensemble import COVERED, SHARED, train_together
from ncollapse.train.loop import EpochRecord, TrainingDiverged
from ncollapse.train.schedule import TrainConfig


def can_run_together(recipe: Recipe, other: Recipe) -> bool:
    """Whether two recipes differ only in what ``run_together`` lets differ.

    Args:
        recipe: A recipe.
        other: Another.

    Returns:
        True if both train a residual FC ResNet by SGD in float32 (neither deterministic nor compiled) and only seeds, words,
        and settings of single steps of training (rates, decays, momentum, clipping) differ.
    """
    model, training = recipe.model, recipe.train
    stacked = isinstance(model, FCResNetConfig) and (model.connections, model.head) == ("residual", "linear")
    covered = all(getattr(training, field) == value for field, value in COVERED.items())
    return stacked and covered and _shared(recipe) == _shared(other)


def _shared(recipe: Recipe) -> Recipe:
    train = TrainConfig(**{name: getattr(recipe.train, name) for name in (*SHARED, "checkpoint_every")})
    return replace(recipe, name="", title="", description="", seed=0, train=train)


def run_together(
    recipes: Sequence[Recipe], outs: Sequence[str | Path], *, resume: bool = False, overwrite: bool = False
) -> list[Exception | None]:
    """Train and measure several recipes as one computation, each into a run directory as ``run_recipe`` writes it.

    The numbers equal those of ``run_recipe`` within rounding. Killed at any moment, all resume from their last checkpoints and
    end with the same tables, to the bit on one thread when the same number of recipes is given in the same order.

    Args:
        recipes: Recipes of which any two can run together.
        outs: Their run directories.
        resume: As in ``run_recipe``; finished runs are left as they are.
        overwrite: As in ``run_recipe``.

    Returns:
        For every recipe the error that ended its run, such as diverging; its ``status.json`` says so too. None where it
        finished: no run ends another.

    Raises:
        ValueError: If the recipes do not fit together, or the data is missing.
    """
    if not recipes or not all(can_run_together(recipes[0], recipe) for recipe in recipes):
        raise ValueError(
            "Recipes that run together must train FC ResNets in float32, neither deterministic nor compiled, and may differ in "
            "seed, rates, decay, momentum and clipping only. Group them, and run others one after another."
        )
    with threads(recipes[0].threads):
        device = device_named(recipes[0].device)
        first = Run(recipes[0], RunDirectory(outs[0]), device)
        others = [Run(recipe, RunDirectory(out), device, first.data) for recipe, out in zip(recipes[1:], outs[1:], strict=True)]
        members = [_Member(run) for run in (first, *others)]
        for member in members:
            member.attempt(lambda run: run.begin(resume, overwrite))
        _train_all(members)
        for member in members:
            member.attempt(Run.finish)
    return [member.error for member in members]


class _Member:
    """One run among others, and the error that ended it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.error: Exception | None = None

    def attempt(self, act: Callable[[Run], None]) -> None:
        """Act on the run; what fails, fails for this run alone."""
        if self.error is not None:
            return
        try:
            act(self.run)
        except (OSError, ValueError) as error:
            self.error = error

    def take_up(self, record: EpochRecord | TrainingDiverged) -> None:
        """One epoch; a run that fails in it says so in its status."""

        def act(run: Run) -> None:
            with failure_noted(run.directory):
                if isinstance(record, TrainingDiverged):
                    raise record
                run.after_epoch(record)

        self.attempt(act)


def _train_all(members: Sequence[_Member]) -> None:
    """Train all to the end; after a kill those that are behind come first, until they have caught up with others."""
    epochs = members[0].run.recipe.train.epochs
    while going := [member for member in members if member.error is None and member.run.epoch < epochs]:
        begin = min(member.run.epoch for member in going)
        end = min((member.run.epoch for member in going if member.run.epoch > begin), default=epochs)
        behind = {index: member for index, member in enumerate(members) if member in going and member.run.epoch == begin}
        tables = _tables([member.run for member in members], behind.keys(), begin)
        for _ in range(begin, end):
            records = next(tables)
            for index, member in behind.items():
                member.take_up(records[index])


def _tables(runs: Sequence[Run], training: Collection[int], begin: int) -> Iterator[list[EpochRecord | TrainingDiverged]]:
    """Records of all from one epoch on, the runs that do not train replaced by copies of one that does."""
    # The last bits of a batched product depend on how many networks there are and on a network's place among them: with both
    # kept, a run ends with the same table whatever was killed.
    filler = runs[min(training)].model
    networks = [run.model if index in training else copy.deepcopy(filler) for index, run in enumerate(runs)]
    return train_together(
        FCResNetStack(cast(list[FCResNet], networks)),
        runs[0].data,
        [run.recipe.training for run in runs],
        seeds=[run.recipe.seed for run in runs],
        optimizers=[run.optimizer if index in training else None for index, run in enumerate(runs)],
        start_epoch=begin + 1,
    )
