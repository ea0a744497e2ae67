"""Residual network with a normalization behind every addition: the L-RN1 and L-RN2 of deep regularized training."""

import math

import torch
from torch import Tensor, nn

from ncollapse.models.flat import check_sizes, flat_samples, linear_layer
from ncollapse.models.rounded_relu import relu
from ncollapse.models.sphere_norm import SphereNorm
from ncollapse.recipes.networks import LayerNormResNetConfig


class LayerNormBlock(nn.Module):
    """Adds to its input what its branch makes of it, and normalizes the sum."""

    def __init__(self, branch: nn.Sequential, norm: SphereNorm) -> None:
        super().__init__()
        self.branch, self.norm = branch, norm

    def forward(self, hidden: Tensor) -> Tensor:
        """Take one step along the layers."""
        return self.norm(hidden + self.branch(hidden))


class LayerNormResNet(nn.Module):
    """Normalized embedding, normalized residual blocks of one width, linear head; logits of the flattened inputs.

    The layers are the stem, then every block. The input need not have the width's dimension: a linear layer embeds it, which
    the paper does not have; ``embedding="none"`` leaves it out.

    Reference:
        Súkeník, Lampert and Mondelli (2025), arXiv 2505.15239, section 3.

    Example:
        >>> model = LayerNormResNet(LayerNormResNetConfig(width=8, num_blocks=2), input_dim=3, num_classes=4, seed=0)
        >>> model.collapse_stages
        ('stem', 'blocks.0', 'blocks.1')
        >>> model(torch.ones(5, 3)).shape
        torch.Size([5, 4])
    """

    collapse_stages: tuple[str, ...]
    collapse_classifier: str = "head"

    def __init__(self, config: LayerNormResNetConfig, input_dim: int, num_classes: int, seed: int) -> None:
        super().__init__()
        check_sizes(self, input_dim, num_classes)
        self.config, self.input_dim, self.num_classes = config, input_dim, num_classes
        self.collapse_stages = ("stem", *(f"blocks.{index}" for index in range(config.num_blocks)))
        # As in FCResNet: layers initialize themselves from the global generator before they are filled from the seed's own.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self._build(torch.Generator().manual_seed(seed))

    def _build(self, generator: torch.Generator) -> None:
        config, width = self.config, self.config.width
        if config.embedding == "none" and self.input_dim != width:
            raise ValueError(
                f"Without an embedding the data must have the width's dimension, {width}, got {self.input_dim}. "
                f"Set model.width={self.input_dim}, or model.embedding=linear."
            )
        embedding = [linear_layer(self.input_dim, width, generator)] if config.embedding == "linear" else []
        self.stem = nn.Sequential(*embedding, SphereNorm(config.norm_scale, config.norm_rounding))
        self.blocks = nn.Sequential(
            *(
                LayerNormBlock(_branch(config, generator), SphereNorm(config.norm_scale, config.norm_rounding))
                for _ in range(config.num_blocks)
            )
        )
        self.head = linear_layer(width, self.num_classes, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits."""
        return self.head(self.blocks(self.stem(flat_samples(self, inputs, self.input_dim))))


def _branch(config: LayerNormResNetConfig, generator: torch.Generator) -> nn.Sequential:
    """Build what a block adds, in the order of application."""
    sizes, count = (config.width, config.width), config.linear_layers
    linears = [linear_layer(*sizes, generator, bias=config.block_biases) for _ in range(count)]
    with torch.no_grad():
        linears[-1].weight.mul_(config.branch_scale / math.sqrt(config.num_blocks))
    return nn.Sequential(linears[0], relu(config.rounding), *linears[1:])
