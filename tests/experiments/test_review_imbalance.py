"""What the experiments on imbalanced classes compute themselves, against independent computations."""

import numpy as np
import pytest
import torch

from ncollapse.data.labeled import LabeledData
from ncollapse.experiments.review_imbalance import crossing, energies
from ncollapse.models import build_model
from ncollapse.recipes import FCResNetConfig


def test_energies_are_those_of_equation_14():
    # Class sizes differ: means over classes, not over samples.
    inputs = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    data = LabeledData(inputs, torch.tensor([0] * 9 + [1, 1, 2]), 3, "unequal")
    model = build_model(FCResNetConfig(width=4, num_blocks=1), (5,), 3, 1, None)
    energy_w, energy_h = energies(model, data)
    model.eval()
    with torch.no_grad():
        features = model.blocks[0](model.stem(inputs)).double().numpy()
    squares = (features**2).sum(axis=1)
    assert energy_h == pytest.approx(np.mean([squares[:9].mean(), squares[9:11].mean(), squares[11]]), rel=1e-6)
    assert energy_w == pytest.approx(float(model.head.weight.detach().square().sum()) / 3, rel=1e-6)


def test_a_cosine_crosses_a_level_between_two_ratios():
    # Halfway in the logarithm between 10 and 1000.
    assert crossing((1, 10, 1000), (-0.1, 0.0, 1.0)) == pytest.approx(100)
    assert crossing((1, 10), (-0.1, 0.4)) is None
    assert crossing((1, 10), (0.6, 0.9)) is None
