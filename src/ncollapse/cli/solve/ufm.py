"""The unconstrained features model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import Any

from ncollapse.cli.solve.solved import Solved, add_model, gram_figure


def add_ufm(models: Any) -> None:
    """Add ``ufm``."""
    model = add_model(models, "ufm", "unconstrained features model", _solve)
    model.add_argument("--loss", choices=("mse", "cross_entropy"), default="cross_entropy", help="default: %(default)s")
    model.add_argument("--bias", choices=("none", "free", "regularized"), default="none", help="default: %(default)s")
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, nargs="+", required=True, metavar="n", help="samples: one number, or K of them")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K)")
    model.add_argument("--lambda-w", type=float, required=True, metavar="a", help="decay of the weight")
    model.add_argument("--lambda-h", type=float, required=True, metavar="b", help="decay of the features, summed over samples")
    model.add_argument("--lambda-b", type=float, default=0.0, metavar="c", help="decay of a regularized bias")
    solvers = ("proximal", "lbfgs", "gradient_descent", "closed_form")
    model.add_argument("--solver", choices=solvers, default="proximal", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import LBFGS, UFM, GradientDescent, Proximal, Solver

    counts = options.per_class * options.classes if len(options.per_class) == 1 else options.per_class
    if len(counts) != options.classes:
        raise ValueError(f"--per-class takes one number or one for each of {options.classes} classes, got {len(counts)}.")
    dim = options.classes if options.dim is None else options.dim
    model = UFM(
        tuple(counts),
        dim,
        loss=options.loss,
        lambda_w=options.lambda_w,
        lambda_h=options.lambda_h,
        bias=options.bias,
        lambda_b=options.lambda_b,
    )
    if options.solver == "closed_form":
        solution = model.closed_form()
    else:
        solvers: dict[str, Solver] = {"proximal": Proximal(), "lbfgs": LBFGS(), "gradient_descent": GradientDescent()}
        solution = model.solve(solvers[options.solver], seed=options.seed, allow_unconverged=True)
    numbers = {"largest_collapse_number": float(model.collapse_numbers.max())}
    return Solved(solution, lambda: gram_figure(solution), numbers)
