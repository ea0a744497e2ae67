"""Local elasticity as experiments: the kernel of a linear network is that of its inputs."""

import math

import torch
from torch import nn

from ncollapse.analysis.elasticity import local_elasticity
from ncollapse.experiments import EXPERIMENTS, Work
from ncollapse.experiments.review_elasticity import normalized_kernel


def test_the_kernel_of_a_linear_network_is_the_cosine_of_its_inputs():
    inputs = torch.randn(6, 4, generator=torch.manual_seed(0)).double()
    labels = torch.tensor([0, 0, 0, 1, 1, 1])
    targets = torch.full((6, 1), 3.0).double()
    model = nn.Linear(4, 1, bias=False).double()
    found = local_elasticity(model, inputs, labels, loss=nn.functional.mse_loss, learning_rate=1e-3, targets=targets)
    unit = nn.functional.normalize(inputs, dim=1)
    torch.testing.assert_close(normalized_kernel(found), unit @ unit.T, atol=1e-9, rtol=0)


def test_classes_separate_only_if_their_effect_falls_slowly(tmp_path):
    found = EXPERIMENTS["review:sec3.2.2"].measure(Work(0, False, tmp_path, print))
    assert found.value is True
    # Means grow by exp(∫γ/2), and every sample keeps its noise, of variance t - 1.
    last = next(point.y for point in found.points if point.line == "γ = 2 t^-3/2" and point.x == 10_000)
    mean = 3 * math.exp(2 * (1 - 10_000**-0.5))
    assert abs(last - 0.5 * (1 + math.erf(mean / math.sqrt(2 * 9_999)))) < 0.06
