"""Collecting: one streamed pass over all layers, then what needs the final class means, from kept features or a second pass."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.statistics.batch import LabelGroups, check_labels
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.decisions import ClassDecisions, Projected
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.reduce import Processes
from ncollapse.statistics.scatter import ClassScatter

# Projected features of one layer that wait to be decided: 8 MB.
_WAITING_ELEMENTS = 2**20


class LayerBatch(NamedTuple):
    """Features of all layers for one batch.

    Attributes:
        features: Flat features (N, d) by layer name, in order of depth.
        labels: Class indices, shape (N,).
        own_input: The layer that is nothing but what the classifier takes, if there is one.
    """

    features: dict[str, Tensor]
    labels: Tensor
    own_input: str | None = None


@dataclass(frozen=True)
class CollectOptions:
    """What to collect.

    Attributes:
        num_classes: K.
        memory_budget: Bytes that kept features may take.
        centers: Whether decisions around the final class means are wanted.
        scatter: Whether full d×d scatter matrices are wanted.
        path: Whether the paths from the first layer to the last are wanted.
        where: Words that place an error, such as " at epoch 3".
    """

    num_classes: int
    memory_budget: int
    centers: bool = True
    scatter: bool = False
    path: bool = False
    where: str = ""


@dataclass
class Collected:
    """What one measurement has collected.

    Attributes:
        moments: Class moments by layer.
        scatters: Scatter matrices by layer, when asked for.
        centers: Prepared class means by layer; a layer with an empty class or coinciding means has none.
        within: Sums around each layer's own class means.
        decisions: Decisions by the training set's class means; the same objects as ``within`` on the training set.
        by_reference: Moments of the training set at the layers that it decided.
        paired: Joint moments of the first and last layer, when paths are wanted.
        path: Path statistics, when wanted.
        line: Decisions on the straight line, when wanted.
        arcs: Arcs of the graph on classes, for optimality of the map onto the last class means, when paths are wanted.
        passes: Forward passes over the data: 1 with kept features, 2 without.
        kept_bytes: Size of the kept features, those of all processes together; 0 after a second pass.
    """

    moments: dict[str, ClassMoments] = field(default_factory=dict)
    scatters: dict[str, ClassScatter] = field(default_factory=dict)
    centers: dict[str, ClassCenters] = field(default_factory=dict)
    within: dict[str, ClassDecisions] = field(default_factory=dict)
    decisions: dict[str, ClassDecisions] = field(default_factory=dict)
    by_reference: dict[str, ClassMoments] = field(default_factory=dict)
    paired: PairedMoments | None = None
    path: PathStatistics | None = None
    line: LineDecisions | None = None
    arcs: ClassArcs | None = None
    passes: int = 1
    kept_bytes: int = 0


Source = Callable[[], Iterator[LayerBatch]]
Classifiers = Callable[[], Mapping[str, LinearClassifier]]


def collect(
    source: Source,
    options: CollectOptions,
    classifiers: Classifiers = dict,
    reference: Mapping[str, ClassCenters | None] | None = None,
    *,
    repeatable: bool = True,
    processes: Processes | None = None,
) -> Collected:
    """Collect the statistics of all layers.

    Args:
        source: Starts a pass over the data.
        options: What to collect.
        classifiers: Called after the first pass: the classifier by the layer that feeds it.
        reference: Centers of the training set that decide on another split, None for a layer without; None for all decides
            by the data's own.
        repeatable: Whether a second pass is possible.
        processes: Those that share the data, each with its own source; None for this one alone.

    Returns:
        The statistics of all processes, on the CPU.

    Raises:
        ValueError: If there is no data, features are not finite, or a second pass is needed and not possible or different.
    """
    processes = Processes() if processes is None else processes
    first = FirstPass(options)
    with processes.together():
        for batch in source():
            first.add(batch)
    return complete(first, source if repeatable else None, classifiers, reference, processes)


def complete(
    first: FirstPass,
    source: Source | None,
    classifiers: Classifiers,
    reference: Mapping[str, ClassCenters | None] | None,
    processes: Processes,
) -> Collected:
    """Add what needs the final class means to a first pass: from the kept features, else from a second pass.

    Args:
        first: The first pass, all batches added.
        source: Starts a second pass; None where there can be none.
        classifiers: As in ``collect``.
        reference: As in ``collect``.
        processes: Those that share the data.

    Returns:
        The statistics of all processes, on the CPU.

    Raises:
        ValueError: As ``collect``.
    """
    options = first.options
    collected = first.finish(processes)
    deciding = _deciding(reference, collected.moments)
    collected.by_reference = {name: centers.moments for name, centers in deciding.items()}
    if not (options.centers or options.path):
        return collected
    with processes.together():
        if first.kept is None and source is None:
            raise ValueError(
                f"The features exceed the memory budget of {options.memory_budget / 2**20:.0f} MiB, so a second pass is "
                "needed, but the batches can be iterated only once. Pass a list or a DataLoader, or raise memory_budget."
            )
    collected.passes = 2 if first.kept is None else 1
    second = _SecondPass(collected, options, classifiers(), deciding)
    with processes.together():
        batches: Iterable[LayerBatch] = first.kept or ()
        if first.kept is None and source is not None:
            batches = source()
        for batch in batches:
            second.add(batch)
    second.finish(processes)
    return collected


class FirstPass:
    """Everything that streams: moments, scatters, paired moments; and the features themselves while they fit the budget."""

    def __init__(self, options: CollectOptions) -> None:
        self.options = options
        self.collected = Collected()
        self.kept: list[LayerBatch] | None = [] if options.centers or options.path else None
        self.index = 0

    def add(self, batch: LayerBatch) -> None:
        """Add one batch to all layers."""
        batch = _checked(batch, self.options, self.index)
        if self.index > 0:
            _check_layers(batch, self.collected.moments, f"in batch {self.index}")
        groups = LabelGroups.from_labels(batch.labels, self.options.num_classes)
        for name, features in batch.features.items():
            self._running(name, features).merge_groups_(features, groups)
        _check_finite(self.collected.moments, batch, self.index, self.options.where)
        if self.options.scatter:
            self._add_scatter(batch)
        if self.options.path:
            self._add_pair(batch)
        self._keep(batch)
        self.index += 1

    def finish(self, processes: Processes) -> Collected:
        """Merge the totals of all processes, on the CPU, and prepare the class means for decisions."""
        collected, options = self.collected, self.options
        names = _names(collected.moments, processes)
        if not names:
            raise ValueError("There is no data: the loader yielded no batch. Check the data set and the loader's drop_last.")
        moments = {name: processes.merge(ClassMoments, collected.moments.get(name)) for name in names}
        collected.moments = {name: value.to("cpu") for name, value in moments.items() if value is not None}
        if options.scatter:
            scatters = {name: processes.merge(ClassScatter, collected.scatters.get(name)) for name in names}
            collected.scatters = {name: value for name, value in scatters.items() if value is not None}
        if options.path:
            paired = processes.merge(PairedMoments, collected.paired)
            collected.paired = None if paired is None else paired.to("cpu")
        if options.centers or options.path:
            self._agree_on_kept(processes)
            collected.centers = _prepared(collected.moments, processes)
        return collected

    def _agree_on_kept(self, processes: Processes) -> None:
        """Where one process needs a second pass, all make one."""
        dropped, kept_bytes = processes.numbers([self.kept is None, self.collected.kept_bytes]).sum(dim=0).tolist()
        if dropped:
            self.kept = None
        self.collected.kept_bytes = 0 if dropped else int(kept_bytes)

    def _running(self, name: str, features: Tensor) -> ClassMoments:
        moments = self.collected.moments
        if name not in moments:
            moments[name] = ClassMoments.empty(self.options.num_classes, features.shape[1], features.device)
        if moments[name].dim != features.shape[1]:
            raise ValueError(
                f"Layer {name!r} has {features.shape[1]} features in batch {self.index} and had {moments[name].dim} before. "
                "Feed inputs of one size, or tap a pooled layer."
            )
        return moments[name]

    def _add_scatter(self, batch: LayerBatch) -> None:
        for name, features in batch.features.items():
            part = ClassScatter.from_batch(features, batch.labels, self.options.num_classes).to("cpu")
            scatters = self.collected.scatters
            scatters[name] = scatters[name].merge(part) if name in scatters else part

    def _add_pair(self, batch: LayerBatch) -> None:
        layers = list(_along_path(batch).values())
        part = PairedMoments.from_batch(layers[0], layers[-1], batch.labels, self.options.num_classes)
        self.collected.paired = part if self.collected.paired is None else self.collected.paired.merge(part)

    def _keep(self, batch: LayerBatch) -> None:
        """Keep the batch while all kept features fit the budget; else drop them all, for a second pass."""
        if self.kept is None:
            return
        size = sum(features.numel() * features.element_size() for features in batch.features.values())
        if self.collected.kept_bytes + size > self.options.memory_budget:
            self.kept, self.collected.kept_bytes = None, 0
            return
        self.collected.kept_bytes += size
        self.kept.append(batch)


def path_layers(dims: Mapping[str, int], own_input: str | None) -> tuple[str, ...]:
    """The layers that paths run through: all, but for a classifier's own input of another dimension, as behind pooling.

    Args:
        dims: Dimension by layer, in order of depth.
        own_input: The layer that is nothing but what the classifier takes, if there is one.

    Returns:
        Their names, in order of depth.
    """
    first = next(iter(dims.values()))
    return tuple(name for name, dim in dims.items() if name != own_input or dim == first)


def _along_path(batch: LayerBatch) -> dict[str, Tensor]:
    """Features of the layers that paths run through."""
    dims = {name: features.shape[1] for name, features in batch.features.items()}
    names = path_layers(dims, batch.own_input)
    if len(names) < 2 or len({dims[name] for name in names}) != 1:
        raise ValueError(f"path=True needs at least two layers of one dimension, got {dims}. Choose layers of one stage.")
    return {name: batch.features[name] for name in names}


def _names(moments: Mapping[str, ClassMoments], processes: Processes) -> list[str]:
    """The layers, checked to be those of the other processes; of theirs where this one has no data."""
    own = json.dumps([[name, value.dim] for name, value in moments.items()]) if moments else ""
    told = processes.agree("Layers and their dimensions", own)
    return [name for name, _ in json.loads(told[0])] if told else []


def _prepared(moments: Mapping[str, ClassMoments], processes: Processes) -> dict[str, ClassCenters]:
    """Centers of the layers whose classes all have samples."""
    ready = [name for name, value in moments.items() if bool((value.counts > 0).all()) and value.num_classes > 1]
    # By the first process for all: a basis of equal singular values, as at collapse, is another on every kind of machine.
    with processes.together():
        own = {name: ClassCenters.from_moments(moments[name]) for name in ready if processes.rank == 0}
    return {name: processes.hand_out(ClassCenters, own.get(name)) for name in ready}


def _checked(batch: LayerBatch, options: CollectOptions, index: int) -> LayerBatch:
    """Check the labels once for all layers, and bring them to the features."""
    first = next(iter(batch.features.values()))
    try:
        labels = check_labels(batch.labels, len(batch.labels), options.num_classes)
    except (TypeError, ValueError) as error:
        raise type(error)(f"Batch {index}{options.where}: {error}") from error
    for name, features in batch.features.items():
        if features.shape[0] != len(labels):
            raise ValueError(
                f"Layer {name!r} has {features.shape[0]} rows for {len(labels)} labels in batch {index}{options.where}. "
                "Tap a layer with one row a sample, the sample's dimension first."
            )
    # No float64 on Apple's GPUs: statistics are taken on the CPU there.
    device = torch.device("cpu") if first.device.type == "mps" else first.device
    moved = {name: features.to(device) for name, features in batch.features.items()}
    return batch._replace(features=moved, labels=labels.to(device))


def _check_layers(batch: LayerBatch, known: Mapping[str, ClassMoments], when: str) -> None:
    differing = sorted(batch.features.keys() ^ known.keys())
    if differing:
        name = differing[0]
        words = "ran" if name in batch.features else "did not run"
        raise ValueError(f"Layer {name!r} {words} {when}, unlike before. Name layers that always run.")


def _check_finite(moments: Mapping[str, ClassMoments], batch: LayerBatch, index: int, where: str) -> None:
    # One number a layer, one synchronization a batch: a sum is finite only if everything in it is.
    sums = torch.stack([moments[name].scatter_traces.sum() + moments[name].means.sum() for name in batch.features])
    finite = torch.isfinite(sums)
    if not bool(finite.all()):
        name = list(batch.features)[int((~finite).nonzero()[0])]
        bad = int((~torch.isfinite(batch.features[name])).any(dim=1).sum())
        raise ValueError(
            f"Layer {name!r} has NaN or infinite features in {bad} samples of batch {index}{where}. "
            "Check the network for divergence (learning rate, clipping) and the inputs for NaN."
        )


class _Decided:
    """Decisions at all layers by given centers; projected batches wait until there are enough to be decided at once."""

    def __init__(self, centers: Mapping[str, ClassCenters], counts: Mapping[str, Tensor]) -> None:
        self.centers, self.counts = dict(centers), counts
        self.waiting: dict[str, list[Projected]] = {name: [] for name in centers}
        self.sums: dict[str, ClassDecisions] = {}

    def add(self, batch: LayerBatch, classifiers: Mapping[str, LinearClassifier]) -> None:
        """Project one batch at every layer."""
        for name, waiting in self.waiting.items():
            features, classifier = batch.features[name], classifiers.get(name)
            if self.centers[name].basis.device != features.device:
                self.centers[name] = self.centers[name].to(features.device)
            classifier = None if classifier is None else classifier.to(features.device)
            waiting.append(Projected.from_batch(features, batch.labels, self.centers[name], classifier))
            if sum(part.residual.numel() for part in waiting) > _WAITING_ELEMENTS:
                self._decide(name)

    def _decide(self, name: str) -> None:
        centers = self.centers[name]
        part = ClassDecisions.from_projected(self.waiting[name], centers, self.counts[name].to(centers.basis.device))
        self.sums[name] = self.sums[name].merge(part) if name in self.sums else part
        self.waiting[name].clear()

    def finish(self, processes: Processes) -> dict[str, ClassDecisions]:
        """The sums of all processes, on the CPU."""
        for name, waiting in self.waiting.items():
            if waiting:
                self._decide(name)
        values = {name: processes.merge(ClassDecisions, self.sums.get(name)) for name in self.centers}
        return {name: value.to("cpu") for name, value in values.items() if value is not None}


class _SecondPass:
    """Everything that is summed around the final class means."""

    def __init__(
        self,
        collected: Collected,
        options: CollectOptions,
        classifiers: Mapping[str, LinearClassifier],
        reference: Mapping[str, ClassCenters],
    ) -> None:
        self.collected, self.options, self.classifiers = collected, options, classifiers
        self.path_means: dict[str, Tensor] = {}
        if options.path:
            self.path_means = {name: moments.global_mean("sample") for name, moments in collected.moments.items()}
        self.paired = collected.paired
        self.decided = _Decided(collected.centers, {name: value.counts for name, value in collected.moments.items()})
        self.by_reference = _Decided(reference, self.decided.counts)
        self.index = 0

    def add(self, batch: LayerBatch) -> None:
        """Add one batch, checked again: a second pass may bring other data."""
        batch = _checked(batch, self.options, self.index)
        self.index += 1
        into = self.collected
        _check_layers(batch, into.moments, "in the second pass")
        # For paths alone too: the sums around the class means tell whether a second forward pass saw the same features.
        for decided in (self.decided, self.by_reference):
            decided.add(batch, self.classifiers)
        if self.options.path and self.paired is not None:
            along = _along_path(batch)
            layers, device = list(along.values()), batch.labels.device
            means = [self.path_means[name].to(device) for name in along]
            if self.paired.cross_traces.device != device:
                self.paired = self.paired.to(device)
            path = PathStatistics.from_batch(layers, means)
            line = LineDecisions.from_batch(layers[0], layers[-1], batch.labels, self.paired)
            into.path = path if into.path is None else into.path.merge(path)
            into.line = line if into.line is None else into.line.merge(line)
            arcs = ClassArcs.from_batch(layers[0], batch.labels, self.paired)
            into.arcs = arcs if into.arcs is None else into.arcs.merge(arcs)

    def finish(self, processes: Processes) -> None:
        """Merge the totals of all processes, on the CPU, and check that a second pass saw the features of the first."""
        into = self.collected

        into.within = self.decided.finish(processes)
        into.decisions = {**into.within, **self.by_reference.finish(processes)}
        if self.options.path:
            into.path = processes.merge(PathStatistics, into.path)
            into.line = processes.merge(LineDecisions, into.line)
            into.arcs = processes.merge(ClassArcs, into.arcs)
        for name in into.centers:
            self._check_same_features(name, into.moments[name], into.within.get(name))

    def _check_same_features(self, name: str, moments: ClassMoments, decisions: ClassDecisions | None) -> None:
        """Residuals around the first pass's class means sum to zero only over the features that gave those means."""
        if decisions is not None and self._same_features(moments, decisions):
            return
        if self.collected.passes == 1:
            raise ValueError(
                f"The kept features of layer {name!r} changed after they were taken: a module writes its output into one "
                "buffer again and again. Pass memory_budget=0 for a second pass."
            )
        raise ValueError(
            f"The second pass saw other features than the first at layer {name!r}. Turn off random augmentation and "
            "drop_last, or raise memory_budget so that one pass is enough."
        )

    def _same_features(self, moments: ClassMoments, decisions: ClassDecisions) -> bool:
        drift = torch.linalg.vector_norm(decisions.residual_sums, dim=1) / moments.counts
        spread = (moments.class_variances + moments.centered_means().square().sum(dim=1)).sqrt()
        # What the spread of the features can tell, and no less than float32 can hold of features far from the origin.
        tolerance = 1e-5 * spread + 2e-7 * torch.linalg.vector_norm(moments.means, dim=1)
        return torch.equal(decisions.counts.long(), moments.counts) and not bool((drift > tolerance).any())


def _deciding(
    reference: Mapping[str, ClassCenters | None] | None, moments: Mapping[str, ClassMoments]
) -> dict[str, ClassCenters]:
    """The reference's centers, checked to be of the same layers."""
    if reference is None:
        return {}
    deciding = {}
    for name, own in moments.items():
        if name not in reference:
            raise ValueError(
                f"The reference has no layer {name!r}, so its class means cannot decide there. It has: "
                f"{', '.join(reference)}. Measure both splits with the same layers and classifier."
            )
        centers = reference[name]
        if centers is not None and centers.moments.dim != own.dim:
            raise ValueError(
                f"The reference has {centers.moments.dim} features at layer {name!r}, the data {own.dim}. "
                "Measure both splits with one network."
            )
        if centers is not None:
            deciding[name] = centers
    return deciding
