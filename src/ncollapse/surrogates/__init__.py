"""Surrogate models of neural collapse: solved, with a proof of how close each solution is to the global minimum."""

from ncollapse.surrogates.critical_point import CriticalPoint, critical_point
from ncollapse.surrogates.imbalance import minority_collapse_ratio, seli_geometry
from ncollapse.surrogates.problem import Certificate, Inequality, NotConverged, Problem, Solution
from ncollapse.surrogates.proximal import Proximal
from ncollapse.surrogates.solvers import LBFGS, GradientDescent
from ncollapse.surrogates.ufm import UFM

__all__ = [
    "LBFGS",
    "UFM",
    "Certificate",
    "CriticalPoint",
    "GradientDescent",
    "Inequality",
    "NotConverged",
    "Problem",
    "Proximal",
    "Solution",
    "critical_point",
    "minority_collapse_ratio",
    "seli_geometry",
]
