"""The ``ncollapse solve`` command: the surrogate models' options, their solutions as text, JSON and figures."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import Solution

# torch takes seconds to import: every model imports what it needs, so that --help answers at once.


@dataclass(frozen=True)
class Solved:
    """What a model's command found.

    Attributes:
        solution: The solution.
        draw: Makes its figure.
        numbers: What the model says besides, by name.
    """

    solution: Solution
    draw: Callable[[], Figure]
    numbers: dict[str, float] = field(default_factory=dict)


def add_solve(commands: Any) -> None:
    """Add ``solve`` and its models to the command line.

    Args:
        commands: The subparsers of ``ncollapse``.
    """
    parser = commands.add_parser("solve", help="solve a surrogate model of the theory, with a certificate")
    models = parser.add_subparsers(dest="model", required=True, metavar="MODEL", parser_class=type(parser))
    for add in (_add_ufm, _add_mufm, _add_gufm, _add_layer_peeled):
        add(models)


def _add_model(models: Any, name: str, text: str, call: Callable[[argparse.Namespace], Solved]) -> argparse.ArgumentParser:
    model: argparse.ArgumentParser = models.add_parser(name, help=text, description=text)
    model.add_argument("--figure", type=Path, metavar="FILE", help="also draw the solution, as .png or .svg")
    model.add_argument("--json", action="store_true", help="print an object")
    model.set_defaults(call=lambda options: _report(options, call))
    return model


def _add_ufm(models: Any) -> None:
    model = _add_model(models, "ufm", "unconstrained features model", _solve_ufm)
    model.add_argument("--loss", choices=("mse", "ce"), default="ce", help="default: %(default)s")
    model.add_argument("--bias", choices=("none", "free", "regularized"), default="none", help="default: %(default)s")
    model.add_argument("--classes", type=int, required=True, metavar="K")
    model.add_argument("--per-class", type=int, nargs="+", required=True, metavar="n", help="samples: one number, or K of them")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K)")
    model.add_argument("--lambda-w", type=float, required=True, metavar="a", help="decay of the weight")
    model.add_argument("--lambda-h", type=float, required=True, metavar="b", help="decay of the features, summed over samples")
    model.add_argument("--lambda-b", type=float, default=0.0, metavar="c", help="decay of a regularized bias")
    solvers = ("proximal", "lbfgs", "gradient_descent", "closed_form")
    model.add_argument("--solver", choices=solvers, default="proximal", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve_ufm(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import LBFGS, UFM, GradientDescent, Proximal, Solver

    counts = options.per_class * options.classes if len(options.per_class) == 1 else options.per_class
    if len(counts) != options.classes:
        raise ValueError(f"--per-class takes one number or one for each of {options.classes} classes, got {len(counts)}.")
    dim = options.classes if options.dim is None else options.dim
    model = UFM(tuple(counts), dim, options.loss, options.lambda_w, options.lambda_h, options.bias, lambda_b=options.lambda_b)
    if options.solver == "closed_form":
        solution = model.closed_form()
    else:
        solvers: dict[str, Solver] = {"proximal": Proximal(), "lbfgs": LBFGS(), "gradient_descent": GradientDescent()}
        solution = model.solve(solvers[options.solver], seed=options.seed, allow_unconverged=True)
    numbers = {"largest_collapse_number": float(model.collapse_numbers.max())}
    return Solved(solution, lambda: _gram_figure(solution), numbers)


def _add_mufm(models: Any) -> None:
    model = _add_model(models, "mufm", "multilayer unconstrained features model on Gaussian classes", _solve_mufm)
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


def _solve_mufm(options: argparse.Namespace) -> Solved:
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


def _add_gufm(models: Any) -> None:
    model = _add_model(models, "gufm", "generalized unconstrained features model: features on a sphere", _solve_gufm)
    model.add_argument("--loss", choices=("ce", "mse"), default="ce", help="default: %(default)s")
    model.add_argument("--bias", choices=("none", "free"), default="none", help="default: %(default)s")
    model.add_argument("--classes", type=int, required=True, metavar="K")
    model.add_argument("--per-class", type=int, default=1, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K + 1)")
    model.add_argument("--lambda-w", type=float, required=True, metavar="a", help="decay of the last layer")
    model.add_argument("--solver", choices=("lbfgs", "closed_form"), default="lbfgs", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve_gufm(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import GUFM

    dim = options.classes + 1 if options.dim is None else options.dim
    model = GUFM(options.classes, options.per_class, dim, options.loss, options.lambda_w, options.bias)
    by_formula = options.solver == "closed_form"
    solution = model.closed_form() if by_formula else model.solve(seed=options.seed, allow_unconverged=True)
    distance = model.distance(solution.variables["weight"], solution.variables["features"])
    return Solved(solution, lambda: _gram_figure(solution), {"scale": model.scale, "distance_to_optima": distance})


def _add_layer_peeled(models: Any) -> None:
    model = _add_model(models, "layer_peeled", "layer-peeled model under class imbalance", _solve_layer_peeled)
    model.add_argument("--classes", type=int, required=True, metavar="K")
    model.add_argument("--majority", type=int, required=True, metavar="K_A", help="number of majority classes")
    model.add_argument("--e-h", type=float, required=True, metavar="x", help="mean squared norm of the class means, at most")
    model.add_argument("--e-w", type=float, required=True, metavar="y", help="mean squared norm of the classifier, at most")
    which = model.add_mutually_exclusive_group()
    which.add_argument("--ratio", type=float, default=1.0, metavar="R", help="majority over minority samples (default: 1)")
    which.add_argument("--threshold", action="store_true", help="find the R from which on minorities collapse; solve there")


def _solve_layer_peeled(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import LayerPeeled, minority_cosine, minority_threshold

    bounds = {"e_w": options.e_w, "e_h": options.e_h}
    threshold = minority_threshold(options.classes, options.majority, **bounds) if options.threshold else None
    ratio = options.ratio if threshold is None else threshold

    def solve(ratio: float) -> Solution:
        return LayerPeeled.imbalanced(options.classes, options.majority, ratio, **bounds).solve(allow_unconverged=True)

    def draw() -> Figure:
        from ncollapse.report.surrogates import plot_minority_cosine

        # The ratios of the paper's figure: 10^0.1i up to 10^4.
        ratios = [10 ** (i / 10) for i in range(41)]
        return plot_minority_cosine(ratios, [minority_cosine(solve(r), options.majority) for r in ratios], threshold)

    solution = solve(ratio)
    numbers = {"ratio": ratio, "minority_cosine": minority_cosine(solution, options.majority)}
    return Solved(solution, draw, numbers if threshold is None else {"threshold": threshold, **numbers})


def _gram_figure(solution: Solution) -> Figure:
    from ncollapse.report.surrogates import plot_grams
    from ncollapse.statistics import ClassMoments

    features, weight = solution.variables["features"], solution.variables["weight"]
    means = ClassMoments.from_batch(features, solution.labels, len(weight)).means
    return plot_grams({"class means": (means @ means.T).tolist(), "classifier rows": (weight @ weight.T).tolist()})


def _report(options: argparse.Namespace, call: Callable[[argparse.Namespace], Solved]) -> None:
    """Print and draw; a solver that stopped early is told in the status and by exit code 1."""
    if options.figure is not None and options.figure.suffix not in {".png", ".svg"}:
        raise ValueError(f"--figure needs a name that ends in .png or .svg, got {str(options.figure)!r}.")
    solved = call(options)
    solution, inequality = solved.solution, solved.solution.certificate.inequality
    found = {
        **{"value": solution.value, "lower_bound": solution.certificate.lower_bound, "gap": solution.gap},
        **solved.numbers,
    }
    metrics = solution.metrics()
    if options.json:
        words = {"model": options.model, "status": solution.status, "certified": solution.certified}
        branch = {"text": inequality.text, "left": inequality.left, "right": inequality.right, "holds": inequality.holds}
        print(json.dumps({**words, **_known(found), "inequality": _known(branch), "metrics": _known(metrics)}))
    else:
        print(f"{solution.status}\n{inequality}")
        for name, value in [*found.items(), *metrics.items()]:
            print(f"{name:<28}{value:.12g}")
    if options.figure is not None:
        _write_figure(solved.draw(), options.figure)
    if not solution.converged:
        raise SystemExit(1)


def _write_figure(figure: Figure, path: Path) -> None:
    from ncollapse.files import write_whole
    from ncollapse.report.figures import render

    write_whole(path, render(figure, path.suffix.removeprefix(".")))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
