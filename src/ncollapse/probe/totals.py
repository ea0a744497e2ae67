"""What a measurement is to collect, and what it has collected."""

from __future__ import annotations

from dataclasses import dataclass, field

from ncollapse.depth.class_arcs import ClassArcs
from ncollapse.depth.geodesic import LineDecisions
from ncollapse.depth.path import PathStatistics
from ncollapse.statistics.centers import ClassCenters
from ncollapse.statistics.decisions import ClassDecisions
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.scatter import ClassScatter


@dataclass(frozen=True)
class CollectOptions:
    """What to collect."""

    num_classes: int
    memory_budget: int
    centers: bool = True
    scatter: bool = False
    path: bool = False
    where: str = ""
    one_pass: bool = False


@dataclass
class Collected:
    """What one measurement has collected."""

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
