"""The two layers of the theory page on which the golden numbers of 7.3 were computed."""

import math

import pytest
import torch

COUNTS = {"balanced": (4, 4, 4), "imbalanced": (6, 4, 2)}


@pytest.fixture(params=list(COUNTS))
def golden(request):
    """Name of the case, h^0, h^L and the labels: d = 5, K = 3, labels sorted."""
    y = [k for k, n in enumerate(COUNTS[request.param]) for _ in range(n)]
    h0 = [[math.sin(1 + i + 2 * j + 0.5 * i * j) + 0.8 * (j == y[i]) for j in range(5)] for i in range(12)]
    h1 = [
        [0.3 * math.cos(0.5 + 2 * i + j + 0.3 * i * j) + 2 * ((j == y[i]) - (j < 3) / 3) for j in range(5)] for i in range(12)
    ]
    return request.param, torch.tensor(h0, dtype=torch.float64), torch.tensor(h1, dtype=torch.float64), torch.tensor(y)
