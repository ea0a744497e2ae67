"""The multilayer unconstrained features model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_mufm(models: Any) -> None:
    """Add ``mufm``.

    Args:
        models: The subparsers of ``ncollapse solve``.
    """
    model = add_model(models, "mufm", "multilayer unconstrained features model on Gaussian classes", _solve)
    model.add_argument("--loss", choices=("mse", "ce"), default="mse", help="default: %(default)s")
    model.add_argument("--bias", choices=("none", "free"), default="none", help="default: %(default)s")
    model.add_argument("--classes", type=int, default=4, metavar="K", help="default: %(default)s")
    model.add_argument("--per-class", type=int, default=50, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, default=20, metavar="d", help="dimension (default: %(default)s)")
    text = "standard deviation around means on the unit sphere (default: %(default)s)"
    model.add_argument("--sigma", type=float, default=0.3, metavar="s", help=text)
    model.add_argument("--seed", type=int, default=0, metavar="i", help="of the data (default: %(default)s)")
    model.add_argument("--lambda-w", type=float, required=True, metavar="a", help="decay of the weight")
    model.add_argument("--lambda-h", type=float, required=True, metavar="b", help="cost of moving, summed over samples")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.data import gaussian_mixture
    from ncollapse.probe import measure_features
    from ncollapse.surrogates import MUFM, alignment, collapse_progress

    shape = {"num_classes": options.classes, "dim": options.dim, "per_class": options.per_class}
    data = gaussian_mixture(**shape, components=1, radius=1.0, noise=options.sigma, seed=options.seed)
    before = measure_features(data.inputs, data.labels, num_classes=options.classes, metrics=["pfc1", "pfc2"])

    def model(lambda_h: float) -> MUFM:
        decays = {"lambda_w": options.lambda_w, "lambda_h": lambda_h}
        return MUFM(data.inputs, data.labels, loss=options.loss, bias=options.bias, **decays)

    def draw() -> Figure:
        from ncollapse.report.surrogates import plot_tradeoff

        decays = [10 ** (i / 4 - 6) for i in range(25)]
        found = [model(decay).solve(allow_unconverged=True) for decay in decays]
        curves = {metric: [point.metrics([metric])[metric] for point in found] for metric in ("pfc1", "pfc2")}
        curves["alignment"] = [alignment(point.variables["features"], data.inputs.double())[0] for point in found]
        return plot_tradeoff(decays, curves, {"pfc1": before.value("pfc1"), "pfc2": before.value("pfc2")})

    solution = model(options.lambda_h).solve(allow_unconverged=True)
    cosine, _ = alignment(solution.variables["features"], data.inputs.double())
    numbers = {"data_pfc1": before.value("pfc1"), "data_pfc2": before.value("pfc2"), "alignment": cosine}
    if options.loss == "mse" and options.bias == "none":
        progress = collapse_progress(model(options.lambda_h), solution.variables)
        numbers |= {"lambda_critical": progress.inequality.left, "lambda_bound": progress.bound}
    return Solved(solution, draw, numbers)
