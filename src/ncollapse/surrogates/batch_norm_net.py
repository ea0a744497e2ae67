"""The last two layers of a network with batch normalization under the squared loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from functools import cached_property

import torch
from torch import Tensor

from ncollapse.surrogates.solving.arguments import check_positive
from ncollapse.surrogates.solving.losses import one_hot
from ncollapse.surrogates.solving.problem import DataProblem
from ncollapse.surrogates.solving.solution import Certificate, Inequality, Solution, Variables
from ncollapse.surrogates.solving.solvers import LBFGS, GradientDescent


def normalize_batch(values: Tensor) -> Tensor:
    """Center every column and scale it to norm one: batch normalization of a full batch, over √N."""
    centered = values - values.mean(dim=0)
    return centered / torch.linalg.norm(centered, dim=0)


@dataclass(frozen=True, eq=False)
class BatchNormNet(DataProblem):
    r"""The last two layers of a ReLU network with batch normalization, squared loss and weight decay.

    .. math:: \min \frac12 \lVert \sum_j \mathrm{relu}(\gamma_j \mathrm{BN}(F w_j) + \tfrac{\alpha_j}{\sqrt N} 1) v_j^T - Y
        \rVert^2 + \frac\lambda2 \sum_j (\gamma_j^2 + \alpha_j^2 + \lVert v_j \rVert^2)

    If F has full row rank, a global minimizer has one hidden unit per class, whatever the width: :math:`F w_j = y_j` is the
    indicator of the class, :math:`\gamma_j = \sqrt{s_j (1 - n_j/N)}`, :math:`\alpha_j = \sqrt{s_j n_j/N}` and :math:`v_j =
    \sqrt{s_j} e_j` with :math:`s_j = (\sqrt{n_j} - \lambda)_+`. The minimum is :math:`\sum_j \frac12 (\sqrt{n_j} - s_j)^2 +
    \lambda s_j`. The hidden features are an orthogonal frame, and a simplex ETF once they are centered. No hidden unit is
    longer than its :math:`(\gamma, \alpha)`, so :math:`\min_Z \frac12 \lVert Z - Y \rVert^2 + \lambda \lVert Z \rVert_*`
    is a lower bound for any F and width.

    Attributes:
        inputs: F, the features of the layer before, shape (N, d), of rank N.
        labels: Classes in [0, K), each with a sample, shape (N,).
        lambda_w: λ, decay of all but the hidden layer, positive.
        width: m, the number of hidden units, at least K; None takes K.

    Reference:
        Ergen, Sahiner, Ozturkler, Pauly, Mardani & Pilanci (2022), ICLR; the shift's factor :math:`1/\sqrt N` follows from
        their definition of batch normalization. The bound for all widths is derived.
    """

    inputs: Tensor
    labels: Tensor
    _: KW_ONLY
    lambda_w: float
    width: int | None = None

    def __post_init__(self) -> None:
        check_positive(lambda_w=self.lambda_w)
        self._check_data()
        if self.num_units < self.num_classes:
            raise ValueError(
                f"The closed form needs width >= {self.num_classes}, one unit per class, got {self.width}. Raise width."
            )
        rank = int(torch.linalg.matrix_rank(self.inputs))
        if rank < len(self.inputs):
            raise ValueError(
                f"inputs must have full row rank {len(self.inputs)} so that every class's indicator is reached, got rank "
                f"{rank} of {tuple(self.inputs.shape)}. Take fewer samples or more dimensions."
            )

    @property
    def num_units(self) -> int:
        """The number of hidden units, m."""
        return self.num_classes if self.width is None else self.width

    @cached_property
    def _counts(self) -> Tensor:
        return torch.tensor(self.counts, dtype=torch.float64)

    solvers = (LBFGS, GradientDescent)

    @cached_property
    def sizes(self) -> Tensor:
        r"""The numbers :math:`s_j = (\sqrt{n_j} - \lambda)_+`, shape (K,)."""
        return (self._counts.sqrt() - self.lambda_w).clamp(min=0)

    @cached_property
    def minimum(self) -> float:
        """The global minimum."""
        return float((0.5 * (self._counts.sqrt() - self.sizes).square() + self.lambda_w * self.sizes).sum())

    def draw(self, normal: Callable[..., Tensor]) -> Variables:
        """Draw standard normal hidden and last weights; γ = 1 and α = 0, as in frameworks."""
        hidden, weight = normal(self.num_units, self.inputs.shape[1]), normal(self.num_classes, self.num_units)
        return {"hidden": hidden, "gamma": torch.ones_like(weight[0]), "alpha": torch.zeros_like(weight[0]), "weight": weight}

    def features(self, variables: Variables) -> Tensor:
        """Return the hidden features behind ReLU, shape (N, m)."""
        scaled = variables["gamma"] * normalize_batch(self.inputs @ variables["hidden"].T)
        return torch.relu(scaled + variables["alpha"] / math.sqrt(len(self.inputs)))

    def complete(self, variables: Variables) -> Variables:
        """Add the hidden features."""
        return variables | {"features": self.features(variables)}

    def objective(self, variables: Variables) -> Tensor:
        """Loss and decay of "hidden" (m, d), "gamma" and "alpha" (m,), "weight" (K, m)."""
        errors = self.features(variables) @ variables["weight"].T - one_hot(self.labels, self.num_classes)
        decay = sum(variables[name].square().sum() for name in ("gamma", "alpha", "weight"))
        return 0.5 * errors.square().sum() + self.lambda_w / 2 * decay

    def certificate(self, variables: Variables) -> Certificate:
        """Return the global minimum. If the inequality holds, no class is given up."""
        return Certificate(self.minimum, Inequality("λ <= min √n_k", self.lambda_w, math.sqrt(min(self.counts))))

    def closed_form(self) -> Solution:
        """Return the global minimum: one hidden unit per class, further units switched off."""
        indicators = one_hot(self.labels, self.num_classes)
        shares, roots = self._counts / len(self.labels), self.sizes.sqrt()
        units = torch.linalg.pinv(self.inputs) @ indicators
        spare = self.num_units - self.num_classes
        # Units that are switched off need some direction for their normalization to exist.
        hidden = torch.cat([units.T, units.T[:1].expand(spare, -1)])
        padded = {"gamma": roots * (1 - shares).sqrt(), "alpha": roots * shares.sqrt(), "weight": torch.diag(roots)}
        point = {name: torch.nn.functional.pad(part, (0, spare)) for name, part in padded.items()}
        return self.solution({"hidden": hidden, **point}, "closed form")
