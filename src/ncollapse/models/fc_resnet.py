"""Fully connected residual network whose layers are all of one width and differ by what a block adds."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from ncollapse.models.heads import FixedETFHead

__all__ = ["FCResNet", "FCResNetConfig"]

Block = Literal["double", "single"]
Normalization = Literal["none", "pre", "mid", "post"]
Stem = Literal["linear", "linear_bn"]
Head = Literal["linear", "fixed_etf"]


@dataclass(frozen=True)
class FCResNetConfig:
    r"""Shape and initialization of an ``FCResNet``.

    With :math:`\sigma` = ReLU and BN = batch normalization, a block maps :math:`h` to

    ============= ====================================================== ==========================================
    normalization double                                                 single
    ============= ====================================================== ==========================================
    none          :math:`h + L_2\,\sigma(L_1 h)`                          :math:`h + \sigma(L h)`
    pre           :math:`h + L_2\,\sigma(BN\,L_1\,\sigma(BN\,h))`         :math:`h + L\,\sigma(BN\,h)`
    mid           :math:`h + L_2\,\sigma(BN\,L_1 h)`                      :math:`h + \sigma(BN\,L h)`
    post          :math:`h + BN\,L_2\,\sigma(L_1 h)`                      :math:`h + BN\,\sigma(L h)`
    ============= ====================================================== ==========================================

    Attributes:
        width: Dimension d of every layer, 1 or more.
        num_blocks: Number of residual blocks, 0 or more.
        block: Two linear layers in a block, or one.
        normalization: Where the block normalizes.
        stem: ``linear`` gives the deepest collapse; ``linear_bn`` fixes the scale of the first layer, which claims
            about transport cost and geodesics need.
        zero_bias: Whether biases start at 0 (else uniform, as PyTorch's default). Undecayed random biases are a
            drift that all samples share, and make paths look longer than they are.
        branch_scale: Multiplies the initial weight of the last linear layer in each block; 0 makes every block the
            identity at first. Any other scale has no effect on the output where normalization follows that layer
            (``post``, and ``mid`` of ``single``), up to its bias and the epsilon of the normalization.
        head: ``linear`` is trained; ``fixed_etf`` is a unit simplex ETF behind features of norm one, for the loss
            ``dot_regression`` (``FixedETFHead``), and needs a width of num_classes - 1 or more.

    Raises:
        ValueError: If a field is out of its range.
    """

    width: int = 64
    num_blocks: int = 5
    block: Block = "double"
    normalization: Normalization = "pre"
    stem: Stem = "linear"
    zero_bias: bool = True
    branch_scale: float = 1.0
    head: Head = "linear"

    def __post_init__(self) -> None:
        for field, choices in (("block", Block), ("normalization", Normalization), ("stem", Stem), ("head", Head)):
            if getattr(self, field) not in get_args(choices):
                raise ValueError(
                    f"model.{field} must be one of {', '.join(get_args(choices))}, got {getattr(self, field)!r}. "
                    "Pick one of them."
                )
        for field, least in (("width", 1), ("num_blocks", 0)):
            if getattr(self, field) < least:
                raise ValueError(f"model.{field} must be {least} or more, got {getattr(self, field)}. Pass a larger integer.")
        if not 0 <= self.branch_scale < math.inf:
            raise ValueError(
                f"model.branch_scale must be 0 or more and finite, got {self.branch_scale}. Use 1 for the default scale."
            )


class ResidualBlock(nn.Module):
    """Adds to its input what its branch makes of it, with nothing after the addition."""

    def __init__(self, branch: nn.Sequential) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, hidden: Tensor) -> Tensor:
        """Takes one step along the layers.

        Args:
            hidden: (B, d).

        Returns:
            (B, d), a new tensor: the input is not overwritten, so measurements may keep it.
        """
        return hidden + self.branch(hidden)


class FCResNet(nn.Module):
    """Stem, residual blocks of one width, linear head; logits of the flattened inputs.

    Built on the CPU in PyTorch's default type; move it with ``.to``. Weights start uniform in +-1/sqrt(fan-in), PyTorch's
    default for linear layers.

    Attributes:
        collapse_stages: Names of the modules whose outputs are h^0, ..., h^L: the stem, then every block.
        collapse_classifier: Name of the last linear layer, whose input is h^L itself, with a fixed head h^L over its norm.
        config: How it was built.
        input_dim: Numbers in a sample.
        num_classes: Number of logits.

    Args:
        config: Shape and initialization.
        input_dim: Numbers in a sample, 1 or more.
        num_classes: Number of logits, 1 or more.
        seed: Of the initial weights; PyTorch's global generator is neither read nor advanced.

    Raises:
        ValueError: If the input dimension or the number of classes is below 1.

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
        if input_dim < 1 or num_classes < 1:
            raise ValueError(
                f"FCResNet needs input_dim and num_classes of 1 or more, got {input_dim} and {num_classes}. Take them "
                "from the data: data.input_dim, data.num_classes."
            )
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
        stem = _linear(self.input_dim, width, config.zero_bias, generator)
        self.stem = stem if config.stem == "linear" else nn.Sequential(stem, nn.BatchNorm1d(width))
        self.blocks = nn.Sequential(*(ResidualBlock(_branch(config, generator)) for _ in range(config.num_blocks)))
        self.head = _linear(width, self.num_classes, config.zero_bias, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Computes logits.

        Args:
            inputs: (B, ...) with ``input_dim`` numbers a sample.

        Returns:
            (B, num_classes).

        Raises:
            ValueError: If the samples have another size.
        """
        flat = inputs.flatten(1)
        if flat.shape[1] != self.input_dim:
            raise ValueError(
                f"this FCResNet needs inputs of {self.input_dim} numbers a sample, got shape {tuple(inputs.shape)}. "
                f"Build it with input_dim={flat.shape[1]}, or pass the data it was built for."
            )
        return self.head(self.blocks(self.stem(flat)))


def _linear(fan_in: int, fan_out: int, zero_bias: bool, generator: torch.Generator) -> nn.Linear:
    layer = nn.Linear(fan_in, fan_out)
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if zero_bias:
        nn.init.zeros_(layer.bias)
    else:
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer


def _branch(config: FCResNetConfig, generator: torch.Generator) -> nn.Sequential:
    """Builds what a block adds, in the order of application."""
    width = config.width
    linears = [_linear(width, width, config.zero_bias, generator) for _ in range(1 if config.block == "single" else 2)]
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
    remaining = iter(linears)
    makers = {"L": lambda: next(remaining), "N": lambda: nn.BatchNorm1d(width), "σ": nn.ReLU}
    return nn.Sequential(*(makers[step]() for step in order.split()))
