"""The model of normalized features in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import NormalizedFeatures


def add_normalized_features(models: Any) -> None:
    """Add ``normalized_features``."""
    model = add_model(models, "normalized_features", "unit features and classifier rows under cross-entropy", _solve)
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, default=1, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K)")
    model.add_argument(
        "--temperature", type=float, default=1.0, metavar="t", help="factor on the logits (default: %(default)s)"
    )
    model.add_argument("--solver", choices=("riemannian", "closed_form"), default="riemannian", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import NormalizedFeatures, balanced

    dim = options.classes if options.dim is None else options.dim
    model = NormalizedFeatures(balanced(options.classes, options.per_class), dim, temperature=options.temperature)
    by_formula = options.solver == "closed_form"
    solution = model.closed_form() if by_formula else model.solve(seed=options.seed, allow_unconverged=True)
    return Solved(solution, lambda: _draw(model), {"temperature": model.temperature})


def _draw(model: NormalizedFeatures) -> Figure:
    """The value that descent finds against the dimension: at the bound from K-1 on."""
    from ncollapse.drawing.surrogate_curves import Panel, plot_panels

    dims = list(range(2, max(model.num_classes, 3) + 1))
    found = [
        replace(model, dim=dim, counts=(1,) * model.num_classes).solve(seed=0, allow_unconverged=True).value for dim in dims
    ]
    curves, theory = {"descent": (dims, found)}, {"bound": (dims, [model.minimum] * len(dims))}
    title = f"Cross-entropy of {model.num_classes} classes on the sphere"
    return plot_panels([Panel(title, "dimension", curves, theory, mark=model.num_classes - 1)])
