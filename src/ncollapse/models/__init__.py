"""The reference networks: each declares its stages, so that a measurement finds its layers by itself.

``collapse_stages`` names the modules whose outputs are the layers h^0, ..., h^L, and ``collapse_classifier`` the last linear
layer, whose input is the last of them unless a docstring says otherwise. ``config`` is how a network was built, ``seed`` that
of the initial weights: PyTorch's global generator is neither read nor advanced. Networks are built on the CPU in PyTorch's
default type. Weights start uniform in +-1/sqrt(fan-in), biases at 0, unless a docstring says otherwise. Sizes below 1 are a
ValueError.
"""

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
