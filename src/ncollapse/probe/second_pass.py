"""The second pass, over kept features or the data again: the sums around the final class means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.groups import Processes
from ncollapse.measurement.totals import Totals, merged
from ncollapse.probe.decision_sums import DecisionSums
from ncollapse.probe.kgon_rows import KgonRows
from ncollapse.probe.layer_batch import Batch, CheckedLayers, LayerBatch, along_path, parts_of_rows
from ncollapse.probe.request import Request
from ncollapse.statistics.batch import Workspace
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.projected import Projected

# Starts a pass over the data.
Source = Callable[[], Iterator[Batch]]
# A function of the moments of all layers that returns the classifier by the layer that feeds it.
Classifiers = Callable[[Mapping[str, ClassMoments]], Mapping[str, LinearClassifier]]


class SecondPass:
    """The sums around the final class means."""

    def __init__(
        self, totals: Totals, request: Request, reference: Mapping[str, ClassCenters], workspace: Workspace | None = None
    ) -> None:
        self.totals, self.request = totals, request
        self.workspace = workspace = Workspace() if workspace is None else workspace
        self.path_means: dict[str, Tensor] = {}
        if request.path:
            self.path_means = {name: moments.global_mean("sample") for name, moments in totals.moments.items()}
        self.paired = totals.paired
        counts = {name: value.counts for name, value in totals.moments.items()}
        left_out = "left_out" in request.needs
        self.decided = DecisionSums(totals.centers, counts, workspace, totals.selection, left_out=left_out)
        self.among_reference = request.among_reference(totals.selection)
        if self.among_reference is not None:
            counts = {
                name: torch.zeros_like(centers.moments.counts).index_copy_(0, self.among_reference, counts[name])
                for name, centers in reference.items()
            }
        self.by_reference = DecisionSums(reference, counts, workspace, request.reference_selection)
        self.last = totals.last_layer
        self.choices = ClassifierChoices.empty(request.num_classes)
        self.sampled = KgonRows(totals.own_counts)
        self.index = 0

    def add(self, batch: Batch) -> None:
        """Add one batch; it is checked again, since the data of a second pass may differ."""
        place = self.request.place(self.index, second=True)
        selection = self.totals.selection
        layers = CheckedLayers(batch.labels, self.request.num_classes, place, self.totals.moments, selection)
        labels = layers.labels if selection is None else selection.renumber(layers.labels)
        self.sampled.begin_batch(labels, layers.rows, len(batch.labels))
        held: dict[str, Tensor] = {}
        waiting: list[tuple[DecisionSums, Projected, slice]] = []

        def receive(name: str, features: Tensor) -> None:
            features = layers.take(name, features)
            if not len(layers.labels):
                return
            for rows in parts_of_rows(len(layers.labels), self.request.num_classes, features.shape[1]):
                found = self._project(name, features[rows], layers.labels[rows], rows.start)
                waiting.extend((decided, projected, rows) for decided, projected in found)
            if self.request.path:
                held[name] = features

        choices, _ = batch.stream(receive, bool(self.request.path))
        layers.finish()
        chosen = None if choices is None else layers.selected(choices)
        for decided, projected, rows in waiting:
            decided.add(self.last, projected._replace(chosen=None if chosen is None else chosen[rows]))
        if held and self.paired is not None:
            self._add_path(LayerBatch(held, labels.to(layers.labels.device)), self.paired)
        self.index += 1

    def _project(self, name: str, features: Tensor, labels: Tensor, start: int) -> list[tuple[DecisionSums, Projected]]:
        """Project rows of a batch at one layer and add them, unless it is the last layer, which waits for the logits."""
        classifier = self.totals.classifiers.get(name)
        decides = classifier is not None and self.totals.choices is None
        # Also if only paths are needed: these sums show whether a second forward pass saw the same features.
        found: list[tuple[DecisionSums, Projected]] = []
        for decided in (self.decided, self.by_reference):
            projected = decided.project(name, features, labels, classifier, choose=decides and not found)
            if projected is not None:
                found.append((decided, projected))
            if projected is not None and decided is self.decided:
                self.sampled.add_layer(name, projected.residual, decided.centers[name].coordinates, start)
        if classifier is None or not decides:
            if name == self.last:
                return found
            choices = None
        else:
            choices = found[0][1].chosen if found else classifier.to(features.device).choices(features)
            if choices is not None:
                part = ClassifierChoices.from_batch(choices, labels, self.request.num_classes)
                self.choices = self.choices.merge(part.to("cpu"))
        for decided, projected in found:
            decided.add(name, projected._replace(chosen=choices))
        return []

    def _add_path(self, batch: LayerBatch, paired: PairedMoments) -> None:
        into, device = self.totals, batch.labels.device
        along = along_path(batch, self.request.path)
        layers = list(along.values())
        means = [self.path_means[name].to(device) for name in along]
        if paired.cross_traces.device != device:
            self.paired = paired = paired.to(device)
        self.sampled.add_paths(layers, means)
        into.path = merged(into.path, PathStatistics.from_batch(layers, means, self.workspace))
        into.line = merged(into.line, LineDecisions.from_batch(layers[0], layers[-1], batch.labels, paired))
        into.arcs = merged(into.arcs, ClassArcs.from_batch(layers[0], batch.labels, paired))

    def finish(self, processes: Processes) -> None:
        """Merge the totals of all processes, on the CPU, and check that a second pass saw the features of the first."""
        into = self.totals
        if into.choices is None and into.classifiers:
            into.choices = processes.merge(ClassifierChoices, self.choices)
            if into.choices is not None and into.selection is not None:
                into.choices = into.choices.select(into.selection.classes)
        into.within = self.decided.finish(processes)
        # The process that writes needs it, and no other.
        into.sample = self.sampled.finish(self.decided.centers) if processes.is_first else None
        by_reference = self.by_reference.finish(processes)
        if self.among_reference is not None:
            by_reference = {name: value.select(self.among_reference) for name, value in by_reference.items()}
        into.decisions = {**into.within, **by_reference}
        if self.request.path:
            into.path = processes.merge(PathStatistics, into.path)
            into.line = processes.merge(LineDecisions, into.line)
            into.arcs = processes.merge(ClassArcs, into.arcs)
        for name in into.centers:
            self._check_same_features(name, into.centers[name], into.within.get(name))

    def _check_same_features(self, name: str, centers: ClassCenters, decisions: ClassDecisions | None) -> None:
        """Check that the second pass saw the features of the first: only then do residuals around its means sum to zero."""
        if decisions is not None and self._same_features(centers, decisions):
            return
        if self.totals.passes == 1:
            raise ValueError(
                f"Kept features must not change, but those of layer {name!r} did: a module writes every output into the same "
                "buffer. Pass memory_budget=0 for a second pass."
            )
        raise ValueError(
            f"The second pass must see the features of the first, but they differ at layer {name!r}. Turn off random "
            "augmentation and drop_last, or raise memory_budget so that one pass is enough."
        )

    def _same_features(self, centers: ClassCenters, decisions: ClassDecisions) -> bool:
        moments = centers.moments
        drift = torch.linalg.vector_norm(decisions.residual_sums, dim=1) / moments.counts
        spread = (moments.class_variances + centers.coordinates.square().sum(dim=1)).sqrt()
        # Relative to the spread of the features, but not below the rounding of float32 for features far from the origin.
        tolerance = 1e-5 * spread + 2e-7 * torch.linalg.vector_norm(moments.means, dim=1)
        return torch.equal(decisions.counts.long(), moments.counts) and not bool((drift > tolerance).any())


def complete(
    totals: Totals,
    kept: Iterable[LayerBatch] | None,
    request: Request,
    again: Source | None,
    classifiers: Classifiers | None,
    processes: Processes,
    workspace: Workspace | None = None,
) -> Totals:
    """Add the sums around the final class means to those of a first pass, if its features were kept or ``again`` is given."""
    # Decisions, and the within-class covariance on the span of the means, need the final class means, which are known only
    # after all data was read. Kept features save a second forward pass, which costs as much as the first. But they need the
    # memory of all layers' outputs, so they are kept only within a budget. Both ways sum the same numbers in the same order.
    totals.classifiers = {} if classifiers is None else classifiers(totals.moments)
    deciding = _deciding(request.reference_centers, totals.moments)
    among = request.among_reference(totals.selection)
    totals.by_reference = {
        name: centers.moments if among is None else centers.moments.select(among) for name, centers in deciding.items()
    }
    if not request.needs_features_again or (kept is None and again is None):
        return totals
    totals.passes = 2 if kept is None else 1
    second = SecondPass(totals, request, deciding, workspace)
    with processes.sharing_errors():
        batches: Iterable[Batch] = (part for batch in kept or () for part in batch.parts(request.num_classes))
        if kept is None and again is not None:
            batches = again()
        for batch in batches:
            second.add(batch)
    second.finish(processes)
    return totals


def _deciding(
    reference: Mapping[str, ClassCenters | None] | None, moments: Mapping[str, ClassMoments]
) -> dict[str, ClassCenters]:
    """Return the reference's centers after checking that layers and dimensions match."""
    if reference is None:
        return {}
    deciding = {}
    for name, own in moments.items():
        if name not in reference:
            raise ValueError(
                f"reference must have layer {name!r}, got one with {', '.join(reference)}. "
                "Measure both splits with the same layers and classifier."
            )
        centers = reference[name]
        if centers is not None and centers.moments.dim != own.dim:
            raise ValueError(
                f"reference must have {own.dim} features at layer {name!r} like the data, got {centers.moments.dim}. "
                "Measure both splits with one network."
            )
        if centers is not None:
            deciding[name] = centers
    return deciding
