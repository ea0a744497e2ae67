"""MCR² as a training loss: the features gain coding rate, and the classifier follows them without moving them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ncollapse.train.losses import Loss

_DISTORTION = 0.5


@contextmanager
def coding_rate_loss(model: nn.Module, loss: Loss) -> Iterator[Loss]:
    r"""Return the loss :math:`-\Delta R(Z)` plus one of the logits, Z being what the classifier takes, in the body."""
    # The original has no classifier; ours learns from Z as from given data, so that accuracy and NC3 are defined.
    #
    # Reference:
    #     Yu et al. (2020), NeurIPS.
    taken: list[Tensor] = []

    def cut(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        taken[:] = inputs
        return tuple(features.detach() for features in inputs)

    def total(logits: Tensor, labels: Tensor) -> Tensor:
        return loss(logits, labels) - rate_reduction(taken[0], labels)

    handle = _classifier_of(model).register_forward_pre_hook(cut)
    try:
        yield total
    finally:
        handle.remove()


def _classifier_of(model: nn.Module) -> nn.Module:
    name: Any = getattr(model, "collapse_classifier", None)
    if not isinstance(name, str):
        raise ValueError(
            f"train.loss=mcr2 needs a network that names its classifier in the attribute collapse_classifier, got "
            f"{type(model).__name__}. Set it to the name of its last linear layer."
        )
    return model.get_submodule(name)


def rate_reduction(features: Tensor, labels: Tensor) -> Tensor:
    """Return ΔR of normalized features, as ``metrics.coding_rate`` does, with gradients."""
    rows = nn.functional.normalize(features.double(), dim=1)
    classes = [rows[labels == k] for k in labels.unique()]
    within = [len(of_class) / len(rows) * _rate(of_class) for of_class in classes]
    return _rate(rows) - torch.stack(within).sum()


def _rate(rows: Tensor) -> Tensor:
    num_samples, dim = rows.shape
    gram = torch.eye(dim, dtype=rows.dtype, device=rows.device) + dim / (num_samples * _DISTORTION**2) * rows.T @ rows
    # Half a log-determinant is the sum of the logarithms on the diagonal.
    return torch.linalg.cholesky(gram).diagonal().log().sum()
