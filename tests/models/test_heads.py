"""The fixed ETF head: its frame, what is trained, what a measurement sees, imbalance, accuracy beside a learned head."""

import math
from dataclasses import replace

import pytest
import torch

from ncollapse.data import LabeledData, gaussian_mixture
from ncollapse.models import ConvResNet, ConvResNetConfig, FCResNet, FCResNetConfig, FixedETFHead
from ncollapse.probe import measure
from ncollapse.studies import RecipeError, override, recipe_by_name
from ncollapse.train import TrainConfig, train


def cosines(rows):
    unit = torch.nn.functional.normalize(rows.double(), dim=1)
    return unit @ unit.T


@pytest.mark.parametrize(("weight_energy", "feature_energy"), [(1.0, 1.0), (4.0, 9.0), (2.0, None)])
def test_logits(weight_energy, feature_energy):
    head = FixedETFHead(7, 4, seed=3, weight_energy=weight_energy, feature_energy=feature_energy).double()
    weight = head.classifier.weight
    assert torch.allclose(weight @ weight.T, weight_energy * (4 * torch.eye(4).double() - 1) / 3, atol=1e-6)
    features = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double()
    if feature_energy is not None:
        expected = math.sqrt(feature_energy) * features / torch.linalg.vector_norm(features, dim=1, keepdim=True)
    else:
        expected = features
    assert torch.allclose(head(features), expected @ weight.T, rtol=1e-12)
    assert not list(head.parameters())
    assert list(head.state_dict()) == ["classifier.weight"]


def test_the_seed_decides_the_frame_and_the_global_generator_is_left():
    before = torch.random.get_rng_state()
    first, again, other = (FixedETFHead(7, 4, seed=seed).classifier.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.random.get_rng_state())


def test_batch_normalization_comes_first():
    head = FixedETFHead(3, 2, seed=0, batch_norm=True)
    assert [type(step).__name__ for step in head.normalize] == ["BatchNorm1d", "_OnSphere"]
    assert torch.allclose(torch.linalg.vector_norm(head.normalize(3 + torch.randn(50, 3)), dim=1), torch.ones(50))


@pytest.mark.parametrize("kind", ["fc", "conv"])
def test_networks_with_a_fixed_head(kind):
    if kind == "fc":
        model = FCResNet(FCResNetConfig(width=8, num_blocks=1, head="fixed_etf"), 16, 4, seed=0)
        plain = FCResNet(FCResNetConfig(width=8, num_blocks=1), 16, 4, seed=0)
    else:
        shape = ConvResNetConfig(channels=(4, 8), blocks=(1, 1))
        model = ConvResNet(replace(shape, head="fixed_etf"), (1, 4, 4), 4, seed=0)
        plain = ConvResNet(shape, (1, 4, 4), 4, seed=0)
    assert model.collapse_classifier == "head.classifier"
    assert cosines(model.head.classifier.weight)[0, 1] == pytest.approx(-1 / 3, abs=1e-6)
    assert torch.linalg.vector_norm(model.head.classifier.weight, dim=1).tolist() == pytest.approx([1] * 4, abs=1e-6)
    # The rest starts as it does with a trained head.
    ours, theirs = dict(model.named_parameters()), dict(plain.named_parameters())
    assert set(theirs) - set(ours) == {"head.weight", "head.bias"}
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    data = gaussian_mixture(4, 16, 6)
    before = model.head.classifier.weight.clone()
    for _ in train(model, data, TrainConfig(epochs=2, batch_size=6, loss="dot_regression"), seed=0):
        pass
    assert torch.equal(model.head.classifier.weight, before)
    found = measure(model, [(data.inputs, data.labels)], num_classes=4, metrics=["pfc2", "nc2_etf_weights"])
    layers = {row.layer for row in found.rows if row.metric == "nc2_etf_weights"}
    assert found.value("nc2_etf_weights", *layers) == pytest.approx(0, abs=1e-6)


def test_recipes_may_fix_the_head():
    recipe = recipe_by_name("demo")
    fixed = override(recipe, ["model.head=fixed_etf", "train.loss=dot_regression"])
    assert fixed.fingerprint() != recipe.fingerprint()
    with pytest.raises(RecipeError, match=r"train\.loss=dot_regression needs model\.head=fixed_etf, got linear"):
        override(recipe, ["train.loss=dot_regression"])
    with pytest.raises(RecipeError, match=r"model\.head"):
        override(recipe, ["model.head=frozen"])


def imbalanced(ratio):
    """Three classes of 60 samples, three of 60 / ratio."""
    data = gaussian_mixture(6, 20, 60, components=1, radius=3.0, noise=0.6, seed=2)
    keep = torch.cat([60 * k + torch.arange(60 if k < 3 else 60 // ratio) for k in range(6)])
    return data.subset(keep)


def trained_means(data, head, loss):
    config = FCResNetConfig(width=32, num_blocks=1, normalization="none", head=head)
    model = FCResNet(config, 20, 6, seed=0)
    for _ in train(
        model, data, TrainConfig(epochs=150, batch_size=64, learning_rate=0.1, weight_decay=2e-3, loss=loss), seed=0
    ):
        pass
    with torch.no_grad():
        features = model.blocks(model.stem(data.inputs))
    return torch.stack([features[data.labels == k].mean(dim=0) for k in range(6)])


def test_imbalance_moves_learned_means_and_not_those_of_a_fixed_frame():
    data = imbalanced(20)
    fixed = cosines(trained_means(data, "fixed_etf", "dot_regression"))
    learned = cosines(trained_means(data, "linear", "cross_entropy"))
    off = ~torch.eye(3, dtype=torch.bool)
    means = [float(found[3:, 3:][off].mean()) for found in (fixed, learned)]
    assert means[0] == pytest.approx(-1 / 5, abs=0.05)
    assert means[1] > 0.1


def test_a_fixed_frame_classifies_as_well_as_a_learned_head():
    train_set, test_set = (gaussian_mixture(4, 20, 100, split=split) for split in ("train", "test"))
    accuracy = []
    for fixed in (False, True):
        model = FCResNet(FCResNetConfig(width=32, num_blocks=2, normalization="none"), 20, 4, seed=0)
        if fixed:
            model.head = FixedETFHead(32, 4, seed=0, weight_energy=25.0, feature_energy=None)
        for _ in train(model, train_set, TrainConfig(epochs=40, batch_size=50, weight_decay=1e-3), seed=0):
            pass
        with torch.no_grad():
            accuracy.append(float((model(test_set.inputs).argmax(dim=1) == test_set.labels).double().mean()))
    assert accuracy[1] >= accuracy[0] - 0.01


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: FixedETFHead(2, 4, 0), r"A simplex ETF of 4 classes needs at least 3 dimensions, got 2\."),
        (lambda: FixedETFHead(4, 4, 0, weight_energy=0.0), r"needs positive energies, got 0\.0 and 1\.0\."),
        (lambda: FCResNetConfig(head="etf"), r"model\.head must be one of linear, fixed_etf, got 'etf'\."),
        (lambda: ConvResNetConfig(head="etf"), r"model\.head must be one of linear, fixed_etf, got 'etf'\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_data_of_the_imbalance_test():
    assert isinstance(imbalanced(20), LabeledData)
    assert imbalanced(20).labels.bincount().tolist() == [60] * 3 + [3] * 3
