"""Convolutional residual network in stages, whose last stage's layers are all of one shape and differ by what a block adds."""

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn

from ncollapse.models.heads import FixedETFHead
from ncollapse.recipes.networks import ConvResNetConfig


class ConvResidualBlock(nn.Module):
    """Adds to its skip what its branch makes of its input; the skip is the input itself but where a stage begins."""

    def __init__(self, branch: nn.Sequential, skip: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.branch, self.skip, self.last = branch, skip, last

    def forward(self, hidden: Tensor) -> Tensor:
        """Take one step along the layers."""
        return self.last(self.skip(hidden) + self.branch(hidden))


class ConvResNet(nn.Module):
    """Stages of residual blocks, global average pooling, linear head; logits of images (channels, rows, columns).

    Convolutions start normal with variance 2 over fan-out (He et al. 2015). The layers are the entry of the last stage, then
    its blocks; the head reads the mean of h^L over the pixels.

    Example:
        >>> model = ConvResNet(ConvResNetConfig(channels=(4, 8), blocks=(1, 2)), input_shape=(1, 8, 8), num_classes=3, seed=0)
        >>> model.collapse_stages
        ('stages.1.0', 'stages.1.1', 'stages.1.2')
        >>> model(torch.zeros(5, 64)).shape
        torch.Size([5, 3])
    """

    collapse_stages: tuple[str, ...]
    collapse_classifier: str = "head"
    head: nn.Module

    def __init__(self, config: ConvResNetConfig, input_shape: tuple[int, ...], num_classes: int, seed: int) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape) < 1 or num_classes < 1:
            raise ValueError(
                "ConvResNet needs images of (channels, rows, columns) and num_classes of 1 or more, got samples of shape "
                f"{tuple(input_shape)} and {num_classes} classes. Take image data, or an FCResNet for plain vectors."
            )
        self.config = config
        self.input_shape = tuple(input_shape)
        self.num_classes = num_classes
        last = len(config.blocks) - 1
        self.collapse_stages = tuple(f"stages.{last}.{index}" for index in range(config.blocks[last] + 1))
        # As in FCResNet: layers initialize themselves from the global generator before they are filled from the seed's own.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            self._build(torch.Generator().manual_seed(seed))
        if config.head == "fixed_etf":
            self.head, self.collapse_classifier = FixedETFHead(config.channels[-1], num_classes, seed), "head.classifier"

    def _build(self, generator: torch.Generator) -> None:
        config = self.config
        entries: list[nn.Module] = [_stem(config, self.input_shape[0])]
        entries += [_block(config, before, after, stride=2) for before, after in pairwise(config.channels)]
        self.stages = nn.Sequential(
            *(
                nn.Sequential(entry, *(_block(config, width, width, stride=1) for _ in range(num_blocks)))
                for entry, width, num_blocks in zip(entries, config.channels, config.blocks, strict=True)
            )
        )
        self.head = nn.Linear(config.channels[-1], self.num_classes)
        _initialize(self, config, generator)

    def forward(self, inputs: Tensor) -> Tensor:
        """Compute logits."""
        if math.prod(inputs.shape[1:]) != math.prod(self.input_shape):
            raise ValueError(
                f"this ConvResNet needs samples of {math.prod(self.input_shape)} numbers, images of {self.input_shape}, "
                f"got shape {tuple(inputs.shape)}. Build it for other images, or pass the data it was built for."
            )
        # Not channels-last: a tenth faster on CPUs, but the backward pass of a strided 1×1 convolution then corrupts memory
        # with some channel counts (4 to 6, in torch 2.13).
        images = inputs.reshape(-1, *self.input_shape)
        return self.head(self.stages(images).mean(dim=(2, 3)))


def _conv(before: int, after: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)


def _stem(config: ConvResNetConfig, channels: int) -> nn.Sequential:
    width = config.channels[0]
    pool = [nn.MaxPool2d(2)] if config.stem_pool else []
    return nn.Sequential(_conv(channels, width, config.stem_stride), nn.BatchNorm2d(width), nn.ReLU(), *pool)


def _block(config: ConvResNetConfig, before: int, after: int, stride: int) -> ConvResidualBlock:
    first, second = _conv(before, after, stride), _conv(after, after)
    if config.block == "pre":
        branch = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU(), first, nn.BatchNorm2d(after), nn.ReLU(), second)
    else:
        branch = nn.Sequential(first, nn.BatchNorm2d(after), nn.ReLU(), second, nn.BatchNorm2d(after))
    skip: nn.Module = nn.Identity()
    if (before, stride) != (after, 1):
        skip = nn.Sequential(nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.BatchNorm2d(after))
    return ConvResidualBlock(branch, skip, nn.ReLU() if config.block == "post_relu" else nn.Identity())


def _initialize(model: nn.Module, config: ConvResNetConfig, generator: torch.Generator) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            nn.init.uniform_(module.weight, -bound, bound, generator=generator)
            nn.init.zeros_(module.bias)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ConvResidualBlock):
                # The convolution of "pre", the normalization of the others.
                cast(Tensor, module.branch[-1].weight).mul_(config.branch_scale)
