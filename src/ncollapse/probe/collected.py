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
    """What to collect.

    Attributes:
        num_classes: K.
        memory_budget: Bytes that kept features may take.
        centers: Whether decisions around the final class means are wanted.
        scatter: Whether full d×d scatter matrices are wanted.
        path: Whether the paths from the first layer to the last are wanted.
        where: Words that place an error, such as " at epoch 3".
        one_pass: Whether what needs the final class means is left out, instead of an error, where the features were not kept
            and there is no second pass.
    """

    num_classes: int
    memory_budget: int
    centers: bool = True
    scatter: bool = False
    path: bool = False
    where: str = ""
    one_pass: bool = False


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
