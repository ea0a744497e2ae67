"""Surrogate models of neural collapse: solved, with a proof of how close each solution is to the global minimum."""

from ncollapse.surrogates.problem import Certificate, Inequality, NotConverged, Problem, Solution
from ncollapse.surrogates.solvers import LBFGS, GradientDescent

__all__ = [
    "LBFGS",
    "Certificate",
    "GradientDescent",
    "Inequality",
    "NotConverged",
    "Problem",
    "Solution",
]
