"""A pass over features that come by themselves: batches are handed in, a measurement can be had at any time."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ncollapse.groups import Processes
from ncollapse.measurement.measurement import Measurement
from ncollapse.probe.arguments import (
    check_budget,
    check_classifier_metrics,
    memory_budget_of,
    options_of,
    reference_centers,
    select,
)
from ncollapse.probe.first_pass import FirstPass
from ncollapse.probe.layer_batch import LayerBatch
from ncollapse.probe.table import tabulate
from ncollapse.probe.two_passes import complete
from ncollapse.statistics.centers import LinearClassifier
from ncollapse.statistics.conventions import Convention
from ncollapse.statistics.moments import ClassMoments

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

Heads = Callable[[Mapping[str, ClassMoments]], Mapping[str, LinearClassifier]]


class Stream:
    """The statistics of all layers over the batches so far. There is no second pass."""

    # What needs the final class means is answered from the features kept while they fit the memory budget; where they do not,
    # those metrics are nan with the flag ``over_budget``, and paths are None.

    def __init__(
        self,
        *,
        num_classes: int,
        metrics: Sequence[str] | None = None,
        convention: Convention = "class",
        split: str = "train",
        reference: Measurement | None = None,
        path: bool = False,
        memory_budget: int | None = None,
        group: ProcessGroup | None = None,
    ) -> None:
        """Begin with no batches."""
        check_budget(memory_budget)
        self._selected = select(metrics, convention, num_classes)
        self._centers = reference_centers(reference, num_classes)
        self.processes = Processes(group)
        self._named, self._convention, self._split, self._budget = metrics is not None, convention, split, memory_budget
        self._options = replace(options_of(self._selected, num_classes, 0, path, ""), one_pass=True)
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._first: FirstPass | None = None
        self._broken = False

    @property
    def keeps(self) -> bool:
        """Whether the features of the next batch may be kept, so that nothing must overwrite them."""
        return self._first is None or self._first.kept is not None

    def add(self, features: Mapping[str, Tensor], labels: Tensor) -> None:
        """Add one batch."""
        self._check_whole()
        # An error may come when some layers have the batch and others have not: until all have it, nothing is whole.
        self._broken = True
        if self._first is None:
            budget = memory_budget_of(next(iter(features.values())).device, self.processes, self._budget)
            self._first = FirstPass(replace(self._options, memory_budget=budget))
        self._first.add(LayerBatch(dict(features), labels))
        self._broken = False

    def merge(self, other: Stream) -> None:
        """Take in the batches of another stream, which is left as it is."""
        own, theirs = self._arguments(), other._arguments()
        if own != theirs:
            raise ValueError(f"Streams to merge must have the same arguments, got {own} and {theirs}. Make both alike.")
        self._check_whole()
        other._check_whole()
        if other._first is None:
            return
        if self._first is None:
            self._first = other._first.snapshot()
        else:
            self._first.merge(other._first)

    def measurement(self, heads: Heads | None, chosen: str) -> Measurement:
        """Measure all batches so far; more may follow."""
        with self.processes.together():
            self._check_whole()
            if self._first is None and self.processes.size == 1:
                raise ValueError("There is nothing to measure: no batch has come since the beginning or the last reset.")
            if self._named and heads is None:
                check_classifier_metrics(self._selected, chosen)
        self.processes.agree("Arguments", self._arguments())
        first = FirstPass(self._options) if self._first is None else self._first.snapshot()

        def classifiers() -> Mapping[str, LinearClassifier]:
            return {} if heads is None else heads(first.collected.moments)

        collected = complete(first, None, classifiers, self._centers, self.processes)
        return tabulate(collected, self._selected, classifiers(), self._split, self._convention, chosen)

    def _arguments(self) -> str:
        metrics = [metric.id for metric in self._selected]
        return json.dumps([self._options.num_classes, self._convention, self._split, self._options.path, metrics])

    def _check_whole(self) -> None:
        if self._broken:
            raise ValueError(
                "The last batch ended in an error, so that the statistics are not whole. Call reset and begin anew."
            )
