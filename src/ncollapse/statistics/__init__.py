"""Statistics of features: frozen values that can be merged.

Every statistic is in float64 on the device of the features. ``merge`` is associative and commutative up to rounding, and
``empty`` is neutral, so that streaming over batches, resuming and adding up processes are one operation. Features have shape
(N, ...), any floating dtype; trailing dimensions are flattened. Labels are class indices in [0, K), shape (N,). ``weights`` of
classes are "class" for 1/K each or "sample" for n_k/N. Traces and covariances are in units of squared features.
"""

from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import ClassWeights, Convention
from ncollapse.statistics.cross_moments import CrossMoments
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.parts import ClassParts
from ncollapse.statistics.scatter import ClassScatter
from ncollapse.statistics.selection import SelectedClasses, select_classes

__all__ = [
    "ClassCenters",
    "ClassDecisions",
    "ClassMoments",
    "ClassParts",
    "ClassScatter",
    "ClassWeights",
    "ClassifierChoices",
    "Convention",
    "CrossMoments",
    "LinearClassifier",
    "PairedMoments",
    "SelectedClasses",
    "select_classes",
]
