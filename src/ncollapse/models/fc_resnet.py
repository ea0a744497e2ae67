"""Fully connected network whose layers are all of one width: residual, or with the skip connections left out or multiplied."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from ncollapse.models.flat import check_sizes, flat_samples, linear_layer
from ncollapse.models.heads import FixedETFHead
from ncollapse.recipes.networks import FCResNetConfig


class FCBlock(nn.Module):
    """One step along the layers: adds to its input what its branch makes of it, or is that branch alone."""

    def __init__(self, branch: nn.Sequential, *, skip: bool) -> None:
        super().__init__()
        self.branch = branch
        self.skip = skip

    def forward(self, hidden: Tensor) -> Tensor:
        """Take one step along the layers, with nothing after the addition."""
        return hidden + self.branch(hidden) if self.skip else self.branch(hidden)


class FCResNet(nn.Module):
    """Stem, blocks of one width, linear head; logits of the flattened inputs.

    The layers are the stem, then every block. A fixed head reads h^L over its norm. Biases start at 0 with ``zero_bias`` only.

    Example:
        >>> model = FCResNet(FCResNetConfig(width=8, num_blocks=2), input_dim=3, num_classes=4, seed=0)
        >>> model.collapse_stages
        ('stem', 'blocks.0', 'blocks.1')
        >>> model(torch.zeros(5, 3)).shape
        torch.Size([5, 4])
    """

    collapse_stages: tuple[str, ...]
    collapse_classifier: str = "head"
    head: nn.Module

    def __init__(self, config: FCResNetConfig, input_dim: int, num_classes: int, seed: int) -> None:
        super().__init__()
        check_sizes(self, input_dim, num_classes)
        self.config = config
        self.input_dim = input_dim
        self.num_classes = num_classes
        self.collapse_stages = ("stem", *(f"blocks.{index}" for index in range(config.num_blocks)))
        # Layers initialize themselves from the global generator before they are filled from the seed's own: that is
        # undone. (torch.nn.utils.skip_init would avoid it, and take seconds to import a symbolic algebra system.)
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self._build(torch.Generator().manual_seed(seed))
        if config.head == "fixed_etf":
            self.head, self.collapse_classifier = FixedETFHead(config.width, num_classes, seed), "head.classifier"

    def _build(self, generator: torch.Generator) -> None:
        config, width = self.config, self.config.width
        stem = linear_layer(self.input_dim, width, generator, zero_bias=config.zero_bias)
        self.stem = stem if config.stem == "linear" else nn.Sequential(stem, nn.BatchNorm1d(width))
        skip, dense = config.connections == "residual", config.connections == "dense"
        self.blocks = nn.Sequential(
            *(
                FCBlock(_branch(config, width * (index + 1) if dense else width, generator), skip=skip)
                for index in range(config.num_blocks)
            )
        )
        self.head = linear_layer(width, self.num_classes, generator, zero_bias=config.zero_bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits."""
        hidden = self.stem(flat_samples(self, inputs, self.input_dim))
        if self.config.connections != "dense":
            return self.head(self.blocks(hidden))
        layers = [hidden]
        for block in self.blocks:
            layers.append(block(torch.cat(layers, dim=1)))
        return self.head(layers[-1])


def _branch(config: FCResNetConfig, fan_in: int, generator: torch.Generator) -> nn.Sequential:
    """Build what a block makes of its input, in the order of application."""
    sizes = [fan_in, config.width] if config.block == "single" else [fan_in, config.width, config.width]
    linears = [linear_layer(before, after, generator, zero_bias=config.zero_bias) for before, after in pairwise(sizes)]
    with torch.no_grad():
        linears[-1].weight.mul_(config.branch_scale)
    order = {
        ("double", "none"): "L σ L",
        ("double", "pre"): "N σ L N σ L",
        ("double", "mid"): "L N σ L",
        ("double", "post"): "L σ L N",
        ("single", "none"): "L σ",
        ("single", "pre"): "N σ L",
        ("single", "mid"): "L N σ",
        ("single", "post"): "L σ N",
    }[config.block, config.normalization]
    remaining, width = iter(linears), fan_in
    layers: list[nn.Module] = []
    for step in order.split():
        if step == "L":
            layers.append(next(remaining))
            width = config.width
        else:
            layers.append(nn.BatchNorm1d(width) if step == "N" else nn.ReLU())
    return nn.Sequential(*layers)
