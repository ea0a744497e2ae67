"""The experiments on real data of progressive collapse: what they compute themselves."""

import copy
from types import SimpleNamespace

import torch
from torch import nn

from ncollapse.data import gaussian_mixture
from ncollapse.experiments import EXPERIMENTS, Work, pfc
from ncollapse.experiments.pfc import trained_by_layers
from ncollapse.models import FCResNet
from ncollapse.recipes import override, recipe_by_name
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


def test_a_cascade_is_compared_with_what_it_began_with(tmp_path, monkeypatch):
    """Whether PFC1 falls over the layers that were trained one by one, and over those before training, not end to end."""
    data = gaussian_mixture(3, 5, per_class=8, seed=1)
    recipe = override(recipe_by_name("demo"), ["model.width=6", "model.num_blocks=4"])
    curves = {None: [1.0, 2.0, 3.0, 4.0, 5.0], 0: [5.0, 4.0, 3.0, 2.0, 1.0]}
    work = Work(4, False, tmp_path, print)
    monkeypatch.setattr(work, "run", lambda name: SimpleNamespace(over_depth=lambda metric, epoch=None: curves[epoch]))
    monkeypatch.setattr(work, "samples", lambda run: data)
    monkeypatch.setattr(pfc, "recipe_of", lambda run: recipe)

    def layers(network, data, config, work):
        means = torch.eye(3)[data.labels]
        noise = torch.randn(len(means), 3, generator=torch.Generator().manual_seed(0))
        return {name: means + noise / 2**depth for depth, name in enumerate(network.collapse_stages)}

    monkeypatch.setattr(pfc, "trained_by_layers", layers)
    found = pfc._cascade(work)
    assert (found.value, found.before) == (True, True)
    assert [point.y for point in found.points if point.line == "end to end"] == curves[None]


def test_the_conjecture_ends_at_the_effective_depth(tmp_path, monkeypatch):
    """A rise behind the effective depth is not in it, and one before it refutes it."""
    work, after, before = Work(4, False, tmp_path, print), [9.0, 5.0, 3.0, 1.0, 2.0], [1.0, 2.0, 3.0, 4.0, 5.0]
    curves = {(metric, None): after for metric in ("pfc1", "pfc2")} | {("pfc3_error", None): [0.9, 0.5, 0.2, 0.001, 0.002]}
    run = SimpleNamespace(over_depth=lambda metric, epoch=None: curves[metric, epoch])
    monkeypatch.setattr(work, "run", lambda name, *settings: run)
    curves |= {(metric, 0): before for metric in ("pfc1", "pfc2", "pfc3_error")}
    for metric in ("pfc1", "pfc2", "pfc3_error"):
        found = pfc._before_the_effective_depth(work, metric)
        assert (found.value, found.before) == (True, False)
        assert [point.y for point in found.points if point.line == "before training"] == before
    curves["pfc2", None] = [9.0, 5.0, 6.0, 1.0, 0.5]
    assert pfc._before_the_effective_depth(work, "pfc2").value is False
    assert pfc._before_the_effective_depth(work, "pfc1").value is True


def test_the_conjecture_is_a_row_for_each_metric(tmp_path, monkeypatch):
    curves = {"pfc1": [3.0, 2.0, 1.0, 0.5], "pfc2": [3.0, 2.0, 2.5, 0.5], "pfc3_error": [0.5, 0.2, 0.1, 0.1]}
    run = SimpleNamespace(over_depth=lambda metric, epoch=None: curves[metric] if epoch is None else curves[metric][::-1])
    work = Work(4, False, tmp_path, print)
    monkeypatch.setattr(work, "run", lambda name, *settings: run)
    found = {name: EXPERIMENTS[f"pfc:conj1-{name}"].measure(work) for name in ("pfc1", "pfc2", "pfc3")}
    assert {name: (item.value, item.before) for name, item in found.items()} == {
        "pfc1": (True, False),
        "pfc2": (False, False),
        "pfc3": (True, False),
    }
    for name, item in found.items():
        assert [(point.panel,) for point in item.points] == [(EXPERIMENTS[f"pfc:conj1-{name}"].panels[0].title,)] * 8


def test_costs_of_pairings_are_drawn_before_training_and_after():
    def record(own, best, random):
        return SimpleNamespace(energy=SimpleNamespace(identity_cost_sample=own, wasserstein2=best, random_cost_sample=random))

    first, last = record(2.0, 2.0, 10.0), record(9.0, 6.0, 12.0)
    points = pfc.pairing_costs(SimpleNamespace(records={0: first}, last=last))
    assert [(point.line, point.x, point.y) for point in points] == [
        ("after training", "of the network", 1.5),
        ("after training", "random", 2.0),
        ("before training", "of the network", 1.0),
        ("before training", "random", 5.0),
    ]
    # Runs of before kept none at the start.
    assert len(pfc.pairing_costs(SimpleNamespace(records={0: record(None, None, None)}, last=last))) == 2
