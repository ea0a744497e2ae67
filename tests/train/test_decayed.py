"""Which parameters are decayed, by name."""

from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.recipes.training import TrainConfig
from ncollapse.train.decayed import parameters_and_decay


def test_weights_are_decayed_and_frozen_parameters_are_not_listed():
    model = FCResNet(FCResNetConfig(width=4, num_blocks=1, normalization="pre"), 3, 2, seed=0)
    model.head.weight.requires_grad_(False)
    names = {parameter: name for name, parameter in model.named_parameters()}
    for decay in ("weights", "all"):
        found = {names[parameter]: decays for parameter, decays in parameters_and_decay(model, TrainConfig(decay=decay))}
        assert found.keys() == {*names.values()} - {"head.weight"}
        assert all(decays == (decay == "all" or model.get_parameter(name).ndim == 2) for name, decays in found.items())
        assert set(found.values()) == ({True, False} if decay == "weights" else {True})
