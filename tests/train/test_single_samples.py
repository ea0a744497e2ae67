"""Class-mean logits recorded along steps of one sample."""

import pytest
import torch
from torch import nn

from ncollapse.data import gaussian_mixture, geo_mnist
from ncollapse.models import LeNet
from ncollapse.train import TrainConfig, record_class_logits, train


def test_steps_are_those_of_training_with_batches_of_one():
    data = gaussian_mixture(3, 5, 4)
    recorded, trained = nn.Linear(5, 3), nn.Linear(5, 3)
    trained.load_state_dict(recorded.state_dict())
    path = record_class_logits(recorded, data, iterations=24, learning_rate=0.1, every=6, seed=2)
    config = TrainConfig(
        epochs=2, batch_size=1, learning_rate=0.1, momentum=0.0, weight_decay=0.0, milestones=(), clip_norm=None
    )
    for _ in train(trained, data, config, seed=2):
        pass
    assert torch.allclose(recorded.weight, trained.weight, rtol=1e-6)
    assert path.iterations.tolist() == [0, 6, 12, 18, 24]
    assert path.means.shape == (5, 3, 3)
    with torch.no_grad():
        logits = trained(data.inputs)
    for k in range(3):
        assert torch.allclose(path.means[-1, k], logits[data.labels == k].double().mean(dim=0), atol=1e-6)


def test_a_small_network_learns_shapes():
    data = geo_mnist(per_class=10)
    path = record_class_logits(LeNet(3, seed=0), data, iterations=60, learning_rate=0.02, every=20)
    margins = [float(torch.diagonal(means).mean() - means.mean()) for means in path.means]
    assert margins[-1] > margins[0]
    assert torch.equal(LeNet(3, seed=1).head.weight, LeNet(3, seed=1).head.weight)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"iterations": 0, "learning_rate": 0.1}, r"iterations and every of 1 or more and a positive learning rate, got 0, 1"),
        ({"iterations": 5, "learning_rate": -0.1}, r"got 5, 1 and -0\.1\."),
    ],
)
def test_errors_name_the_condition(arguments, words):
    with pytest.raises(ValueError, match=words):
        record_class_logits(nn.Linear(5, 3), gaussian_mixture(3, 5, 4), **arguments)
    missing = gaussian_mixture(3, 5, 4).subset([0, 1, 4])
    with pytest.raises(ValueError, match=r"samples of every class, got counts \[2, 1, 0\]\."):
        record_class_logits(nn.Linear(5, 3), missing, iterations=1, learning_rate=0.1)
