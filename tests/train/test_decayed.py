"""Which parameters are decayed, by name."""

import pytest

from ncollapse.models import (
    FCResNet,
    FCResNetConfig,
    LayerNormResNet,
    LayerNormResNetConfig,
    LeNet,
    Transformer,
    TransformerConfig,
)
from ncollapse.recipes.training import TrainConfig
from ncollapse.train.decayed import is_decayed


def names(model, decay):
    """Name the decayed parameters."""
    known = {parameter: name for name, parameter in model.named_parameters()}
    return {known[parameter] for parameter, decays in is_decayed(model, TrainConfig(decay=decay)) if decays}


def layernorm_resnet():
    return LayerNormResNet(LayerNormResNetConfig(width=4, num_blocks=2, linear_layers=1), input_dim=3, num_classes=2, seed=0)


def test_the_stem_is_left_out():
    inside = {"blocks.0.branch.0.weight", "blocks.1.branch.0.weight", "head.weight"}
    model = layernorm_resnet()
    assert names(model, "blocks_and_head") == inside
    assert names(model, "weights") == inside | {"stem.0.weight"}
    assert names(model, "all") == {name for name, _ in model.named_parameters()}


def test_the_embedding_of_a_transformer_is_left_out():
    model = Transformer(TransformerConfig(width=4, num_blocks=1, patch=1), (1, 2, 2), num_classes=2, seed=0)
    left_out = names(model, "weights") - names(model, "blocks_and_head")
    assert left_out
    assert all(name.startswith("embedding.") for name in left_out)
    assert {name.partition(".")[0] for name in names(model, "blocks_and_head")} == {"blocks", "head"}


def test_normalizations_of_blocks_are_left_out():
    model = FCResNet(FCResNetConfig(width=4, num_blocks=1, normalization="pre"), 3, 2, seed=0)
    assert all(model.get_parameter(name).ndim == 2 for name in names(model, "blocks_and_head"))


def test_frozen_parameters_are_not_listed():
    model = layernorm_resnet()
    model.head.weight.requires_grad_(False)
    assert not any(parameter is model.head.weight for parameter, _ in is_decayed(model, TrainConfig(decay="all")))


def test_a_network_without_blocks_is_refused():
    with pytest.raises(
        ValueError, match=r"^train.decay=blocks_and_head needs a network with blocks and a head, got LeNet\. Use"
    ):
        is_decayed(LeNet(num_classes=3, seed=0), TrainConfig(decay="blocks_and_head"))
