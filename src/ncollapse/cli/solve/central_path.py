"""The renormalized flow along the central path in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import CentralPath, FlowEnd


def add_central_path(models: Any) -> None:
    """Add ``central_path``."""
    model = add_model(models, "central_path", "renormalized flow of features under their least-squares classifier", _solve)
    model.add_argument("--classes", type=int, default=4, metavar="K", help="default: %(default)s")
    model.add_argument("--per-class", type=int, default=40, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, default=10, metavar="d", help="dimension of the features (default: %(default)s)")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")
    model.add_argument("--duration", type=float, default=2e5, metavar="t", help="default: %(default)s")
    model.add_argument("--steps", type=int, default=1000, help="of Runge-Kutta (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import CentralPath, balanced

    model = CentralPath(balanced(options.classes, options.per_class), options.dim)
    end = model.flow(model.start(options.seed), duration=options.duration, num_steps=options.steps)
    signals = model.signals(end.variables["features"])
    within, means = model.losses(end.variables["features"])
    numbers = {"largest_signal": float(signals[0]), "smallest_signal": float(signals[-1])}
    return Solved(end, lambda: _draw(model, end), numbers | {"loss_nc1": within, "loss_nc23": means})


def _draw(model: CentralPath, end: FlowEnd) -> Figure:
    """Signals against their law, and the two parts of the loss."""
    from ncollapse.drawing.surrogate_curves import Panel, plot_panels
    from ncollapse.surrogates import signal_after

    every = range(1, len(end.times), max(1, len(end.times) // 100))
    times = [end.times[i] for i in every]
    features = [end.path[i]["features"] for i in every]
    found, starts = [model.signals(rows).tolist() for rows in features], model.signals(end.path[0]["features"]).tolist()
    laws = [[signal_after(start, time, counts=model.counts) for time in times] for start in starts]
    signals = {f"signal {j + 1}": (times, [row[j] for row in found]) for j in range(len(starts))}
    theory = {"law" if j == 0 else f"_{j}": (times, law) for j, law in enumerate(laws)}
    parts = list(zip(*(model.losses(rows) for rows in features), strict=True))
    losses = {"NC1": (times, parts[0]), "NC2 and NC3": (times, parts[1])}
    return plot_panels(
        [
            Panel("Singular values ω of the means, whitened", "time", signals, theory, log="x"),
            Panel("Parts of the loss on the central path", "time", losses, log="xy"),
        ]
    )
