"""MNIST-1D: the values of its authors' package, the two parts, what a recipe takes of it."""

import pytest
import torch

from ncollapse.data import DataConfig, load_samples, mnist_1d


def test_values_are_those_of_the_authors_package() -> None:
    """Numbers of ``mnist1d.data.make_dataset()``, mnist1d 0.0.2.post1 from PyPI, with which all 200,000 agree to 1e-15."""
    train, test = mnist_1d(), mnist_1d("test")
    first = [-0.33200567, -0.47191037, -0.77869708, -1.00974083, -0.88235257]
    assert train.inputs[0, :5].tolist() == pytest.approx(first, abs=1e-7)
    held_out = [-0.07877078, -0.21073171, -0.09175138, 0.28267112, 0.32605815]
    assert test.inputs[0, :5].tolist() == pytest.approx(held_out, abs=1e-7)
    assert train.labels[:12].tolist() == [2, 6, 4, 5, 6, 6, 6, 0, 3, 1, 6, 9]
    everything = torch.cat((train.inputs, test.inputs)).double()
    assert float((everything**3).mean()) == pytest.approx(-0.06563051914401087, abs=1e-7)
    assert float(train.inputs.double().std(correction=0)) == pytest.approx(0.9976479749365886, abs=1e-7)


def test_both_parts_together_are_standardized_and_balanced() -> None:
    train, test = mnist_1d(), mnist_1d("test")
    everything = torch.cat((train.inputs, test.inputs)).double()
    assert float(everything.mean()) == pytest.approx(0, abs=1e-7)
    assert float(everything.std(correction=0)) == pytest.approx(1, abs=1e-7)
    assert (train.labels.bincount() + test.labels.bincount()).tolist() == [500] * 10


def test_a_recipe_takes_the_first_of_each_class_whatever_the_seed() -> None:
    data = load_samples(DataConfig("mnist_1d", per_class=394, seed=7))
    assert data.labels.bincount().tolist() == [394] * 10
    assert data.inputs.equal(mnist_1d().per_class(394).inputs)
    assert load_samples(DataConfig("mnist_1d", split="test")).inputs.equal(mnist_1d("test").inputs)
