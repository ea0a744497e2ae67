"""Which parameters of a network the weight decay acts on."""

from torch import nn

from ncollapse.recipes.training import TrainConfig


def parameters_and_decay(model: nn.Module, config: TrainConfig) -> list[tuple[nn.Parameter, bool]]:
    """Pair each trainable parameter with whether it is decayed."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [(parameter, config.decay == "all" or parameter.ndim >= 2) for parameter in trainable]
