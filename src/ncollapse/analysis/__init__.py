"""Analyses of one network that need more than class means: probes, spectra, regression collapse, energies, local elasticity."""

from ncollapse.analysis.block_energy import weight_decay_bounds
from ncollapse.analysis.elasticity import Elasticity, local_elasticity
from ncollapse.analysis.linear_probe import least_squares_probe, squared_error
from ncollapse.analysis.regression_collapse import (
    regression_alignment,
    regression_duality,
    regression_error,
    regression_noise,
)
from ncollapse.analysis.representation import alpha_req, lidar, moments_cka, rankme

__all__ = [
    "Elasticity",
    "alpha_req",
    "least_squares_probe",
    "lidar",
    "local_elasticity",
    "moments_cka",
    "rankme",
    "regression_alignment",
    "regression_duality",
    "regression_error",
    "regression_noise",
    "squared_error",
    "weight_decay_bounds",
]
