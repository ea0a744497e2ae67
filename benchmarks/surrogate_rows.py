"""Rows of surrogate models: the solvers of this library beside simple ones in their best form, each to a stated tolerance.

The multilayer model has K = 10, d = 64 and 500 samples per class. The rivals know the minimum, and stop as soon as they are
near it; a user does not. Features are measured in units of 1/√N by all of them: without this, descent is slower by factors
of N.
"""

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from scipy.optimize import minimize
from timing import Calls, Ratio, Row

from ncollapse.data import gaussian_mixture
from ncollapse.surrogates import MUFM, EliminatedFeatures, GroupedNewton, LayerPeeled, solve_sdp

_SDP = "semidefinite program"
Point = tuple[np.ndarray, np.ndarray]


class JointModel:
    """Objective and gradient of the multilayer model in weight and features, by NumPy."""

    def __init__(self, problem: MUFM) -> None:
        self.inputs, self.decays = problem.inputs.numpy(), (problem.lambda_w, problem.lambda_h)
        self.targets = np.eye(problem.num_classes)[problem.labels.numpy()]
        self.size = len(self.inputs)

    def value_and_gradient(self, weight: np.ndarray, features: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """As a user writes it."""
        miss, moved, (decay_w, decay_h) = features @ weight.T - self.targets, features - self.inputs, self.decays
        value = (miss**2).sum() / self.size / 2 + decay_w / 2 * (weight**2).sum() + decay_h / 2 * (moved**2).sum()
        return value, miss.T @ features / self.size + decay_w * weight, miss @ weight / self.size + decay_h * moved

    def ridge(self, features: np.ndarray) -> np.ndarray:
        """Return the best weight for given features."""
        gram = features.T @ features + self.size * self.decays[0] * np.eye(features.shape[1])
        return np.linalg.solve(gram, features.T @ self.targets).T

    def best_features(self, weight: np.ndarray) -> np.ndarray:
        """Return the best features for a given weight, by a K×K system."""
        system = self.size * self.decays[1] * np.eye(len(weight)) + weight @ weight.T
        return self.inputs - (self.inputs @ weight.T - self.targets) @ np.linalg.solve(system, weight)

    def alternation(self) -> Iterator[float]:
        """Objectives of ridge regression and best features in turn."""
        features = self.inputs
        while True:
            weight = self.ridge(features)
            features = self.best_features(weight)
            yield self.value_and_gradient(weight, features)[0]

    def descent(self, rate: float = 0.5) -> Iterator[float]:
        """Objectives of gradient descent whose step in the features is N times that in the weight."""
        weight, features = self.ridge(self.inputs), self.inputs
        while True:
            value, slope, pull = self.value_and_gradient(weight, features)
            yield value
            weight, features = weight - rate * slope, features - self.size * rate * pull

    def lbfgs(self, target: float) -> None:
        """L-BFGS in weight and √N-scaled features."""
        start, unit = self.ridge(self.inputs), self.size**0.5

        def split(flat: np.ndarray) -> Point:
            return flat[: start.size].reshape(start.shape), flat[start.size :].reshape(self.inputs.shape) * unit

        def flat_gradient(flat: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope, pull = self.value_and_gradient(*split(flat))
            if value <= target:
                raise StopIteration
            return value, np.concatenate([slope.ravel(), unit * pull.ravel()])

        try:
            first = np.concatenate([start.ravel(), self.inputs.ravel() / unit])
            minimize(flat_gradient, first, jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 0, "gtol": 0})
        except StopIteration:
            return
        raise RuntimeError("L-BFGS did not reach the target.")


def until(objectives: Iterator[float], target: float) -> None:
    """Go on until the objective is low enough."""
    for _, value in zip(range(100_000), objectives, strict=False):
        if value <= target:
            return
    raise RuntimeError("The target was not reached.")


def problem(per_class: int = 500) -> MUFM:
    """Return the multilayer model on a mixture of normal classes."""
    data = gaussian_mixture(num_classes=10, dim=64, per_class=per_class, components=1, radius=1.0, noise=0.3, seed=0)
    return MUFM(data.inputs, data.labels, lambda_w=0.05, lambda_h=1e-5)


def multilayer() -> Calls:
    """From data to a certificate, and the rivals until they are near the certified value."""
    given = problem()
    best, rival = given.solve().value, JointModel(given)
    calls: dict[str, Callable[[], object]] = {
        "ours": lambda: MUFM(given.inputs, given.labels, lambda_w=given.lambda_w, lambda_h=given.lambda_h).solve()
    }
    for words, excess in (("1e-3", 1e-3), ("1e-8", 1e-8)):
        target = best * (1 + excess)
        calls[f"gradient descent to {words}"] = lambda target=target: until(rival.descent(), target)
        calls[f"alternation to {words}"] = lambda target=target: until(rival.alternation(), target)
        calls[f"L-BFGS to {words}"] = lambda target=target: rival.lbfgs(target)
    return calls


def layer_peeled() -> Calls:
    """Newton's method in the logits of like classes, and the semidefinite program of the paper."""

    def model() -> LayerPeeled:
        return LayerPeeled.imbalanced(10, 5, 10, energy_w=1.0, energy_h=5.0)

    return {
        "ours": lambda: model().solve(GroupedNewton(tolerance=1e-9)),
        _SDP: lambda: solve_sdp(model()),
    }


def after_one_pass() -> Calls:
    """Solving from the sums of 1,000 and of 100,000 samples, λ_H N held fixed."""

    def solving(per_class: int) -> Callable[[], object]:
        data = gaussian_mixture(num_classes=10, dim=64, per_class=per_class, components=1, radius=1.0, noise=0.3, seed=0)
        sums = MUFM(data.inputs, data.labels, lambda_w=5e-3, lambda_h=5e-4 / per_class).reduced
        return partial(EliminatedFeatures().minimize, sums, torch.zeros_like(sums.cross))

    return {"1,000 samples": solving(100), "ours": solving(10_000)}


_RIVALS = [f"{name} to {words}" for words in ("1e-3", "1e-8") for name in ("gradient descent", "alternation", "L-BFGS")]
ROWS = {
    "multilayer_model": Row(
        "MUFM, K = 10, d = 64, N = 5,000, from data to certificate", multilayer, {name: Ratio("ours", name) for name in _RIVALS}
    ),
    "layer_peeled": Row(
        "layer-peeled model, 10 classes, imbalance 10",
        layer_peeled,
        {"semidefinite program": Ratio("ours", "semidefinite program")},
    ),
    "multilayer_samples": Row(
        "MUFM after one pass, N = 100,000 over 1,000", after_one_pass, {"1,000 samples": Ratio("ours", "1,000 samples")}
    ),
}
