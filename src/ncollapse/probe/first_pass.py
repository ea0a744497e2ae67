"""The passes over the data, of which the first takes sums that need no class means and keeps features within a budget."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor

from ncollapse.groups import Merging, Processes
from ncollapse.measurement.totals import Totals, merge_layers, merged
from ncollapse.probe.layer_batch import Batch, CheckedLayers, LayerBatch, along_path
from ncollapse.probe.memory import FeatureMemory, check_scatter_fits
from ncollapse.probe.request import Request
from ncollapse.probe.second_pass import Classifiers, Source, complete
from ncollapse.statistics.batch import Workspace
from ncollapse.statistics.centers import UNDECIDED, ClassCenters
from ncollapse.statistics.decisions import ClassifierChoices
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.parts import ClassParts
from ncollapse.statistics.scatter import ClassScatter
from ncollapse.statistics.side_by_side import RunningMoments, stacked_moments

NO_DATA = (
    "There is no data: the loader yielded no batch with a label that counts. Check the data set and the loader's drop_last."
)


def collect(
    source: Source,
    request: Request,
    budget: int,
    classifiers: Classifiers | None = None,
    *,
    repeatable: bool = True,
    processes: Processes | None = None,
) -> Totals:
    """Collect the statistics of all layers, in one pass or two."""
    # How a batch becomes class sums: FirstPass.add calls NetworkBatch.stream (layer_batch.py), which runs the network. In each
    # hook TapHooks._keep (hooks/tap_hooks.py) selects the rows with labels (hooks/label_rows.py) and passes them to
    # ``receive`` of FirstPass.add, which adds them by ClassMoments.merge_groups_ (statistics/moments.py).
    processes = Processes() if processes is None else processes
    first = FirstPass(request, budget)
    with processes.sharing_errors():
        for batch in source():
            first.add(batch)

    def refuse() -> Iterator[Batch]:
        raise ValueError(
            f"The features exceed the memory budget of {budget / 2**20:.0f} MiB, so a second pass is needed, but the batches "
            "can be iterated only once. Pass a list or a DataLoader, or raise memory_budget."
        )

    totals = first.finish(processes)
    again = source if repeatable else refuse
    return complete(totals, first.kept, request, again, classifiers, processes, first.workspace)


class FirstPass:
    """Moments, scatters and paired moments, and the features themselves as long as they fit the budget."""

    def __init__(self, request: Request, budget: int) -> None:
        self.request, self.budget = request, budget
        self.totals = Totals()
        self.workspace = Workspace()
        self.memory = FeatureMemory()
        self.running = RunningMoments()
        wanted = request.needs_features_again and budget > 0
        self.kept: list[LayerBatch] | None = [] if wanted else None
        self.index = 0

    def __getstate__(self) -> dict[str, object]:
        # Kept features share large blocks, of which a copy would contain the unused part too.
        def apart(batch: LayerBatch) -> LayerBatch:
            return batch._replace(features={name: features.clone() for name, features in batch.features.items()})

        kept = None if self.kept is None else [apart(batch) for batch in self.kept]
        return self.__dict__ | {"kept": kept, "memory": FeatureMemory(), "workspace": Workspace(), "running": RunningMoments()}

    def add(self, batch: Batch) -> None:
        """Add one batch to all layers, each layer while its features are still in the cache."""
        moments, request = self.totals.moments, self.request
        place = request.place(self.index)
        layers = CheckedLayers(batch.labels, request.num_classes, place, moments if self.index > 0 else None)
        copied = self.kept is not None and batch.reuses_memory
        hold = (self.kept is not None or bool(request.path)) and not copied
        held: dict[str, Tensor] = {}
        small: dict[str, Tensor] = {}

        def receive(name: str, features: Tensor) -> None:
            features = layers.take(name, features)
            if "parts" in request.needs:
                self._add_parts(name, features, layers.part_labels)
            running = self._running(name, features)
            if "scatter" in request.needs:
                self._add_scatter(name, features, layers.labels)
            if hold or copied:
                held[name] = self.memory.copy(features) if copied else features
            if copied and self.running.takes(features):
                small[name] = held[name]
            else:
                running.merge_groups_(features, layers.groups, self.workspace)

        choices, classifier = batch.stream(receive, hold)
        layers.finish()
        self.running.add_(moments, small, layers.groups, self.workspace)
        _check_finite(moments, layers.groups.present, place)
        if choices is not None:
            choices = choices.to(layers.labels.device)
            _check_decided(choices, classifier, place)
            self._add_choices(choices, layers.labels)
        whole = LayerBatch(held, layers.labels.clone() if copied else layers.labels, choices)
        if request.path:
            self._add_pair(whole)
        self._keep(whole)
        self.index += 1

    def snapshot(self) -> FirstPass:
        """Copy this pass, so that the copy can be finished while more batches are added to this one."""
        copied = FirstPass(self.request, self.budget)
        copied.totals, copied.index = deepcopy(self.totals), self.index
        copied.kept = None if self.kept is None else list(self.kept)
        return copied

    def merge(self, other: FirstPass) -> None:
        """Add the batches of another pass over the same layers, which stays unchanged."""
        own, others = self.totals, other.snapshot().totals
        _check_same_layers(own.moments, others.moments)
        own.moments = _layers_merged(own.moments, others.moments)
        own.scatters = _layers_merged(own.scatters, others.scatters)
        own.parts = _layers_merged(own.parts, others.parts)
        if others.paired is not None:
            own.paired = merged(own.paired, others.paired)
        if others.choices is not None:
            own.choices = merged(own.choices, others.choices)
        self.index += other.index
        own.kept_bytes += others.kept_bytes
        if self.kept is None or other.kept is None or own.kept_bytes > self.budget:
            self.kept, own.kept_bytes = None, 0
        else:
            self.kept += other.kept

    def finish(self, processes: Processes) -> Totals:
        """Merge the totals of all processes, on the CPU, and prepare the class means for decisions."""
        totals, request = self.totals, self.request
        names = _names(totals.moments, processes)
        if not names:
            raise ValueError(NO_DATA)
        own = totals.moments.get(names[0])
        totals.moments = merge_layers(ClassMoments, totals.moments, names, processes)
        # Those of small layers were side by side.
        totals.moments = {name: value.apart() for name, value in totals.moments.items()}
        totals.own_counts = torch.zeros_like(totals.moments[names[0]].counts) if own is None else own.counts.cpu().clone()
        if all(value.num_samples == 0 for value in totals.moments.values()):
            raise ValueError("There is no data: no batch has a sample. Check the data set and the loader's batch size.")
        totals.choices = processes.merge(ClassifierChoices, totals.choices)
        if "scatter" in request.needs:
            totals.scatters = merge_layers(ClassScatter, totals.scatters, names, processes)
        if "parts" in request.needs:
            totals.parts = merge_layers(ClassParts, totals.parts, names, processes)
        if request.path:
            paired = processes.merge(PairedMoments, totals.paired)
            totals.paired = None if paired is None else paired.to("cpu")
        chosen = request.choose_classes(totals.moments[names[0]].counts)
        if chosen.selection is not None:
            totals.select(chosen.selection, chosen.words)
        if request.needs_features_again:
            self._agree_on_kept(processes)
            totals.centers = _prepared(totals.moments, processes)
        return totals

    def _agree_on_kept(self, processes: Processes) -> None:
        """Make all processes read the data a second time if one must."""
        dropped, kept_bytes = processes.gather_numbers([self.kept is None, self.totals.kept_bytes]).sum(dim=0).tolist()
        if dropped:
            self.kept = None
        self.totals.kept_bytes = 0 if dropped else int(kept_bytes)

    def _running(self, name: str, features: Tensor) -> ClassMoments:
        moments = self.totals.moments
        if name not in moments:
            moments[name] = ClassMoments.empty(self.request.num_classes, features.shape[1], features.device)
        if moments[name].dim != features.shape[1]:
            raise ValueError(
                f"Layer {name!r} must have {moments[name].dim} features as before, got {features.shape[1]}"
                f"{self.request.place(self.index)}. Feed inputs of one size, or tap a pooled layer."
            )
        return moments[name]

    def _add_parts(self, name: str, features: Tensor, labels: Tensor) -> None:
        parts = self.totals.parts
        if name not in parts:
            parts[name] = ClassParts.empty(self.request.num_classes, features.shape[1], features.device)
        parts[name].add_(features, labels, self.workspace)

    def _add_scatter(self, name: str, features: Tensor, labels: Tensor) -> None:
        scatters = self.totals.scatters
        if name not in scatters:
            check_scatter_fits(self.request.num_classes, features.shape[1], name)
            scatters[name] = ClassScatter.empty(self.request.num_classes, features.shape[1])
        scatters[name] = scatters[name].add_(features, labels)

    def _add_pair(self, batch: LayerBatch) -> None:
        layers = list(along_path(batch, self.request.path).values())
        part = PairedMoments.from_batch(layers[0], layers[-1], batch.labels, self.request.num_classes, self.workspace)
        self.totals.paired = merged(self.totals.paired, part)

    def _add_choices(self, choices: Tensor, labels: Tensor) -> None:
        part = ClassifierChoices.from_batch(choices, labels, self.request.num_classes).to("cpu")
        self.totals.choices = merged(self.totals.choices, part)

    def _keep(self, batch: LayerBatch) -> None:
        """Keep the batch if all kept features fit the budget; else drop them all, for a second pass."""
        if self.kept is None:
            return
        size = sum(features.numel() * features.element_size() for features in batch.features.values())
        if self.totals.kept_bytes + size > self.budget:
            self.kept, self.totals.kept_bytes = None, 0
            return
        self.totals.kept_bytes += size
        self.kept.append(batch)


def _layers_merged(own: dict[str, Merging], others: dict[str, Merging]) -> dict[str, Merging]:
    return own | {name: merged(own.get(name), value) for name, value in others.items()}


def _names(moments: Mapping[str, ClassMoments], processes: Processes) -> list[str]:
    """Return the layer names after checking that all processes have the same, also if this process has no data."""
    own = json.dumps([[name, value.dim] for name, value in moments.items()]) if moments else ""
    gathered = processes.check_same("Layers and their dimensions", own)
    return [name for name, _ in json.loads(gathered[0])] if gathered else []


def _prepared(moments: Mapping[str, ClassMoments], processes: Processes) -> dict[str, ClassCenters]:
    """Compute the centers of the layers whose classes all have samples."""
    ready = [name for name, value in moments.items() if bool((value.counts > 0).all()) and value.num_classes > 1]
    stacks = stacked_moments({name: moments[name] for name in ready})
    # The first process computes the bases for all: where means are dependent, as those of equal classes, rounding alone decides
    # the basis, and it differs between machines. The rest follows from the basis and the means, so that no K×K distances are
    # sent.
    own: dict[str, Tensor] = {}
    with processes.sharing_errors():
        for names, stack in stacks.items() if processes.is_first else ():
            basis = ClassCenters.basis_of(stack)
            own |= zip(names, basis if len(names) > 1 else [basis], strict=True)
    bases = {name: processes.broadcast(Tensor, own.get(name)) for name in ready}
    found: dict[str, ClassCenters] = {}
    for names, stack in stacks.items():
        if len(names) == 1:
            found[names[0]] = ClassCenters.in_basis(stack, bases[names[0]])
            continue
        whole = ClassCenters.in_basis(stack, torch.stack([bases[name] for name in names]))
        found |= {name: whole.of_layer(index, moments[name]) for index, name in enumerate(names)}
    return {name: found[name] for name in ready}


def _check_same_layers(own: Mapping[str, ClassMoments], others: Mapping[str, ClassMoments]) -> None:
    layers, other_layers = ({name: value.dim for name, value in moments.items()} for moments in (own, others))
    if own and others and layers != other_layers:
        raise ValueError(
            f"Statistics to merge must have the same layers and dimensions, got {layers} and {other_layers}. "
            "Update both with the same layers."
        )


def _check_finite(moments: Mapping[str, ClassMoments], present: Tensor, place: str) -> None:
    # One number per layer and one synchronization per batch: a sum is finite only if all its terms are. Only the batch's own
    # classes are read: of a vocabulary of 50,000 they are few.
    whole = len(present) == next(iter(moments.values())).num_classes
    values = moments.values()
    sums = [
        value.scatter_traces.sum() + value.means.sum()
        if whole
        else value.scatter_traces[present].sum() + value.means[present].sum()
        for value in values
    ]
    finite = torch.isfinite(torch.stack(sums))
    if not bool(finite.all()):
        name = list(moments)[int((~finite).nonzero()[0])]
        classes = (~torch.isfinite(moments[name].scatter_traces)).nonzero().flatten().tolist()
        raise ValueError(
            f"Features must be finite, got NaN or inf at layer {name!r}{place}, of class {', '.join(map(str, classes))}. "
            "Check the network for divergence (learning rate, clipping) and the inputs for NaN."
        )


def _check_decided(choices: Tensor, classifier: str | None, place: str) -> None:
    if bool((choices == UNDECIDED).any()):
        name = "the last layer" if classifier is None else f"classifier {classifier!r}"
        raise ValueError(
            f"The network's logits must be numbers, got NaN{place} although the features are finite. "
            f"Check the weights of {name} for NaN."
        )
