"""The multilayer unconstrained features model in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from torch import Tensor

    from ncollapse.surrogates import MUFM, Solution

# What the figure draws of solution, data and the model without data.
_MEASURES = {
    "pfc1": "PFC1, within over between",
    "pfc2": "PFC2, distance to an ETF",
    "pfc3": "PFC3, accuracy of the nearest center",
}


def add_mufm(models: Any) -> None:
    """Add ``mufm``."""
    model = add_model(models, "mufm", "multilayer unconstrained features model on Gaussian classes", _solve)
    model.add_argument("--loss", choices=("mse", "cross_entropy"), default="mse", help="default: %(default)s")
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
    before = measure_features(data.inputs, data.labels, num_classes=options.classes, metrics=list(_MEASURES))

    def solve(lambda_h: float) -> tuple[MUFM, Solution]:
        decays = {"lambda_w": options.lambda_w, "lambda_h": lambda_h}
        model = MUFM(data.inputs, data.labels, loss=options.loss, bias=options.bias, **decays)
        return model, model.solve(allow_unconverged=True)

    model, solution = solve(options.lambda_h)
    values = {metric: before.value(metric) for metric in _MEASURES}
    cosine, distance = alignment(solution.variables["features"], model.inputs)
    numbers = {f"data_{metric}": value for metric, value in values.items()}
    numbers |= {"alignment": cosine, "alignment_distance": distance}
    if options.loss == "mse" and options.bias == "none":
        progress = collapse_progress(model, solution.variables)
        numbers |= {"lambda_critical": progress.inequality.left, "lambda_bound": progress.bound}
    return Solved(solution, lambda: _figure(options, values, model.inputs, lambda decay: solve(decay)[1]), numbers)


def _figure(options: argparse.Namespace, data: dict[str, float], inputs: Tensor, solve: Callable[[float], Solution]) -> Figure:
    """The trade-off over the cost of moving, between the data and the model without data."""
    from ncollapse.drawing.surrogates import plot_tradeoff
    from ncollapse.surrogates import UFM, alignment

    decays = [10 ** (i / 4 - 6) for i in range(25)]
    found = [solve(decay) for decay in decays]
    curves = {name: [point.metrics([metric])[metric] for point in found] for metric, name in _MEASURES.items()}
    aligned = [alignment(point.variables["features"], inputs) for point in found]
    curves["Cosine of features and data"] = [cosine for cosine, _ in aligned]
    curves["Distance of both, scaled to norm one"] = [distance for _, distance in aligned]
    counts = (options.per_class,) * options.classes
    free = UFM(counts, options.dim, loss=options.loss, lambda_w=options.lambda_w, lambda_h=options.lambda_h, bias=options.bias)
    without = free.solve(allow_unconverged=True).metrics(list(_MEASURES))
    named = ({_MEASURES[metric]: value for metric, value in numbers.items()} for numbers in (data, without))
    return plot_tradeoff(decays, curves, *named)
