"""The multilayer model with mean squared error after eliminating the features: K×d unknowns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.solution import Variables


def best_bound(
    sizes: Tensor, pulls: Tensor, conjugate: Callable[[float], float], lambda_w: float, lambda_h: float
) -> tuple[float, float]:
    """Return the best lower bound of the multilayer model's minimum from multiples tΓ of a gradient in the logits."""
    # Replacing the loss by its tangent of slope Γ leaves a quadratic in W and H. It is bounded below iff ‖Γ‖₂² < λ_W λ_H, and
    # its minimum, less the loss's conjugate, is a lower bound. Γ is scaled down until that holds, and a little further: the
    # bound may be better inside.
    squared = float(sizes[-1])
    reach = min(1.0, (lambda_w * lambda_h / squared) ** 0.5)

    def bound(t: float) -> float:
        room = lambda_w - t**2 * sizes / lambda_h
        if not bool((room > 0).all()):
            return -torch.inf
        return -conjugate(t) - 0.5 * float((t**2 * pulls / room).sum())

    # At the edge of the admitted set one direction's room vanishes with its pull: the limit is taken from inside.
    return squared, max(bound(t) for t in (reach, *(reach * (1 - 10.0**-j) for j in range(1, 15))))


@dataclass(frozen=True, eq=False)
class ReducedMUFM:
    r"""``MUFM`` with mean squared error as a function of the weight alone, from three sums over the samples.

    With :math:`A = (N I + W W^T / \lambda_H)^{-1}` and the residual :math:`R = W X - Y`:

    .. math:: F(W) = \min_H J(W, H) = \tfrac12 \mathrm{tr}(A R R^T) + \tfrac{\lambda_W}{2} \lVert W \rVert^2,
        \qquad \Gamma = A R

    The gradient is :math:`A R X^T - \Gamma \Gamma^T W / \lambda_H + \lambda_W W`. One evaluation costs O(K d²).

    Attributes:
        inputs: :math:`X X^T`, shape (d, d). For a free bias the samples and targets of all three sums are centered.
        cross: :math:`Y X^T`, shape (K, d).
        targets: :math:`Y Y^T`, shape (K, K).
        lambda_w: Decay of the weight.
        lambda_h: Cost of moving the features.
    """

    num_samples: int
    inputs: Tensor
    cross: Tensor
    targets: Tensor
    lambda_w: float
    lambda_h: float

    @classmethod
    def from_samples(
        cls, inputs: Tensor, labels: Tensor, num_classes: int, *, lambda_w: float, lambda_h: float, centered: bool
    ) -> ReducedMUFM:
        """Take the sums over the samples, centered for a free bias."""
        targets = one_hot(labels, num_classes)
        if centered:
            inputs, targets = inputs - inputs.mean(dim=0), targets - targets.mean(dim=0)
        return cls(len(inputs), inputs.T @ inputs, targets.T @ inputs, targets.T @ targets, lambda_w, lambda_h)

    def padded(self) -> ReducedMUFM:
        """Add K dimensions in which the data are zero."""
        more = len(self.targets)
        pad = torch.nn.functional.pad
        return replace(self, inputs=pad(self.inputs, (0, more, 0, more)), cross=pad(self.cross, (0, more)))

    def value_and_gradient(self, variables: Variables) -> tuple[float, Variables]:
        """F and its gradient at a "weight" (K, d)."""
        weight = variables["weight"]
        identity = torch.eye(len(weight), dtype=torch.float64)
        inverse = torch.linalg.inv(self.num_samples * identity + weight @ weight.T / self.lambda_h)
        moved = weight @ self.inputs - self.cross
        residual = moved @ weight.T - weight @ self.cross.T + self.targets
        pulled = inverse @ residual
        value = 0.5 * pulled.trace() + 0.5 * self.lambda_w * weight.square().sum()
        gradient = inverse @ moved - pulled @ inverse @ weight / self.lambda_h + self.lambda_w * weight
        return float(value), {"weight": gradient}

    def dual(self, weight: Tensor) -> tuple[float, float]:
        """Return the squared spectral norm of Γ at a weight (K, d), and the lower bound from it."""
        identity = torch.eye(len(weight), dtype=torch.float64)
        inverse = torch.linalg.inv(self.num_samples * identity + weight @ weight.T / self.lambda_h)
        moved, aims = weight @ self.inputs - self.cross, weight @ self.cross.T - self.targets
        sizes, axes = torch.linalg.eigh(inverse @ (moved @ weight.T - aims) @ inverse)
        squares, overlap = self.num_samples / 2 * float(sizes.sum()), float((inverse @ aims).trace())
        pulls = (axes.T @ inverse @ moved).square().sum(dim=1)
        return best_bound(sizes, pulls, lambda t: t**2 * squares + t * overlap, self.lambda_w, self.lambda_h)

    def ridge(self) -> Tensor:
        """Return the best weight (K, d) if the features are the data: ridge regression."""
        identity = torch.eye(len(self.inputs), dtype=torch.float64)
        return torch.linalg.solve(self.inputs + self.num_samples * self.lambda_w * identity, self.cross, left=False)

    def alternated(self, weight: Tensor) -> Tensor:
        """Return the best weight (K, d) for the best features of another: ridge regression on them, from the same sums."""
        identity = torch.eye(len(weight), dtype=torch.float64)
        inverse = torch.linalg.inv(self.num_samples * identity + weight @ weight.T / self.lambda_h)
        moved, aims = weight @ self.inputs - self.cross, weight @ self.cross.T - self.targets
        # The features are X - Wᵀ Γ/λ_H with Γ = A R, so their products with themselves and with Y follow from those of X and Y.
        pull, slopes = weight.T @ inverse @ moved / self.lambda_h, inverse @ (moved @ weight.T - aims) @ inverse
        features = self.inputs - pull - pull.T + weight.T @ slopes @ weight / self.lambda_h**2
        return replace(self, inputs=features, cross=self.cross - aims.T @ inverse @ weight / self.lambda_h).ridge()
