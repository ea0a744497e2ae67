"""The gradient flow of the squared loss without decay in ``ncollapse solve``."""

from __future__ import annotations

import argparse
import math
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import FlowEnd, UnregularizedUFM


def add_mixon_flow(models: Any) -> None:
    """Add ``mixon_flow``."""
    model = add_model(models, "mixon_flow", "unconstrained features without decay: the flow to strong collapse", _solve)
    model.add_argument("--classes", type=int, default=3, metavar="K", help="default: %(default)s")
    model.add_argument("--per-class", type=int, default=4, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features (default: K + 2)")
    model.add_argument("--size", type=float, default=1e-3, metavar="e", help="of the random start (default: %(default)s)")
    model.add_argument("--seed", type=int, default=0, help="of the random start (default: %(default)s)")
    model.add_argument("--duration", type=float, default=20.0, metavar="t", help="default: %(default)s")
    model.add_argument("--steps", type=int, default=2000, help="of Runge-Kutta (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    from ncollapse.surrogates import UnregularizedUFM, balanced

    dim = options.classes + 2 if options.dim is None else options.dim
    model = UnregularizedUFM(balanced(options.classes, options.per_class), dim)
    start = {name: options.size * part for name, part in model.start(options.seed).items()}
    end = model.flow(start, duration=options.duration, num_steps=options.steps)
    return Solved(end, lambda: _draw(model, end), {"conserved_drift": model.conserved_drift(end)})


def _draw(model: UnregularizedUFM, end: FlowEnd) -> Figure:
    """Eigenvalues of the classifier beside the logistic law, and the loss."""
    import torch

    from ncollapse.drawing.surrogate_curves import Panel, plot_panels
    from ncollapse.surrogates import collapsed_eigenvalue

    found = torch.stack([torch.linalg.svdvals(point["weight"])[: model.num_classes - 1].square() for point in end.path])
    curves = {f"eigenvalue {number + 1}": (end.times, found[:, number].tolist()) for number in range(found.shape[1])}
    # The law holds on its set; each eigenvalue is met by it at half of its limit.
    theory = {}
    for number in range(found.shape[1]):
        met = int((found[:, number] - math.sqrt(model.counts[0]) / 2).abs().argmin())
        begin, shift = float(found[met, number]), end.times[met]
        law = [collapsed_eigenvalue(begin, time - shift, counts=model.counts) for time in end.times]
        theory["law on the invariant set" if number == 0 else f"_{number}"] = end.times, law
    return plot_panels(
        [
            Panel("Eigenvalues of W Wᵀ", "time", curves, theory),
            Panel("Loss", "time", {"along the flow": (end.times, end.history)}, log="y"),
        ]
    )
