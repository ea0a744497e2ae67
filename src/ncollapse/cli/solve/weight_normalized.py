"""The network with normalized weights and square loss in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import Solution, WeightNormalizedNet


def add_weight_normalized(models: Any) -> None:
    """Add ``weight_normalized``."""
    model = add_model(models, "weight_normalized", "square loss with normalized weights on two Gaussian classes", _solve)
    model.add_argument("--per-class", type=int, default=10, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, default=5, metavar="d", help="dimension of the data (default: %(default)s)")
    text = "standard deviation around means on the unit sphere (default: %(default)s)"
    model.add_argument("--sigma", type=float, default=0.3, metavar="s", help=text)
    model.add_argument("--width", type=int, default=20, metavar="m", help="hidden units (default: %(default)s)")
    model.add_argument("--decay", type=float, required=True, metavar="l", help="of the squared product of norms")
    model.add_argument("--seed", type=int, default=0, help="of the data and the start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.data import gaussian_mixture
    from ncollapse.surrogates import WeightNormalizedNet, best_norm, margin_variation

    shape = {"num_classes": 2, "dim": options.dim, "per_class": options.per_class}
    data = gaussian_mixture(**shape, components=1, radius=1.0, noise=options.sigma, seed=options.seed)
    model = WeightNormalizedNet(data.inputs, data.labels, lambda_w=options.decay, width=options.width)
    solution = model.solve(seed=options.seed, allow_unconverged=True)
    margins = model.margins(solution.variables)
    numbers = {"rho": float(solution.variables["rho"]), "rho_of_margins": best_norm(margins, lambda_w=options.decay)}
    numbers |= {"margin_variation": margin_variation(margins), "smallest_margin": float(margins.min())}
    return Solved(solution, lambda: _draw(model, solution, options.seed), numbers)


def _draw(model: WeightNormalizedNet, solution: Solution, seed: int) -> Figure:
    """Margins before and after, and the descent with its bound."""
    from ncollapse.drawing.surrogate_curves import Panel, plot_panels

    ranks, steps = list(range(1, len(model.labels) + 1)), list(range(len(solution.history)))
    points = {"start": model.start(seed), "solution": solution.variables}
    margins = {name: (ranks, model.margins(point).sort().values.tolist()) for name, point in points.items()}
    bound = {"bound": (steps, [model.minimum] * len(steps))}
    return plot_panels(
        [
            Panel("Normalized margins, sorted", "sample", margins),
            Panel("Objective", "step", {"descent": (steps, solution.history)}, bound, log="y"),
        ]
    )
