"""Parts shared by networks on flat samples: checks of sizes and inputs, and linear layers with the weights of a seed."""

import math

import torch
from torch import Tensor, nn


def check_sizes(network: nn.Module, input_dim: int, num_classes: int) -> None:
    """Check what a network is built for."""
    if input_dim < 1 or num_classes < 1:
        raise ValueError(
            f"{type(network).__name__} needs input_dim and num_classes of 1 or more, got {input_dim} and {num_classes}. Take "
            "them from the data: data.input_dim, data.num_classes."
        )


def flat_samples(network: nn.Module, inputs: Tensor, input_dim: int) -> Tensor:
    """View inputs as one row per sample."""
    flat = inputs.flatten(1)
    if flat.shape[1] != input_dim:
        raise ValueError(
            f"this {type(network).__name__} needs inputs of {input_dim} numbers per sample, got shape {tuple(inputs.shape)}. "
            f"Build it with input_dim={flat.shape[1]}, or pass the data it was built for."
        )
    return flat


def linear_layer(
    fan_in: int, fan_out: int, generator: torch.Generator, *, zero_bias: bool = True, bias: bool = True
) -> nn.Linear:
    """Make a linear layer with weights uniform in +-1/sqrt(fan-in), and biases 0 or likewise, if any."""
    layer = nn.Linear(fan_in, fan_out, bias=bias)
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if not bias:
        return layer
    if zero_bias:
        nn.init.zeros_(layer.bias)
    else:
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
