"""The experiments on real data of progressive collapse: what they compute themselves."""

import copy

import torch
from torch import nn

from ncollapse.data import gaussian_mixture
from ncollapse.experiments import Work
from ncollapse.experiments.pfc import trained_by_layers
from ncollapse.models import FCResNet
from ncollapse.recipes.networks import FCResNetConfig
from ncollapse.train import TrainConfig, train


def test_each_layer_is_trained_on_those_below_as_they_are(tmp_path):
    data = gaussian_mixture(3, 5, per_class=8, seed=1)
    network, config = FCResNet(FCResNetConfig(width=6, num_blocks=2), 5, 3, seed=2), TrainConfig(epochs=2, batch_size=8)
    by_hand = copy.deepcopy(network)
    layers = trained_by_layers(network, data, config, Work(4, False, tmp_path, print))
    hidden = data.inputs
    for (name, found), part in zip(layers.items(), (by_hand.stem, *by_hand.blocks), strict=True):
        alone = nn.Sequential(part, copy.deepcopy(by_hand.head))
        assert len(list(train(alone, type(data)(hidden, data.labels, 3, "below"), config, seed=4))) == 2
        hidden = part.eval()(hidden).detach()
        assert torch.equal(found, hidden), name
    assert torch.equal(network.head.weight, by_hand.head.weight)
