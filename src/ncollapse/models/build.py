"""From a config, as a recipe holds it, to its network."""

import math
from collections.abc import Sequence

from torch import nn

from ncollapse.models.conv_resnet import ConvResNet
from ncollapse.models.fc_resnet import FCResNet
from ncollapse.models.layernorm_resnet import LayerNormResNet
from ncollapse.models.transformer import Transformer
from ncollapse.recipes.networks import ConvResNetConfig, LayerNormResNetConfig, ModelConfig, TransformerConfig


def build_model(
    config: ModelConfig, sample_shape: Sequence[int], num_classes: int, seed: int, vocabulary: int | None = None
) -> nn.Module:
    """Return the network that a config describes, on the CPU.

    Args:
        sample_shape: Shape of a sample: (channels, rows, columns) of an image, (d,) of a plain vector, (T,) of a text.
        vocabulary: Number of token ids of texts; None for what is no text.

    Raises:
        ValueError: If the network cannot take such samples, or the number of classes is below 1.
    """
    if isinstance(config, TransformerConfig):
        return Transformer(config, tuple(sample_shape), num_classes, seed, vocabulary)
    if vocabulary is not None:
        raise ValueError(
            f"texts need a network that takes token ids, a transformer, got {type(config).__name__}. Take a TransformerConfig."
        )
    if isinstance(config, ConvResNetConfig):
        return ConvResNet(config, tuple(sample_shape), num_classes, seed)
    if isinstance(config, LayerNormResNetConfig):
        return LayerNormResNet(config, math.prod(sample_shape), num_classes, seed)
    return FCResNet(config, math.prod(sample_shape), num_classes, seed)
