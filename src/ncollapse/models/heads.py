"""Heads whose classifier is no parameter: a simplex equiangular tight frame, fixed from the start."""

import math

import torch
from torch import Tensor, nn

from ncollapse.etf import simplex_etf


class FixedETFHead(nn.Module):
    r"""Logits :math:`W h` of a fixed simplex ETF, rows of norm :math:`\sqrt{E_W}`, features set to norm :math:`\sqrt{E_H}`.

    The classifier is where collapse would bring it, and stays there: only features are trained. ``head.classifier`` is an
    ``nn.Linear`` whose weight is a buffer, so that measurements find it and optimizers do not.

    Attributes:
        normalize: What is done to the features first.
        classifier: The fixed linear layer, without bias.

    Args:
        dim: d, at least K-1.
        num_classes: K, at least 2.
        seed: Decides the frame's random orientation; PyTorch's global generator is neither read nor advanced.
        weight_energy: :math:`E_W`, squared norm of a classifier row.
        feature_energy: :math:`E_H`, squared norm of the features; None leaves them as they come.
        batch_norm: Whether features are batch-normalized before their norm is set.

    Raises:
        ValueError: If d < K-1 or K < 2, or an energy is not positive.

    Reference:
        Yang et al. (2022), NeurIPS; Zhu et al. (2021), NeurIPS, with features that are not normalized.

    Example:
        >>> head = FixedETFHead(dim=8, num_classes=4, seed=0)
        >>> [name for name, _ in head.named_parameters()]
        []
        >>> round(float(head(100 * head.classifier.weight).diagonal().min()), 6)
        1.0
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        seed: int,
        *,
        weight_energy: float = 1.0,
        feature_energy: float | None = 1.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        if not weight_energy > 0 or not (feature_energy is None or feature_energy > 0):
            raise ValueError(
                f"FixedETFHead needs positive energies, got {weight_energy} and {feature_energy}. "
                "Pass feature_energy=None for features that are not normalized."
            )
        frame = simplex_etf(num_classes, dim, generator=torch.Generator().manual_seed(seed))
        steps: list[nn.Module] = [nn.BatchNorm1d(dim)] if batch_norm else []
        steps += [] if feature_energy is None else [_OnSphere(math.sqrt(feature_energy))]
        self.normalize = nn.Sequential(*steps)
        self.classifier = _FixedLinear((math.sqrt(weight_energy) * frame).to(torch.get_default_dtype()))

    def forward(self, features: Tensor) -> Tensor:
        """Compute logits."""
        return self.classifier(self.normalize(features))


class _OnSphere(nn.Module):
    """Scales every row to one norm."""

    def __init__(self, radius: float) -> None:
        super().__init__()
        self.radius = radius

    def forward(self, features: Tensor) -> Tensor:
        return self.radius * nn.functional.normalize(features, dim=1)


class _FixedLinear(nn.Linear):
    """A linear layer without bias whose weight is a buffer."""

    def __init__(self, weight: Tensor) -> None:
        # On "meta" nothing is drawn: the weight is replaced.
        super().__init__(weight.shape[1], weight.shape[0], bias=False, device="meta")
        del self.weight
        self.register_buffer("weight", weight)
