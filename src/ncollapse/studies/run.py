"""Run a recipe: train, measure at the chosen epochs, save to the run directory, and resume after a kill at any moment."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import torch
from torch import Tensor, nn

from ncollapse.analysis.block_energy import weight_decay_bounds
from ncollapse.data.batches import Batches
from ncollapse.data.catalog import load_samples
from ncollapse.data.labeled import LabeledData
from ncollapse.error_words import error_line
from ncollapse.groups import Processes
from ncollapse.measurement.depth_record import depth_record
from ncollapse.measurement.kgon import add_kgon
from ncollapse.measurement.measurement import Measurement
from ncollapse.metrics import FLAGS, METRICS
from ncollapse.models import FCResNet, build_model
from ncollapse.probe.collect_features import collect_features
from ncollapse.probe.measure import measure_network
from ncollapse.probe.request import Request
from ncollapse.recipes.catalog import changes
from ncollapse.recipes.recipe import Recipe
from ncollapse.records.errors import RunDirectoryWarning
from ncollapse.records.files import remove_leftovers
from ncollapse.records.lock import Lock
from ncollapse.records.rows import EpochRecord
from ncollapse.records.run_directory import RunDirectory
from ncollapse.records.run_files import Glossary, Status
from ncollapse.stop_signals import RunStopped
from ncollapse.studies.held_recipe import check_replaceable, check_resumable
from ncollapse.studies.machine import device_named, environment, threads
from ncollapse.studies.objective import measure_objective
from ncollapse.studies.recipe_check import check_layers
from ncollapse.studies.run_metrics import group_metrics, metrics_of
from ncollapse.train.checkpoint import checkpoint_content, resume_checkpoint
from ncollapse.train.epoch_part import EpochPart, TrainingStopped
from ncollapse.train.loop import make_optimizer, train
from ncollapse.train.schedule import measuring_epochs, weight_decay_time

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

OnEpoch = Callable[[EpochRecord, int], None]

MEMORY_ADVICE = "Set a smaller train.batch_size, measure.batch_size or model.width."


def run_recipe(
    recipe: Recipe,
    out: str | Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: OnEpoch | None = None,
    should_stop: Callable[[], bool] | None = None,
    group: ProcessGroup | None = None,
) -> Path:
    """Train a recipe's network and measure it, into a run directory.

    Killed at any moment, the run resumes from its last checkpoint and ends with the same table, to the bit on one thread.

    Args:
        out: The run directory.
        resume: Continue the run of the same recipe in this folder; begins one if the folder holds none.
        overwrite: Replace an earlier run whose settings differ at most in the seed, instead of refusing. The old run goes when
            the first files of the new one are written.
        on_epoch: Called after every epoch that is trained, with its record and the number of epochs.
        should_stop: Asked after every batch, see ``stop_signals``. Once it is true, the run is saved with its place inside the
            epoch, ``status.json`` says "stopped", and ``RunStopped`` is raised; a measurement is finished before.
        group: Processes of ``torch.distributed`` that run it together, with the numbers of one process within rounding. All see
            one folder, in which the first writes.

    Returns:
        The path of the finished run directory.

    Raises:
        RecipeError: If the device is not there.
        CheckpointError: If the checkpoint is damaged or belongs to another recipe.
        RunDirectoryError: If the folder cannot hold this run, or another process writes to it.
        OSError: If the folder is full or read-only.
        ValueError: If the data is missing or damaged, the network does not fit it or has one layer only, or training
            diverges; ``status.json`` then says so.
        RunStopped: If ``should_stop`` said so.
    """
    directory = RunDirectory(out)
    with threads(recipe.threads), ExitStack() as stack:
        run = TrainingRun(recipe, directory, device_named(recipe.device, Processes(group)), group)
        with run.processes.sharing_errors():
            if run.writes:
                stack.enter_context(Lock(directory.path))
        run.begin(resume, overwrite)
        with _end_noted(directory) if run.writes else nullcontext():
            try:
                for record in run.epochs(should_stop):
                    run.after_epoch(record)
                    if on_epoch is not None:
                        on_epoch(record, recipe.train.epochs)
            except TrainingStopped as stopped:
                run.stop(stopped)
            run.finish()
    return directory.path


@contextmanager
def _end_noted(directory: RunDirectory) -> Iterator[None]:
    """Write in the status how a run ended; if that fails too, as on a full disk, the first error is the one that is raised."""
    try:
        yield
    except RunStopped:
        raise
    except KeyboardInterrupt:
        with suppress(OSError, ValueError):
            directory.mark("stopped", "interrupted, goes on from here")
        raise
    except Exception as error:
        with suppress(OSError, ValueError):
            directory.mark("failed", error_line(error, MEMORY_ADVICE))
        raise


class TrainingRun:
    """The state of one run: the network, its optimizer, and the last finished epoch. Of several processes the first writes."""

    def __init__(self, recipe: Recipe, directory: RunDirectory, device: torch.device, group: ProcessGroup | None) -> None:
        self.recipe, self.directory, self.device = recipe, directory, device
        self.processes = Processes(group, "saving the run")
        self.writes = self.processes.is_first
        # Data and network come before the folder: a run whose data is missing leaves nothing behind.
        with self.processes.sharing_errors():
            self.data = load_samples(recipe.data).to(device)
            self.counts = torch.bincount(self.data.labels, minlength=self.data.num_classes)
            self.test = load_samples(recipe.data.test_part).to(device) if recipe.measure.test else None
        shape, num_classes = self.data.sample_shape, self.data.num_classes
        self.model: nn.Module = build_model(recipe.model, shape, num_classes, recipe.seed, self.data.vocabulary).to(device)
        check_layers(self.model)
        self.optimizer = make_optimizer(self.model, recipe.training)
        self.epoch, self.part = 0, EpochPart.empty()
        self.started = time.monotonic()
        self.seconds_before = 0.0
        listed = recipe.measure.epochs
        self.epochs_to_measure = {0, *measuring_epochs(recipe.train.epochs)} if listed is None else set(listed)
        self.epochs_to_measure.add(recipe.train.epochs)

    def begin(self, resume: bool, overwrite: bool) -> None:
        """Resume the run in the folder if there is one to resume, or begin a run there."""
        # All processes read the folder before the first one writes to it.
        with self.processes.sharing_errors():
            if resume and self.writes and (words := self.directory.recover(self.recipe.fingerprint())):
                warnings.warn(words, RunDirectoryWarning, stacklevel=4)
        with self.processes.sharing_errors():
            was_begun = resume and self.directory.has_recipe()
            if was_begun:
                check_resumable(self.directory, self.recipe)
            if was_begun and self.directory.take_up():
                self._resume()
                return
        with self.processes.sharing_errors():
            if self.writes:
                # A run that was begun but has no checkpoint yet is replaced.
                if not was_begun:
                    check_replaceable(self.directory, self.recipe, overwrite)
                self._create(overwrite or was_begun)
        if 0 in self.epochs_to_measure:
            self._measure()
        self._save("running")

    def _resume(self) -> None:
        fingerprint = self.recipe.fingerprint()
        self.epoch, self.part = resume_checkpoint(self.directory.checkpoint, self.model, self.optimizer, fingerprint)
        if self.writes:
            remove_leftovers(self.directory.path)
        self.directory.load(self.epoch)
        self.seconds_before = self.directory.seconds()

    def _create(self, overwrite: bool) -> None:
        # Numbers are written as JSON reads them back, because the fingerprint is computed from those.
        written = Recipe.from_json(self.recipe.to_json())
        self.directory.create({**dataclasses.asdict(written), "changed": changes(written)}, overwrite=overwrite)
        known = (*METRICS.values(), *group_metrics(self.counts))
        glossary = Glossary({metric.id: metric.title for metric in known}, FLAGS)
        self.directory.begin(environment(self.recipe, self.device, self.processes.size), glossary)

    def epochs(self, should_stop: Callable[[], bool] | None) -> Iterator[EpochRecord]:
        """Train the epochs that are left."""
        return train(
            self.model,
            self.data,
            self.recipe.training,
            seed=self.recipe.seed,
            optimizer=self.optimizer,
            start_epoch=self.epoch + 1,
            part=self.part,
            should_stop=should_stop,
            group=self.processes.group,
        )

    def after_epoch(self, record: EpochRecord) -> None:
        """Measure and save where due. Tables are written before the checkpoint, which implies complete tables."""
        self.epoch, self.part = record.epoch, EpochPart.empty()
        self.directory.history.append(record)
        due = self.epoch in self.epochs_to_measure
        if due:
            self._measure()
        if due or self.epoch % self.recipe.train.checkpoint_every == 0:
            self._save("running")

    def finish(self) -> None:
        """Mark the run as finished."""
        self._save("finished")

    def stop(self, stopped: TrainingStopped) -> NoReturn:
        """Save what there is, inside an epoch too."""
        self.part = stopped.part
        place = f"in epoch {stopped.epoch}, after batch {len(stopped.part)} of {stopped.num_batches}"
        self._save("stopped", place)
        raise RunStopped(f"{self.directory.path} is saved {place}. Continue it with --resume.")

    def _save(self, state: str, reason: str | None = None) -> None:
        with self.processes.sharing_errors():
            if self.writes:
                fingerprint = self.recipe.fingerprint()
                checkpoint = checkpoint_content(self.model, self.optimizer, self.epoch, fingerprint, self.part)
                status = replace(self._status(state), reason=reason)
                self.directory.save(status, checkpoint=checkpoint, recipe=fingerprint, keep=self.recipe.train.keep)

    def _measure(self) -> None:
        recipe = self.recipe
        batches = Batches(self.data, recipe.measure.batch_size)
        measurement = self._measure_split(batches)
        test = None if self.test is None else self._measure_split(Batches(self.test, recipe.measure.batch_size), measurement)
        if not self.writes:
            return
        is_last = self.epoch == recipe.train.epochs
        sample = bounds = None
        # At epoch 0 too: it is the base rate of the claims on transport.
        if (is_last or self.epoch == 0) and recipe.measure.transport_samples:
            sample = self._sample(measurement.path_layers)
        if is_last and isinstance(self.model, FCResNet) and self.model.config.connections == "residual":
            bounds = weight_decay_bounds(self.model, batches)
        rows = [row._replace(epoch=self.epoch) for split in (measurement, test) if split is not None for row in split.rows]
        record = depth_record(measurement, self.epoch, sample=sample, weight_decay=bounds)
        self.directory.samples = add_kgon(self.directory.samples, measurement, self.epoch)
        self.directory.add_measurement(rows, record, measure_objective(self.model, self.data, recipe, self.epoch))

    def _measure_split(self, batches: Batches, reference: Measurement | None = None) -> Measurement:
        """Measure the training set; with its measurement as the reference, measure the test split."""
        request = Request(
            num_classes=self.data.num_classes,
            split="train" if reference is None else "test",
            reference=reference,
            metrics=metrics_of(self.recipe, self.counts, by_reference=reference is not None),
            convention=self.recipe.measure.convention,
            path=reference is None,
            group=self.processes.group,
            where=f" at epoch {self.epoch}",
        )
        return measure_network(request, self.model, self.processes.every_nth_batch(batches))

    def _sample(self, layers: Sequence[str]) -> list[Tensor]:
        """Collect features of the layers of the path, for exact transport."""
        sample = _stratified(self.data, self.recipe.measure.transport_samples)
        features, _ = collect_features(
            self.model, Batches(sample, self.recipe.measure.batch_size), num_classes=self.data.num_classes
        )
        return [features[layer] for layer in layers]

    def _status(self, state: str) -> Status:
        accuracies = {
            int(row.epoch or 0): row.value for row in self.directory.rows if (row.metric, row.split) == ("accuracy", "train")
        }
        perfect = [epoch for epoch, accuracy in accuracies.items() if accuracy == 1.0]
        steps = len(Batches(self.data, self.recipe.train.batch_size))
        return Status(
            state=state,
            epoch=self.epoch,
            epochs=self.recipe.train.epochs,
            train_accuracy=accuracies[max(accuracies)] if accuracies else None,
            first_perfect_epoch=min(perfect) if perfect else None,
            seconds=self.seconds_before + time.monotonic() - self.started,
            weight_decay_time=weight_decay_time(self.recipe.training, steps, self.epoch),
        )


def _stratified(data: LabeledData, num_samples: int) -> LabeledData:
    """Take the first samples of every class, an equal number of each where a class has as many."""
    share = max(1, num_samples // data.num_classes)
    taken = [(data.labels == k).nonzero().flatten()[:share] for k in range(data.num_classes)]
    return data.subset(torch.cat(taken))
