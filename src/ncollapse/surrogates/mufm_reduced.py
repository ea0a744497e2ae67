"""The multilayer model with mean squared error, its features eliminated: K×d unknowns, whatever the number of samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ncollapse.surrogates.problem import Variables


@dataclass(frozen=True)
class ReducedMUFM:
    r"""The least objective for given weights, and what the certificate needs, from three sums over the samples.

    With :math:`A = (N I + W W^T / \lambda_H)^{-1}` and the residual :math:`R = W X - Y`:

    .. math:: F(W) = \min_H J(W, H) = \tfrac12 \mathrm{tr}(A R R^T) + \tfrac{\lambda_W}{2} \lVert W \rVert^2,
        \qquad \Gamma = A R

    and the gradient is :math:`A R X^T - \Gamma \Gamma^T W / \lambda_H + \lambda_W W`. One evaluation costs O(K d²).

    Attributes:
        num_samples: N.
        inputs: :math:`X X^T`, shape (d, d); centered sums for a free bias, here and below.
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

    def value_and_gradient(self, variables: Variables) -> tuple[float, Variables]:
        """F and its gradient.

        Args:
            variables: "weight", shape (K, d).

        Returns:
            The value and the gradient under the same name.
        """
        weight = variables["weight"]
        identity = torch.eye(len(weight), dtype=torch.float64)
        inverse = torch.linalg.inv(self.num_samples * identity + weight @ weight.T / self.lambda_h)
        moved = weight @ self.inputs - self.cross
        residual = moved @ weight.T - weight @ self.cross.T + self.targets
        pulled = inverse @ residual
        value = 0.5 * pulled.trace() + 0.5 * self.lambda_w * weight.square().sum()
        gradient = inverse @ moved - pulled @ inverse @ weight / self.lambda_h + self.lambda_w * weight
        return float(value), {"weight": gradient}

    def ridge(self) -> Tensor:
        """The best weight for features that stay the data: ridge regression.

        Returns:
            Shape (K, d).
        """
        identity = torch.eye(len(self.inputs), dtype=torch.float64)
        return torch.linalg.solve(self.inputs + self.num_samples * self.lambda_w * identity, self.cross, left=False)
