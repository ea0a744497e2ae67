"""Surrogate models by the solvers of this library against those of their papers, side by side, to the same objective.

    python benchmarks/surrogates.py [--patience 30] [--rounds 5]

- The multilayer model, K = 10, d = 64, 500 samples a class: its features eliminated, against L-BFGS in weight and features
  and against plain gradient descent of learning rate 0.1, as in the paper. All begin at ridge regression on the data. L-BFGS
  is stopped 1e-8 above the minimum; gradient descent, which is slow, at a relative 1e-3; both when their patience (in
  seconds) is over, and then the ratio is a lower bound.
- The layer-peeled model, K = 10: Newton's method in the logits of like classes against the semidefinite program of its paper.
- The multilayer model for 10³ to 10⁶ samples: after one pass over them the cost is that of K·d unknowns.

Every solver starts cold and does all of its work each time: nothing is kept from one call to the next.
"""

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch

from ncollapse.data import gaussian_mixture
from ncollapse.surrogates import (
    LBFGS,
    MUFM,
    EliminatedFeatures,
    GradientDescent,
    GroupedNewton,
    LayerPeeled,
    solve_sdp,
)
from ncollapse.surrogates.solving.solution import Variables

DECAYS = {"lambda_w": 0.05, "lambda_h": 1e-5}
SAME = 1e-8
NEAR = 1e-3
T = TypeVar("T")


def timed(call: Callable[[], T], rounds: int) -> tuple[T, float]:
    """Return the result, and the median time of several calls after one that warms up."""
    result, times = call(), []
    for _ in range(rounds):
        start = time.perf_counter()
        result = call()
        times.append(time.perf_counter() - start)
    return result, statistics.median(times)


class Stopped(Exception):
    """Raised out of a solver that is near enough, or too slow."""


class Watched(MUFM):
    """The model, which stops whoever descends on it once the objective is low enough or time is over."""

    def watch(self, target: float, patience: float) -> None:
        """Begin."""
        self.target, self.begun, self.patience, self.values = target, time.perf_counter(), patience, []

    def objective(self, variables: Variables) -> torch.Tensor:
        """As of the model."""
        value = super().objective(variables)
        self.values.append(float(value.detach()))
        if self.values[-1] <= self.target or time.perf_counter() - self.begun > self.patience:
            raise Stopped
        return value


def descend(solver: LBFGS | GradientDescent, problem: Watched, target: float, patience: float) -> tuple[float, float, int]:
    """Descent in weight and features from ridge regression on the data: best objective, seconds, evaluations."""
    problem.watch(target, patience)
    with contextlib.suppress(Stopped):
        solver.run(problem, {"weight": problem.reduced.ridge(), "features": problem.inputs})
    return min(problem.values), time.perf_counter() - problem.begun, len(problem.values)


def multilayer(rounds: int, patience: float) -> None:
    """Print the three solvers of the multilayer model."""
    data = gaussian_mixture(num_classes=10, dim=64, per_class=500, components=1, radius=1.0, noise=0.3, seed=0)

    def model() -> Watched:
        return Watched(data.inputs, data.labels, **DECAYS)

    print("Multilayer model, K = 10, d = 64, 500 samples a class, σ = 0.3, λ_W = 0.05, λ_H = 1e-5; from data to certificate")
    best, ours = timed(lambda: MUFM(data.inputs, data.labels, **DECAYS).solve(), rounds)
    print(f"  features eliminated  {ours:>8.3f} s  objective {best.value:.12f}, gap to the lower bound {best.gap:.1e}")
    rivals = {"joint L-BFGS": (LBFGS(), SAME), "gradient descent": (GradientDescent(learning_rate=0.1), NEAR * best.value)}
    for name, (solver, excess) in rivals.items():
        value, taken, evaluations = descend(solver, model(), best.value + excess, patience)
        words = f"{value - best.value:.1e} above it, {'stopped there' if value <= best.value + excess else 'patience over'}"
        ratio = f"ratio {'' if value <= best.value + excess else 'at least '}{taken / ours:.0f}"
        print(f"  {name:<20} {taken:>8.3f} s  {words} after {evaluations} evaluations; {ratio}", flush=True)


def layer_peeled(rounds: int) -> None:
    """Print both solvers of the layer-peeled model."""
    print("Layer-peeled model, K = 10, 5 majorities, E_W = 1, E_H = 5; from numbers to the objective")
    for ratio in (1, 10, 100):

        def model(ratio: int = ratio) -> LayerPeeled:
            return LayerPeeled.imbalanced(10, 5, ratio, energy_w=1.0, energy_h=5.0)

        def relaxed() -> float:
            return solve_sdp(model())

        # By turns, so that what else the machine does meets both.
        turns = [(timed(lambda: model().solve(GroupedNewton(tolerance=1e-9)), 4), timed(relaxed, 1)) for _ in range(rounds)]
        (found, _), (value, _) = turns[-1]
        ours, theirs = (statistics.median(turn[side][1] for turn in turns) for side in (0, 1))
        same = "the same" if abs(value - found.value) <= SAME else "NOT the same"
        times = f"Newton {1e3 * ours:>7.2f} ms, semidefinite program {1e3 * theirs:>7.1f} ms, ratio {theirs / ours:>5.1f}"
        print(f"  R = {ratio:<4} {times}; {same} to 1e-8 ({value - found.value:+.1e}), gap {found.gap:.1e}", flush=True)


def samples(rounds: int) -> None:
    """Print the cost over the number of samples N, with λ_H N held fixed."""
    print("Multilayer model over the number of samples, K = 10, d = 64, λ_H N = 5e-3")
    print(f"{'N':>10}{'one pass s':>13}{'solve s':>10}{'iterations':>12}{'features s':>12}{'gap':>10}")
    for per_class in (100, 1_000, 10_000, 100_000):
        data = gaussian_mixture(num_classes=10, dim=64, per_class=per_class, components=1, radius=1.0, noise=0.3, seed=0)
        problem = MUFM(data.inputs, data.labels, lambda_w=5e-3, lambda_h=5e-4 / per_class)
        start = time.perf_counter()
        sums = problem.reduced
        passed = time.perf_counter() - start
        found, taken = timed(partial(EliminatedFeatures().minimize, sums, sums.ridge()), rounds)
        start = time.perf_counter()
        problem.best_features(found.variables["weight"])
        features = time.perf_counter() - start
        gap = found.history[-1] - sums.dual(found.variables["weight"])[1]
        row = f"{10 * per_class:>10}{passed:>13.4f}{taken:>10.4f}{len(found.history) - 1:>12}{features:>12.4f}{gap:>10.1e}"
        print(row, flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patience", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    multilayer(options.rounds, options.patience)
    layer_peeled(options.rounds)
    samples(options.rounds)


if __name__ == "__main__":
    main()
