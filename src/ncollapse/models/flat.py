"""What networks on flat samples share: their sizes and inputs checked, and linear layers with the weights of a seed."""

import math

import torch
from torch import Tensor, nn


def check_sizes(network: nn.Module, input_dim: int, num_classes: int) -> None:
    """Check what a network is built for.

    Args:
        network: Named in the error.
        input_dim: Numbers in a sample.
        num_classes: Number of logits.

    Raises:
        ValueError: If one is below 1.
    """
    if input_dim < 1 or num_classes < 1:
        raise ValueError(
            f"{type(network).__name__} needs input_dim and num_classes of 1 or more, got {input_dim} and {num_classes}. Take "
            "them from the data: data.input_dim, data.num_classes."
        )


def flat_samples(network: nn.Module, inputs: Tensor, input_dim: int) -> Tensor:
    """View inputs as one row a sample.

    Args:
        network: Named in the error.
        inputs: (B, ...).
        input_dim: Numbers in a sample that the network was built for.

    Returns:
        (B, input_dim).

    Raises:
        ValueError: If the samples have another size.
    """
    flat = inputs.flatten(1)
    if flat.shape[1] != input_dim:
        raise ValueError(
            f"this {type(network).__name__} needs inputs of {input_dim} numbers a sample, got shape {tuple(inputs.shape)}. "
            f"Build it with input_dim={flat.shape[1]}, or pass the data it was built for."
        )
    return flat


def linear_layer(fan_in: int, fan_out: int, generator: torch.Generator, *, zero_bias: bool = True) -> nn.Linear:
    """A linear layer with weights uniform in +-1/sqrt(fan-in), and biases 0 or likewise.

    Args:
        fan_in: Numbers it takes.
        fan_out: Numbers it gives.
        generator: Of the weights.
        zero_bias: Whether the biases start at 0.

    Returns:
        The layer.
    """
    layer = nn.Linear(fan_in, fan_out)
    bound = 1 / math.sqrt(fan_in)
    nn.init.uniform_(layer.weight, -bound, bound, generator=generator)
    if zero_bias:
        nn.init.zeros_(layer.bias)
    else:
        nn.init.uniform_(layer.bias, -bound, bound, generator=generator)
    return layer
