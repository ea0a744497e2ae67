"""All experiments by name."""

from __future__ import annotations

from fnmatch import fnmatchcase

from ncollapse.experiments.deep import DEEP_EXPERIMENTS
from ncollapse.experiments.experiment import Experiment
from ncollapse.experiments.language import LANGUAGE_EXPERIMENTS
from ncollapse.experiments.other_papers import ALIGNMENT_EXPERIMENTS, LAW_EXPERIMENTS
from ncollapse.experiments.pfc import PFC_EXPERIMENTS
from ncollapse.experiments.pfc_theory import PFC_THEORY
from ncollapse.experiments.review_depth import DEPTH_EXPERIMENTS
from ncollapse.experiments.review_elasticity import ELASTICITY_EXPERIMENTS
from ncollapse.experiments.review_imbalance import IMBALANCE_EXPERIMENTS
from ncollapse.experiments.review_strangers import STRANGERS_EXPERIMENTS
from ncollapse.experiments.review_testing import TESTING_EXPERIMENTS
from ncollapse.experiments.review_theory import THEORY_EXPERIMENTS
from ncollapse.experiments.review_training import TRAINING_EXPERIMENTS
from ncollapse.experiments.review_transfer import TRANSFER_EXPERIMENTS
from ncollapse.near_words import near_words

_ALL = (
    *PFC_EXPERIMENTS,
    *PFC_THEORY,
    *DEEP_EXPERIMENTS,
    *THEORY_EXPERIMENTS,
    *TRAINING_EXPERIMENTS,
    *ELASTICITY_EXPERIMENTS,
    *TESTING_EXPERIMENTS,
    *DEPTH_EXPERIMENTS,
    *TRANSFER_EXPERIMENTS,
    *STRANGERS_EXPERIMENTS,
    *IMBALANCE_EXPERIMENTS,
    *LAW_EXPERIMENTS,
    *ALIGNMENT_EXPERIMENTS,
    *LANGUAGE_EXPERIMENTS,
)
EXPERIMENTS: dict[str, Experiment] = {experiment.name: experiment for experiment in _ALL}


def experiments_named(names: list[str]) -> list[Experiment]:
    """Return the experiments of these names or patterns, such as ``review:*``, in the order of the catalog.

    Raises:
        ValueError: If a name is that of none; near ones are named.
    """
    for name in names:
        if not any(fnmatchcase(known, name) for known in EXPERIMENTS):
            raise ValueError(f"No experiment {name!r}. {near_words(name, EXPERIMENTS)}List all with: ncollapse reproduce.")
    return [experiment for known, experiment in EXPERIMENTS.items() if any(fnmatchcase(known, name) for name in names)]
