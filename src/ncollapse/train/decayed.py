"""Which parameters of a network the weight decay acts on."""

from torch import nn

from ncollapse.recipes.training import TrainConfig


def is_decayed(model: nn.Module, config: TrainConfig) -> list[tuple[nn.Parameter, bool]]:
    """Pair each trainable parameter with whether it is decayed."""
    within: nn.Module = model
    if config.decay == "blocks_and_head":
        parts = [part for name, part in model.named_children() if name in {"blocks", "head"}]
        if len(parts) < 2:
            raise ValueError(
                f"train.decay=blocks_and_head needs a network with blocks and a head, got {type(model).__name__}. "
                "Use train.decay=weights."
            )
        within = nn.ModuleList(parts)
    inside = {*within.parameters()}
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [(parameter, config.decay == "all" or (parameter.ndim >= 2 and parameter in inside)) for parameter in trainable]
