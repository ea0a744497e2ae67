"""The near-collapse model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import NearCollapse


def add_near_collapse(models: Any) -> None:
    """Add ``near_collapse``."""
    model = add_model(models, "near_collapse", "multilayer model on nearly collapsed data", _solve)
    model.add_argument("--classes", type=int, default=4, metavar="K", help="default: %(default)s")
    model.add_argument("--per-class", type=int, default=25, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, metavar="d", help="dimension (default: 3 K)")
    model.add_argument("--scale", type=float, default=1.3, metavar="a", help="norm of the class means (default: %(default)s)")
    text = "standard deviation of the data around them (default: %(default)s)"
    model.add_argument("--noise", type=float, default=0.01, metavar="s", help=text)
    model.add_argument("--seed", type=int, default=0, metavar="i", help="of the data (default: %(default)s)")
    model.add_argument("--lambda-w", type=float, required=True, metavar="a", help="decay of the weight")
    model.add_argument("--lambda-h", type=float, required=True, metavar="b", help="cost of moving, summed over samples")
    model.add_argument("--solver", choices=("reduced", "closed_form"), default="reduced", help="default: %(default)s")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import NearCollapse, balanced

    model = NearCollapse(
        balanced(options.classes, options.per_class), scale=options.scale, lambda_w=options.lambda_w, lambda_h=options.lambda_h
    )
    dim = 3 * options.classes if options.dim is None else options.dim
    inputs, labels = model.inputs(dim, options.noise, options.seed)
    problem, spread = model.problem(inputs, labels), model.spread(inputs)
    formula = options.solver == "closed_form"
    solution = model.closed_form(inputs, labels) if formula else problem.solve(allow_unconverged=True)
    data = problem.solution({"weight": problem.start(0)["weight"], "features": inputs}, "data").metrics(["pfc1"])["pfc1"]
    rates = dict(zip(("sensitivity_lambda_h", "sensitivity_lambda_w"), model.sensitivities(*spread), strict=True))
    numbers = {
        "data_pfc1": data,
        "pfc1_ratio": solution.metrics(["pfc1"])["pfc1"] / data,
        "predicted_ratio": model.ratio(*spread),
    }
    return Solved(solution, lambda: _draw(model, spread), numbers | rates)


def _draw(model: NearCollapse, spread: tuple[float, float]) -> Figure:
    """What either decay does to the ratio of PFC1, each within two decades of its value."""
    from ncollapse.drawing.surrogate_curves import Panel, plot_panels

    factors, curves = [10 ** (i / 20 - 1) for i in range(41)], {}
    for name, label in (("lambda_h", "cost of moving λ_H"), ("lambda_w", "decay of the weight λ_W")):
        # Beyond this decay the formula does not hold.
        longest = 3 * model.scale**2 / (model.num_classes * model.lambda_w) if name == "lambda_w" else 11
        allowed = [factor for factor in factors if factor <= longest]
        changed = [replace(model, **{name: factor * getattr(model, name)}) for factor in allowed]
        curves[label] = allowed, [one.ratio(*spread) for one in changed]
    return plot_panels([Panel("PFC1 of the features over that of the data", "factor on the decay", curves, log="x", mark=1.0)])
