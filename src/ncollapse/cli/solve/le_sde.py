"""Locally elastic stochastic differential equations in ``ncollapse solve``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from ncollapse.cli.solve.solved import Solved, add_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def add_le_sde(models: Any) -> None:
    """Add ``le_sde``."""
    model = add_model(models, "le_sde", "locally elastic stochastic differential equation, simulated", _solve)
    model.add_argument("--model", dest="kind", choices=("I", "L"), default="L", help="default: %(default)s")
    model.add_argument("--classes", type=int, required=True, metavar="K", help="number of classes")
    model.add_argument("--per-class", type=int, default=100, metavar="n", help="samples (default: %(default)s)")
    model.add_argument("--alpha", type=float, required=True, metavar="a", help="effect within a class is a t^-r")
    model.add_argument("--beta", type=float, required=True, metavar="b", help="effect between classes is b t^-r")
    model.add_argument("--decay", type=float, default=0.0, metavar="r", help="default: %(default)s")
    model.add_argument("--end", type=float, default=20.0, metavar="T", help="last time, after 1 (default: %(default)s)")
    model.add_argument("--steps", type=int, default=1000, help="default: %(default)s")
    model.add_argument("--noise", type=float, default=0.1, metavar="s", help="default: %(default)s")
    model.add_argument("--seed", type=int, default=0, help="of start and noise (default: %(default)s)")


def _solve(options: argparse.Namespace) -> Solved:
    import torch

    from ncollapse.surrogates import LocallyElasticSDE, estimate_integrals, pairwise_separability

    def falling(scale: float) -> Any:
        return lambda time: scale * time**-options.decay

    sde = LocallyElasticSDE(
        options.classes, kind=options.kind, alpha=falling(options.alpha), beta=falling(options.beta), start_time=1.0
    )
    generator = torch.Generator().manual_seed(options.seed)
    noisy = torch.randn(options.classes, options.classes, generator=generator, dtype=torch.float64)
    initial = torch.eye(options.classes, dtype=torch.float64) + 0.3 * noisy
    times = torch.linspace(1, options.end, options.steps + 1, dtype=torch.float64)
    path = sde.simulate(initial, times, per_class=options.per_class, noise=options.noise, seed=options.seed)
    growth, found = sde.growth(options.end), estimate_integrals(path.means, kind=options.kind)
    numbers = {
        **{"integral_alpha": growth.alpha, "integral_beta": growth.beta},
        **{"estimated_alpha": float(found.alpha[-1]), "estimated_beta": float(found.beta[-1])},
        "separability": pairwise_separability(path),
    }

    def draw() -> Figure:
        from ncollapse.drawing.surrogates import plot_path

        unit = torch.nn.functional.normalize(path.means, dim=2)
        cosines = unit @ unit.transpose(1, 2)
        mean = (cosines.sum(dim=(1, 2)) - options.classes) / (options.classes * (options.classes - 1))
        curves = {"cross-entropy": list(path.losses), "mean cosine between class means": mean.tolist()}
        return plot_path(times.tolist(), curves, {"mean cosine between class means": -1 / (options.classes - 1)}, "time")

    return Solved(sde.solution(path), draw, numbers)
