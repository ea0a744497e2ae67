"""The sums of a measurement by layer, and their conversion to the statistics of each layer."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import GeodesicCurve, LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.groups import Merging, Processes
from ncollapse.measurement.kgon_sample import KgonSample
from ncollapse.measurement.path_choice import PathChoice, path_layers
from ncollapse.measurement.paths import Paths
from ncollapse.metrics.layer_statistics import LayerStatistics
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.parts import ClassParts
from ncollapse.statistics.scatter import ClassScatter
from ncollapse.statistics.selection import ClassSelection

Sums = TypeVar("Sums", ClassMoments, ClassParts, ClassScatter, ClassDecisions)


@dataclass(eq=False)
class Totals:
    """The sums of one measurement, by layer; ``by_reference`` are moments of the training set whose means decide."""

    # The moments of a first pass have all classes; `select` restricts them to a selection, in which the rest is summed.

    moments: dict[str, ClassMoments] = field(default_factory=dict)
    scatters: dict[str, ClassScatter] = field(default_factory=dict)
    parts: dict[str, ClassParts] = field(default_factory=dict)
    centers: dict[str, ClassCenters] = field(default_factory=dict)
    within: dict[str, ClassDecisions] = field(default_factory=dict)
    decisions: dict[str, ClassDecisions] = field(default_factory=dict)
    by_reference: dict[str, ClassMoments] = field(default_factory=dict)
    own_counts: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    sample: KgonSample | None = None
    choices: ClassifierChoices | None = None
    classifiers: Mapping[str, LinearClassifier] = field(default_factory=dict)
    selection: ClassSelection | None = None
    left_out: str = ""
    paired: PairedMoments | None = None
    path: PathStatistics | None = None
    line: LineDecisions | None = None
    arcs: ClassArcs | None = None
    passes: int = 1
    kept_bytes: int = 0

    def select(self, selection: ClassSelection, left_out: str) -> None:
        """Restrict the sums of the first pass to some classes; ``left_out`` says in words what that leaves out."""
        classes = selection.classes
        self.selection, self.left_out = selection, left_out
        self.moments = {name: value.select(classes) for name, value in self.moments.items()}
        self.scatters = {name: value.select(classes) for name, value in self.scatters.items()}
        self.parts = {name: value.select(classes) for name, value in self.parts.items()}
        self.paired = None if self.paired is None else self.paired.select(classes)
        self.choices = None if self.choices is None else self.choices.select(classes)
        self.own_counts = self.own_counts[classes]

    def of_layers(self, split: str, convention: Convention) -> dict[str, LayerStatistics]:
        """Return the statistics of each layer, for its metrics."""
        last, classifiers = self.last_layer, self.classifiers
        if self.selection is not None:
            classifiers = {name: head.select(self.selection.classes) for name, head in classifiers.items()}
        return {
            name: LayerStatistics(
                moments=moments,
                centers=self.centers.get(name),
                within=self.within.get(name),
                decisions=self.decisions.get(name),
                classifier=classifiers.get(name),
                scatter=self.scatters.get(name),
                class_parts=self.parts.get(name),
                convention=convention,
                own_means=split != "train" and name not in self.by_reference,
                reference=self.by_reference.get(name),
                choices=self.choices if name == last else None,
            )
            for name, moments in self.moments.items()
        }

    @property
    def last_layer(self) -> str:
        """The layer to which the network's choices belong: the one that feeds the classifier, else the last one."""
        return next(iter(self.classifiers), next(reversed(self.moments)))

    @property
    def dims(self) -> dict[str, int]:
        """The dimension of each layer."""
        return {name: moments.dim for name, moments in self.moments.items()}

    def paths(self, choice: PathChoice, convention: Convention) -> Paths | None:
        """Return the statistics along the samples' paths; None where none were followed."""
        if self.paired is None:
            return None
        # Without kept features and without a second pass only the straight line is known, since it follows from the means.
        layers = () if self.path is None else path_layers(self.dims, choice)
        return Paths(layers, GeodesicCurve(self.paired, convention), self.path, self.line, self.arcs)


def merged(total: Merging | None, part: Merging) -> Merging:
    """Return a total, None if there is none yet, with a part added."""
    return part if total is None else total.merge(part)


def merge_layers(kind: type[Sums], own: Mapping[str, Sums], names: Iterable[str], processes: Processes) -> dict[str, Sums]:
    """Merge the sums of named layers over all processes, on the CPU."""
    values = {name: processes.merge(kind, own.get(name)) for name in names}
    return {name: value.to("cpu") for name, value in values.items() if value is not None}
