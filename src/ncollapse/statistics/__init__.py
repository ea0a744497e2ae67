"""Statistics of features: frozen values that can be merged."""

from ncollapse.statistics.centers import ClassCenters, LinearClassifier
from ncollapse.statistics.conventions import ClassWeights, Convention
from ncollapse.statistics.decisions import ClassDecisions, ClassifierChoices
from ncollapse.statistics.moments import ClassMoments
from ncollapse.statistics.paired import PairedMoments
from ncollapse.statistics.scatter import ClassScatter
from ncollapse.statistics.selection import SelectedClasses, select_classes

__all__ = [
    "ClassCenters",
    "ClassDecisions",
    "ClassMoments",
    "ClassScatter",
    "ClassWeights",
    "ClassifierChoices",
    "Convention",
    "LinearClassifier",
    "PairedMoments",
    "SelectedClasses",
    "select_classes",
]
