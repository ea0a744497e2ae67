"""The deep unconstrained features model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import DeepUFM


def add_deep_ufm(models: Any) -> None:
    """Add ``deep_ufm``."""
    model = add_model(models, "deep_ufm", "deep unconstrained features model: several weights behind free features", _solve)
    model.add_argument("--activation", choices=("linear", "relu"), default="linear", help="default: %(default)s")
    model.add_argument("--bias", choices=("none", "free"), default="none", help="of the last layer (default: %(default)s)")
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, default=1, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--layers", type=int, required=True, metavar="M", help="number of weights")
    model.add_argument("--dim", type=int, metavar="d", help="width of the hidden layers (default: 4 K)")
    model.add_argument("--lambda-w", type=float, required=True, metavar="a", help="decay of each weight")
    model.add_argument("--lambda-h", type=float, required=True, metavar="b", help="decay of the features, summed over samples")
    text = "low_rank: L-BFGS from a point whose inner layers have lower rank than classes (default: %(default)s)"
    model.add_argument("--solver", choices=("closed_form", "lbfgs", "low_rank"), default="closed_form", help=text)
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import DeepUFM, layer_ranks, low_rank_start

    dim = 4 * options.classes if options.dim is None else options.dim
    counts, decays = (options.per_class,) * options.classes, (options.lambda_w,) * options.layers
    model = DeepUFM(counts, dim, lambdas_w=decays, lambda_h=options.lambda_h, activation=options.activation, bias=options.bias)
    if options.solver == "closed_form":
        solution = model.closed_form()
    else:
        start = low_rank_start(model) if options.solver == "low_rank" else model.start(options.seed)
        solution = model.solve(start=start, allow_unconverged=True)
    ranks = {f"rank_{number}": float(rank) for number, rank in enumerate(layer_ranks(model.layers(solution.variables)))}
    return Solved(solution, lambda: _draw(model), {"collapse_value": model.minimum, **ranks})


def _draw(model: DeepUFM) -> Figure:
    """The largest singular value of the logits against the product of the decays: it jumps to zero at its threshold."""
    from ncollapse.drawing.surrogate_curves import Panel, plot_panels

    shares, curves = [0.5 + i / 200 for i in range(121)], {}
    for depth in range(1, max(3, model.num_layers) + 1):
        # All decays alike, in units of those at which the threshold of this depth lies.
        shallow = replace(model, lambdas_w=(1.0,) * depth, lambda_h=1.0, bias="none")
        edge = shallow.certificate({}).inequality
        unit = (edge.right / edge.left) ** (1 / (depth + 1))
        values = [replace(shallow, lambdas_w=(share * unit,) * depth, lambda_h=share * unit) for share in shares]
        curves[f"M = {depth}"] = shares, [float(at.singular_values.max()) / max(model.counts) ** 0.5 for at in values]
    title = "Singular value of the logits over that of the targets"
    return plot_panels([Panel(title, "decay of every layer, in units of its threshold", curves, mark=1.0)])
