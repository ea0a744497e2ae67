"""The unregularized layer-peeled model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model, gram_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_max_margin(models: Any) -> None:
    """Add ``max_margin``."""
    model = add_model(models, "max_margin", "unregularized layer-peeled model: largest margin at given norms", _solve)
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, nargs="+", required=True, metavar="n", help="samples: one number, or K of them")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K)")
    model.add_argument("--solver", choices=("flow", "closed_form"), default="flow", help="default: %(default)s")
    model.add_argument("--steps", type=int, default=50_000, help="of the flow, at most (default: %(default)s)")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import MarginFlow, MaxMargin

    counts = options.per_class * options.classes if len(options.per_class) == 1 else options.per_class
    if len(counts) != options.classes:
        raise ValueError(f"--per-class takes one number or one for each of {options.classes} classes, got {len(counts)}.")
    model = MaxMargin(tuple(counts), options.classes if options.dim is None else options.dim)
    by_formula = options.solver == "closed_form"
    flow = MarginFlow(num_steps=options.steps)
    solution = model.closed_form() if by_formula else model.solve(flow, seed=options.seed, allow_unconverged=True)

    def draw() -> Figure:
        from ncollapse.drawing.surrogates import plot_path

        if by_formula:
            return gram_figure(solution)
        reached = {"normalized margin": [0.5 / value for value in solution.history]}
        steps = [100.0 * number for number in range(len(solution.history))]
        return plot_path(steps, reached, {"normalized margin": model.largest_margin}, "step of the flow")

    found = 0.5 / solution.value
    return Solved(solution, draw, {"normalized_margin": found, "largest_margin": model.largest_margin})
