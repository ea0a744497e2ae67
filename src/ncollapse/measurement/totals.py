"""Statistics of all layers while a measurement is taken, and how they become those of each layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import GeodesicCurve, LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.measurement.measurement import Paths
from ncollapse.metrics.entry import LayerStatistics
from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import Convention
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.scatter import ClassScatter


@dataclass(eq=False)
class Totals:
    """What one measurement has summed, by layer; ``by_reference`` holds the moments of the training set that decide."""

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

    def of_layers(
        self, classifiers: Mapping[str, LinearClassifier], split: str, convention: Convention
    ) -> dict[str, LayerStatistics]:
        """Everything that the metrics of each layer may use."""
        return {
            name: LayerStatistics(
                moments=moments,
                centers=self.centers.get(name),
                within=self.within.get(name),
                decisions=self.decisions.get(name),
                classifier=classifiers.get(name),
                scatter=self.scatters.get(name),
                convention=convention,
                own_means=split != "train" and name not in self.by_reference,
                reference=self.by_reference.get(name),
            )
            for name, moments in self.moments.items()
        }

    def paths(self, own_input: str | None, convention: Convention) -> Paths | None:
        """What was summed along the samples' paths; None if nobody asked for them."""
        if self.paired is None:
            return None
        dims = {name: moments.dim for name, moments in self.moments.items()}
        # Without kept features and a second pass only the straight line is known: it follows from the means.
        layers = () if self.path is None else path_layers(dims, own_input)
        return Paths(layers, GeodesicCurve(self.paired, convention), self.path, self.line, self.arcs)


def path_layers(dims: Mapping[str, int], own_input: str | None) -> tuple[str, ...]:
    """The layers that paths run through: all, but for a classifier's own input of another dimension, as behind pooling."""
    first = next(iter(dims.values()))
    return tuple(name for name, dim in dims.items() if name != own_input or dim == first)
