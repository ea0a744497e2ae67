"""The reference networks: each declares its stages, so that a measurement finds its layers by itself."""

from ncollapse.models.build import build_model
from ncollapse.models.conv_resnet import ConvResNet
from ncollapse.models.fc_resnet import FCResNet
from ncollapse.models.heads import FixedETFHead
from ncollapse.models.layernorm_resnet import LayerNormResNet
from ncollapse.models.lenet import LeNet
from ncollapse.models.tight_frame import TightFrameBlock, parseval_step
from ncollapse.models.transformer import Transformer
from ncollapse.recipes.networks import (
    ConvResNetConfig,
    FCResNetConfig,
    LayerNormResNetConfig,
    ModelConfig,
    TransformerConfig,
)

__all__ = [
    "ConvResNet",
    "ConvResNetConfig",
    "FCResNet",
    "FCResNetConfig",
    "FixedETFHead",
    "LayerNormResNet",
    "LayerNormResNetConfig",
    "LeNet",
    "ModelConfig",
    "TightFrameBlock",
    "Transformer",
    "TransformerConfig",
    "build_model",
    "parseval_step",
]
