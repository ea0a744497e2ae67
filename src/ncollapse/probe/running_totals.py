"""Running totals: the statistics of batches that arrive one by one, which can be measured at any time."""

from __future__ import annotations

import torch

from ncollapse.groups import Processes
from ncollapse.hooks.label_rows import class_indices
from ncollapse.measurement.measurement import Measurement
from ncollapse.probe.first_pass import FirstPass
from ncollapse.probe.gathering import Gathering
from ncollapse.probe.layer_batch import LayerBatch
from ncollapse.probe.measure import evaluate
from ncollapse.probe.request import Request
from ncollapse.probe.second_pass import Classifiers, complete


class RunningTotals:
    """The statistics of all layers over the batches so far. There is no second pass."""

    # Some metrics need the final class means. Features are kept for them within the memory budget. If they do not fit, these
    # metrics are nan with the flag ``over_budget``, and paths are None.

    def __init__(self, request: Request) -> None:
        self.request, self.processes = request, Processes(request.group, f"the measurement{request.where or ''}")
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._first: FirstPass | None = None
        self._gathering = Gathering(self.request.num_classes)
        self._broken = False

    def add(self, batch: LayerBatch) -> None:
        """Add one batch."""
        self._check_whole()
        # An error may occur after some layers have the batch and others do not. Then the totals cannot be used.
        self._broken = True
        # The loop may be in inference mode now and not at the next batch, which could not be added to sums made inside.
        with torch.inference_mode(False), torch.no_grad():
            batch = batch._replace(labels=class_indices(batch.labels))
            if not self._gathering.add(batch):
                self._work_gathered()
                if not self._gathering.add(batch):
                    # Copied, because the loop may write the next batch's labels into the same buffer.
                    self._work(batch._replace(labels=batch.labels.clone()))
                    self._gathering.make_room(batch)
        self._broken = False

    def _work_gathered(self) -> None:
        count = self._gathering.num_batches
        if count and self._first is not None:
            self._first.add(self._gathering.whole())
            # Errors count the batches that came.
            self._first.index += count - 1
            self._gathering.clear()

    def _snapshot(self) -> FirstPass | None:
        """Return a copy of all sums so far, gathered batches included. These stay, so that looking changes no later bit."""
        first = None if self._first is None else self._first.snapshot()
        if first is not None and self._gathering.num_batches:
            first.add(self._gathering.whole())
        return first

    def _work(self, batch: LayerBatch) -> None:
        if self._first is None:
            device = next(iter(batch.features.values())).device
            self._first = FirstPass(self.request, self.request.budget(device, self.processes))
        self._first.add(batch)

    def merge(self, other: RunningTotals) -> None:
        """Add the batches of another object, which stays unchanged."""
        own, theirs = self.request.shared_arguments(), other.request.shared_arguments()
        if own != theirs:
            raise ValueError(
                f"Totals to merge must have the same arguments, got {own} and {theirs}. Pass the same arguments to both."
            )
        self._check_whole()
        other._check_whole()
        self._work_gathered()
        added = other._snapshot()
        if self._first is None:
            self._first = added
        elif added is not None:
            self._first.merge(added)

    def measurement(self, classifiers: Classifiers | None, chosen: str) -> Measurement:
        """Measure all batches so far; more may follow."""
        with self.processes.sharing_errors():
            self._check_whole()
            if self._first is None and self.processes.size == 1:
                raise ValueError(
                    "compute needs at least one batch since the start or the last reset, got none. Call update first."
                )
            if classifiers is None and self._first is not None:
                self.request.check_classifier(chosen, logits=self._first.totals.choices is not None)
        request = self.request
        self.processes.check_same("Arguments", request.shared_arguments())
        first = self._snapshot() or FirstPass(request, budget=0)
        totals = first.finish(self.processes)
        totals = complete(totals, first.kept, request, None, classifiers, self.processes)
        return evaluate(request, totals, chosen)

    def _check_whole(self) -> None:
        if self._broken:
            raise ValueError("The last batch must be complete, but it ended in an error. Call reset and start again.")
