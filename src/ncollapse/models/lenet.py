"""The small convolutional network of the experiments on locally elastic equations."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LeNet(nn.Module):
    """Two convolutions of 5×5 with pooling (6 and 16 channels), then layers of 120 and 84 units and a linear head.

    The layers are the two of units. Weights and biases start as PyTorch's default, drawn from the seed.

    Reference:
        LeCun et al. (1998); Zhang, Wang & Su (2021), NeurIPS.

    Example:
        >>> LeNet(num_classes=3, seed=0)(torch.zeros(2, 1024)).shape
        torch.Size([2, 3])
    """

    collapse_stages = ("hidden.1", "hidden.3")
    collapse_classifier = "head"

    def __init__(self, num_classes: int, seed: int) -> None:
        super().__init__()
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            pool = nn.MaxPool2d(2)
            self.convolutions = nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), pool, nn.Conv2d(6, 16, 5), nn.ReLU(), pool)
            self.hidden = nn.Sequential(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU())
            self.head = nn.Linear(84, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits."""
        return self.head(self.hidden(self.convolutions(inputs.reshape(-1, 1, 32, 32)).flatten(1)))
