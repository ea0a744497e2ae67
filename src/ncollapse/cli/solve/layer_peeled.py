"""The layer-peeled model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import Solution


def add_layer_peeled(models: Any) -> None:
    """Add ``layer_peeled``."""
    model = add_model(models, "layer_peeled", "layer-peeled model under class imbalance", _solve)
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--majority", type=int, required=True, metavar="K_A", help="number of majority classes")
    model.add_argument("--e-h", type=float, required=True, metavar="x", help="mean squared norm of the class means, at most")
    model.add_argument("--e-w", type=float, required=True, metavar="y", help="mean squared norm of the classifier, at most")
    which = model.add_mutually_exclusive_group()
    which.add_argument("--ratio", type=float, default=1.0, metavar="R", help="majority over minority samples (default: 1)")
    which.add_argument("--threshold", action="store_true", help="find the R from which on minorities collapse; solve there")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import LayerPeeled, minority_cosine, minority_threshold

    bounds = {"energy_w": options.e_w, "energy_h": options.e_h}
    threshold = minority_threshold(options.classes, options.majority, **bounds) if options.threshold else None
    ratio = options.ratio if threshold is None else threshold

    def solve(ratio: float) -> Solution:
        return LayerPeeled.imbalanced(options.classes, options.majority, ratio, **bounds).solve(allow_unconverged=True)

    def draw() -> Figure:
        from ncollapse.drawing.surrogates import plot_minority_cosine

        # The ratios of the paper's figure: 10^0.1i up to 10^4.
        ratios = [10 ** (i / 10) for i in range(41)]
        return plot_minority_cosine(ratios, [minority_cosine(solve(r), options.majority) for r in ratios], threshold)

    solution = solve(ratio)
    numbers = {"ratio": ratio, "minority_cosine": minority_cosine(solution, options.majority)}
    return Solved(solution, draw, numbers if threshold is None else {"threshold": threshold, **numbers})
