"""The reference networks: each declares its stages, so that a measurement finds its layers by itself."""

from ncollapse.models.fc_resnet import FCResNet, FCResNetConfig

__all__ = ["FCResNet", "FCResNetConfig"]
