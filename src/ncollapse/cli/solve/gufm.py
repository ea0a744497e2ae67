"""The generalized unconstrained features model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import Any

from ncollapse.cli.solve.solved import Solved, add_model, gram_figure


def add_gufm(models: Any) -> None:
    """Add ``gufm``."""
    model = add_model(models, "gufm", "generalized unconstrained features model: features on a sphere", _solve)
    model.add_argument("--loss", choices=("cross_entropy", "mse"), default="cross_entropy", help="default: %(default)s")
    model.add_argument("--bias", choices=("none", "free"), default="none", help="default: %(default)s")
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, default=1, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K + 1)")
    model.add_argument("--lambda-w", type=float, required=True, metavar="a", help="decay of the last layer")
    model.add_argument("--solver", choices=("lbfgs", "closed_form"), default="lbfgs", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import GUFM, balanced

    dim = options.classes + 1 if options.dim is None else options.dim
    model = GUFM(
        balanced(options.classes, options.per_class), dim, loss=options.loss, lambda_w=options.lambda_w, bias=options.bias
    )
    by_formula = options.solver == "closed_form"
    solution = model.closed_form() if by_formula else model.solve(seed=options.seed, allow_unconverged=True)
    distance = model.distance(solution.variables["weight"], solution.variables["features"])
    return Solved(solution, lambda: gram_figure(solution), {"scale": model.scale, "distance_to_optima": distance})
