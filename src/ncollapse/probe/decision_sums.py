"""Sums of decisions at all layers, made once enough projected batches wait for them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ncollapse.groups import Processes
from ncollapse.measurement.totals import merge_layers
from ncollapse.statistics.batch import Workspace
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.projected import Projected
from ncollapse.statistics.selection import ClassSelection

# Projected features of one layer that wait for their decisions: 8 MB.
_PENDING_ELEMENTS = 2**20


class _Pending:
    """Projected samples of one layer that wait for their decisions, in memory allocated once."""

    # Allocated batch by batch, it would fragment the memory that features leave, and the next features would not fit there.

    def __init__(self, first: Projected, num_samples: int) -> None:
        rows = max(1, min(num_samples, _PENDING_ELEMENTS // first.residual.shape[1]))
        self.room = Projected._make(None if part is None else part.new_empty((rows, *part.shape[1:])) for part in first)
        self.filled = 0

    def fits(self, batch: Projected) -> bool:
        """Return whether there is room for a batch."""
        return self.filled + len(batch.labels) <= len(self.room.labels)

    def add(self, batch: Projected) -> None:
        """Add a batch that fits."""
        end = self.filled + len(batch.labels)
        for room, part in zip(self.room, batch, strict=True):
            if room is not None and part is not None:
                room[self.filled : end] = part
        self.filled = end

    def take(self) -> Projected:
        """Remove and return the waiting samples."""
        filled, self.filled = self.filled, 0
        return Projected._make(None if part is None else part[:filled] for part in self.room)


class DecisionSums:
    """Sums of decisions at all layers by given centers. Projected batches wait until there are enough for one call."""

    # The centers and the counts of the data have the classes of the selection, if there is one; labels count all classes.
    # `left_out` also decides each sample by the means of the others, if the centers are means of these samples.

    def __init__(
        self,
        centers: Mapping[str, ClassCenters],
        counts: Mapping[str, Tensor],
        workspace: Workspace,
        selection: ClassSelection | None = None,
        *,
        left_out: bool = False,
    ) -> None:
        self.centers, self.counts, self.selection = dict(centers), counts, selection
        self.left_out, self.workspace = left_out, workspace
        self.pending: dict[str, _Pending] = {}
        self.sums: dict[str, ClassDecisions] = {}

    def project(
        self, name: str, features: Tensor, labels: Tensor, classifier: LinearClassifier | None, *, choose: bool = False
    ) -> Projected | None:
        """Project one batch at one layer, None without centers; with ``choose`` the classifier makes the choices."""
        if name not in self.centers:
            return None
        device = features.device
        if self.centers[name].basis.device != device:
            self.centers[name] = self.centers[name].to(device)
        classifier = None if classifier is None else classifier.to(device)
        centers, more = self.centers[name], {"squares": self.left_out, "choose": choose}
        return Projected.from_batch(features, labels, centers, classifier, None, self.workspace, self.selection, **more)

    def add(self, name: str, batch: Projected) -> None:
        """Add one projected batch at one layer; the network's choices count all classes."""
        if batch.chosen is not None and self.selection is not None:
            # A choice outside of the selection is wrong, and agrees with no center.
            batch = batch._replace(chosen=self.selection.renumber(batch.chosen.long()))
        if name not in self.pending:
            self.pending[name] = _Pending(batch, int(self.counts[name].sum()))
        pending = self.pending[name]
        # A large batch in parts: deciding needs K numbers for each of its samples. Large parts need not wait.
        for part in batch.parts(len(pending.room.labels)):
            if not pending.filled and 2 * len(part.labels) > len(pending.room.labels):
                self._decide(name, part)
                continue
            if not pending.fits(part):
                self._decide(name, pending.take())
            pending.add(part)

    def _decide(self, name: str, batch: Projected) -> None:
        centers = self.centers[name]
        part = ClassDecisions.from_projected([batch], centers, self.counts[name].to(centers.basis.device))
        self.sums[name] = self.sums[name].merge_(part) if name in self.sums else part

    def finish(self, processes: Processes) -> dict[str, ClassDecisions]:
        """Merge the sums of all processes, on the CPU."""
        for name, pending in self.pending.items():
            if pending.filled or name not in self.sums:
                self._decide(name, pending.take())
        return merge_layers(ClassDecisions, self.sums, self.centers, processes)
