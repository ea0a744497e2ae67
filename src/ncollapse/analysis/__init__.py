"""Analyses of one network that need more than class means: probes, spectra, regression collapse, energies, local elasticity."""

from ncollapse.analysis.block_energy import weight_decay_bounds
from ncollapse.analysis.cut_network import Truncated, Truncation
from ncollapse.analysis.diagnosis import Diagnosis, diagnose
from ncollapse.analysis.elasticity import Elasticity, local_elasticity
from ncollapse.analysis.few_shot import FewShot, few_shot_accuracy
from ncollapse.analysis.linear_probe import least_squares_probe, squared_error
from ncollapse.analysis.regression_collapse import (
    regression_alignment,
    regression_duality,
    regression_error,
    regression_noise,
)
from ncollapse.analysis.representation import alpha_req, lidar, moments_cka, rankme
from ncollapse.analysis.residual_alignment import ResidualAlignment, residual_alignment
from ncollapse.analysis.strangers import false_positive_rate
from ncollapse.analysis.tag_averages import TagAverage, tag_averages
from ncollapse.analysis.truncation import truncate

__all__ = [
    "Diagnosis",
    "Elasticity",
    "FewShot",
    "ResidualAlignment",
    "TagAverage",
    "Truncated",
    "Truncation",
    "alpha_req",
    "diagnose",
    "false_positive_rate",
    "few_shot_accuracy",
    "least_squares_probe",
    "lidar",
    "local_elasticity",
    "moments_cka",
    "rankme",
    "regression_alignment",
    "regression_duality",
    "regression_error",
    "regression_noise",
    "residual_alignment",
    "squared_error",
    "tag_averages",
    "truncate",
    "weight_decay_bounds",
]
