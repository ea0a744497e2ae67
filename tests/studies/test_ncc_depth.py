"""Minimal NCC depth: easy and hard data, corruption, both depths, and the frequency counted by hand."""

import pytest
import torch

from ncollapse.data import Batches, gaussian_mixture
from ncollapse.depth import EffectiveDepth
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import measure
from ncollapse.studies import DepthComparison, MinimalDepth, compare_ncc_depths, minimal_ncc_depth, ncc_depth
from ncollapse.train import TrainConfig, train

MODEL = FCResNetConfig(width=24)
TRAINING = TrainConfig(epochs=25, batch_size=16, learning_rate=0.05)


def test_separated_classes_need_no_block_and_mixtures_do():
    easy = gaussian_mixture(3, 6, 16, components=1, radius=8.0, noise=0.1)
    found = minimal_ncc_depth(easy, [1, 0], model=MODEL, training=TRAINING, epsilon=0.0)
    assert found == MinimalDepth(0, {0: 0.0, 1: 0.0}, 0.0)
    hard = gaussian_mixture(4, 4, 16, components=2, noise=0.2)
    found = minimal_ncc_depth(hard, [0, 2], model=MODEL, training=TRAINING, epsilon=0.05)
    assert found.depth == 2
    assert found.errors[0] > 0.05 >= found.errors[2]
    assert minimal_ncc_depth(hard, [0], model=MODEL, training=TRAINING, epsilon=0.05).depth is None


def test_the_best_seed_counts_and_the_error_is_that_of_the_last_layer():
    data = gaussian_mixture(4, 4, 12, components=2, noise=0.8)
    short = TrainConfig(epochs=3, batch_size=16, learning_rate=0.05)
    errors = []
    for seed in (0, 1, 2):
        network = FCResNet(FCResNetConfig(width=24, num_blocks=1), data.input_dim, 4, seed)
        for _ in train(network, data, short, seed=seed):
            pass
        errors.append(measure(network, Batches(data, 48), num_classes=4).value("pfc3_error", "blocks.0"))
    assert len(set(errors)) > 1
    found = minimal_ncc_depth(data, [1], model=MODEL, training=short, seeds=(0, 1, 2))
    assert found.errors == {1: pytest.approx(min(errors), abs=1e-15)}


def test_the_second_half_alone_is_corrupted():
    data = gaussian_mixture(4, 5, 50)
    order = {tuple(row): int(label) for row, label in zip(data.inputs.tolist(), data.labels, strict=True)}
    mixed = ncc_depth._half_corrupted(data, 1.0, 3)
    true = torch.tensor([order[tuple(row)] for row in mixed.inputs.tolist()])
    assert len(set(map(tuple, mixed.inputs.tolist()))) == 200
    assert torch.equal(mixed.labels[:100], true[:100])
    changed = (mixed.labels[100:] != true[100:]).double().mean()
    assert 0.6 < float(changed) < 0.9
    assert torch.equal(ncc_depth._half_corrupted(data, 0.0, 3).labels, true)


def test_both_depths_of_every_draw():
    data = gaussian_mixture(3, 6, 20, components=1, radius=8.0, noise=0.1)
    options = {"model": MODEL, "training": TrainConfig(epochs=8, batch_size=15, learning_rate=0.05), "epsilon": 0.0}
    clean = compare_ncc_depths(data, [0, 1], corruption=0.0, draws=2, **options)
    assert [m.depth for m in clean.minimal] == [0, 0]
    assert [t.depth for t in clean.trained] == [0, 0]
    assert clean.frequency == 1
    corrupted = compare_ncc_depths(data, [0, 1], corruption=1.0, draws=2, **options)
    assert [m.depth for m in corrupted.minimal] == [None, None]
    assert corrupted.trained == clean.trained
    assert corrupted.frequency == 0
    assert corrupted.corruption == 1.0


def test_the_frequency_by_hand():
    trained = tuple(EffectiveDepth(0.0, depth, True, True) for depth in (2, 3, 1, 9))
    minimal = tuple(MinimalDepth(depth, {}, 0.0) for depth in (3, 3, 0, None))
    assert DepthComparison(trained, minimal, 0.5).frequency == 0.5


def test_wrong_arguments_are_named():
    data = gaussian_mixture(2, 3, 4)
    with pytest.raises(ValueError, match=r"got 0 depths, 1 seeds and epsilon=0\.005\. Pass depths=\[1, 2, 3\]"):
        minimal_ncc_depth(data, [], model=MODEL, training=TRAINING)
    with pytest.raises(ValueError, match=r"got 1 depths, 1 seeds and epsilon=-1"):
        minimal_ncc_depth(data, [1], model=MODEL, training=TRAINING, epsilon=-1)
    with pytest.raises(ValueError, match=r"at least one draw, got 0\. Pass draws=5"):
        compare_ncc_depths(data, [1], model=MODEL, training=TRAINING, corruption=0.0, draws=0)
