"""The model of bounded outputs in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import BoundedOutputs


def add_bounded_outputs(models: Any) -> None:
    """Add ``bounded_outputs``."""
    model = add_model(models, "bounded_outputs", "outputs within a ball under cross-entropy", _solve)
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, default=1, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--radius", type=float, required=True, metavar="R", help="largest norm of outputs")
    model.add_argument("--solver", choices=("projected", "closed_form"), default="projected", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import BoundedOutputs

    model = BoundedOutputs((options.per_class,) * options.classes, radius=options.radius)
    by_formula = options.solver == "closed_form"
    solution = model.closed_form() if by_formula else model.solve(seed=options.seed, allow_unconverged=True)
    return Solved(solution, lambda: _draw(model), {"radius": model.radius})


def _draw(model: BoundedOutputs) -> Figure:
    """The loss against the radius: of random outputs, of their averages by class, and of the simplex."""
    from ncollapse.drawing.surrogate_curves import Panel, plot_panels
    from ncollapse.surrogates import average_by_class

    radii, curves = [model.radius * (i + 1) / 10 for i in range(20)], {}
    # Several samples a class, so that there is something to average; half right, half noise.
    wider = replace(model, counts=tuple(max(8, count) for count in model.counts))
    balls = [replace(wider, radius=radius) for radius in radii]
    mixed = [
        ball.retract({"features": ball.start(0)["features"] + ball.closed_form().variables["features"]})["features"]
        for ball in balls
    ]
    averaged = [average_by_class(outputs, wider.labels) for outputs in mixed]
    for name, outputs in (("noisy outputs", mixed), ("averaged by class", averaged)):
        values = [float(ball.objective({"features": rows})) for ball, rows in zip(balls, outputs, strict=True)]
        curves[name] = radii, values
    theory = {"simplex, the least": (radii, [ball.minimum for ball in balls])}
    return plot_panels([Panel("Cross-entropy of bounded outputs", "radius R", curves, theory, log="y", mark=model.radius)])
