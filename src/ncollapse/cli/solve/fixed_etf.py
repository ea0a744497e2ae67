"""Features before a fixed ETF classifier in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import Any

from ncollapse.cli.solve.solved import Solved, add_model, gram_figure


def add_fixed_etf(models: Any) -> None:
    """Add ``fixed_etf``."""
    model = add_model(models, "fixed_etf", "free features before a classifier fixed as a simplex ETF", _solve)
    model.add_argument(
        "--loss", choices=("dot_regression", "cross_entropy"), default="dot_regression", help="default: %(default)s"
    )
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, nargs="+", required=True, metavar="n", help="samples: one number, or K of them")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K)")
    model.add_argument("--e-w", type=float, default=1.0, metavar="y", help="squared norm of a classifier row (default: 1)")
    model.add_argument("--e-h", type=float, default=1.0, metavar="x", help="squared norm of a feature (default: 1)")
    model.add_argument("--solver", choices=("lbfgs", "closed_form"), default="lbfgs", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import FixedETF

    counts = options.per_class * options.classes if len(options.per_class) == 1 else options.per_class
    if len(counts) != options.classes:
        raise ValueError(f"--per-class takes one number or one for each of {options.classes} classes, got {len(counts)}.")
    dim = options.classes if options.dim is None else options.dim
    model = FixedETF(tuple(counts), dim, loss=options.loss, energy_w=options.e_w, energy_h=options.e_h)
    by_formula = options.solver == "closed_form"
    solution = model.closed_form() if by_formula else model.solve(seed=options.seed, allow_unconverged=True)
    return Solved(solution, lambda: gram_figure(solution), {"scale": model.scale})
