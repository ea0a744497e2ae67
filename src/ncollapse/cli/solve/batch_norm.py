"""The two-layer network with batch normalization in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import BatchNormNet, Solution


def add_batch_norm(models: Any) -> None:
    """Add ``batch_norm``."""
    model = add_model(models, "batch_norm", "two layers with batch normalization on random features of full rank", _solve)
    model.add_argument("--classes", type=int, default=4, metavar="K", help="default: %(default)s")
    model.add_argument("--per-class", type=int, default=5, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--dim", type=int, metavar="d", help="dimension of the features before (default: 2 K n)")
    model.add_argument("--width", type=int, metavar="m", help="hidden units (default: 5 K)")
    model.add_argument("--beta", type=float, required=True, metavar="b", help="weight decay")
    model.add_argument("--solver", choices=("lbfgs", "closed_form"), default="lbfgs", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of the features and the start (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    import torch

    from ncollapse.surrogates import BatchNormNet

    labels = torch.arange(options.classes).repeat_interleave(options.per_class)
    dim = 2 * len(labels) if options.dim is None else options.dim
    generator = torch.Generator().manual_seed(options.seed)
    inputs = torch.randn(len(labels), dim, generator=generator, dtype=torch.float64)
    model = BatchNormNet(
        inputs, labels, lambda_w=options.beta, width=5 * options.classes if options.width is None else options.width
    )
    by_formula = options.solver == "closed_form"
    solution = model.closed_form() if by_formula else model.solve(seed=options.seed, allow_unconverged=True)
    units = int((solution.variables["weight"].abs().amax(dim=0) > 1e-4).sum())
    return Solved(solution, lambda: _draw(model, solution), {"hidden_units_in_use": float(units)})


def _draw(model: BatchNormNet, solution: Solution) -> Figure:
    """The descent with the bound, and how much of the targets a decay leaves."""
    from ncollapse.drawing.surrogate_curves import Panel, plot_panels

    steps = list(range(len(solution.history)))
    descent = {"descent" if len(steps) > 1 else "closed form": (steps, solution.history)}
    longest = 1.2 * max(model.counts) ** 0.5
    decays, roots = [longest * i / 60 for i in range(61)], sorted({count**0.5 for count in model.counts})
    outputs = {f"{root**2:.0f} samples": (decays, [max(0.0, 1 - decay / root) for decay in decays]) for root in roots}
    return plot_panels(
        [
            Panel("Objective", "step", descent, {"bound": (steps, [model.minimum] * len(steps))}, log="y"),
            Panel("Output of the true class at the minimum", "weight decay β", outputs, mark=model.lambda_w),
        ]
    )
