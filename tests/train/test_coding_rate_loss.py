"""MCR² as a loss: its gradient in closed form, that only it moves the features, and what is refused."""

from dataclasses import replace

import pytest
import torch

from ncollapse.data import gaussian_mixture
from ncollapse.metrics.coding_rate import coding_rate
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.studies import override, recipe_by_name
from ncollapse.train import TrainConfig, train
from ncollapse.train.coding_rate_loss import coding_rate_loss
from ncollapse.train.losses import cross_entropy

DATA = gaussian_mixture(num_classes=3, dim=5, per_class=20)
CONFIG = TrainConfig(epochs=20, batch_size=60, learning_rate=0.1, loss="mcr2", weight_decay=0.0, milestones=())
SHAPE = FCResNetConfig(width=6, num_blocks=1, normalization="none")


def rate_gradient(rows, share, distortion=0.5):
    """The gradient of share/2 log det(I + c ZᵀZ) in the rows Z, shape (n, d): share c Z (I + c ZᵀZ)⁻¹."""
    scale = rows.shape[1] / (len(rows) * distortion**2)
    return share * scale * rows @ torch.linalg.inv(torch.eye(rows.shape[1]).double() + scale * rows.T @ rows)


def test_the_gradient_is_the_closed_form() -> None:
    features = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    labels = torch.arange(12) % 3
    norms = features.detach().norm(dim=1, keepdim=True)
    rows = features.detach() / norms
    total = rate_gradient(rows, 1.0)
    for k in range(3):
        total[labels == k] -= rate_gradient(rows[labels == k], 1 / 3)
    # Through the division by the norm: the part along the sphere.
    expected = -(total - (total * rows).sum(1, keepdim=True) * rows) / norms
    head = torch.nn.Linear(4, 3).double()
    head.collapse_classifier = ""
    with coding_rate_loss(head, cross_entropy) as loss:
        value = loss(head(features), labels)
    plain = coding_rate(features.detach(), labels, num_classes=3).reduction
    assert value.item() == pytest.approx(cross_entropy(head(features), labels).item() - plain.item(), rel=1e-12)
    value.backward()
    torch.testing.assert_close(features.grad, expected, rtol=1e-9, atol=1e-12)
    assert head.weight.grad.abs().max() > 0
    assert not head._forward_pre_hooks


def test_training_raises_the_coding_rate_reduction_and_the_classifier_follows() -> None:
    network = FCResNet(SHAPE, 5, 3, seed=0)

    def reduction() -> float:
        kept = []
        handle = network.get_submodule(network.collapse_classifier).register_forward_pre_hook(lambda _, x: kept.append(x[0]))
        network.eval()(DATA.inputs)
        handle.remove()
        return float(coding_rate(kept[0].detach(), DATA.labels, num_classes=3).reduction)

    before = reduction()
    records = list(train(network, DATA, CONFIG, seed=0))
    assert reduction() > before + 0.3
    assert records[-1].accuracy > records[0].accuracy
    assert records[-1].loss < records[0].loss


def test_what_it_cannot_do() -> None:
    with pytest.raises(ValueError, match=r"mcr2 needs a network that names its classifier .* got Linear"):
        list(train(torch.nn.Linear(5, 3), DATA, CONFIG, seed=0))
    with pytest.raises(ValueError, match=r"mcr2 needs one process and train.compiled=false"):
        train(FCResNet(SHAPE, 5, 3, seed=0), DATA, replace(CONFIG, compiled=True), seed=0)
    with pytest.raises(ValueError, match=r"train.loss=mcr2 needs model.head=linear, got fixed_etf"):
        override(recipe_by_name("demo"), ["train.loss=mcr2", "model.head=fixed_etf"])
