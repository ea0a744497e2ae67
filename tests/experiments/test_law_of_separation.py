"""The law of data separation against the formula of its authors in numpy, and graphs against counts by hand."""

import math

import numpy as np
import pytest
import torch

from ncollapse.data.labeled import LabeledData
from ncollapse.experiments import Work, review_training, separation
from ncollapse.experiments.review_training import GraphLayer, balanced_graph, random_graph
from ncollapse.experiments.separation import feedforward, fuzziness, small_images

K = 3


def by_formula(features, labels):
    """Tr(SS_w SS_b⁺) of centered features, classes of one size."""
    centered = features - features.mean(axis=0)
    means = np.stack([centered[labels == k].mean(axis=0) for k in range(K)])
    between = means.T @ means / K
    within = sum(np.cov(centered[labels == k].T, bias=True) for k in range(K)) / K
    return np.trace(within @ np.linalg.pinv(between, rcond=1e-10))


def test_fuzziness_is_that_of_the_published_code():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(K).repeat_interleave(60)
    data = LabeledData(torch.randn(180, 100, generator=generator) + labels.unsqueeze(1), labels, K, "drawn")
    model = feedforward(2, K, seed=3)
    features = [data.inputs]
    for layer in list(model)[:2]:
        hidden = layer[0](features[-1])
        # Batch normalization by the whole set.
        features.append(torch.relu((hidden - hidden.mean(0)) / (hidden.var(0, unbiased=False) + 1e-5).sqrt()))
    expected = [by_formula(item.detach().double().numpy(), labels.numpy()) for item in features]
    assert fuzziness(model, data) == pytest.approx(expected, rel=1e-3)
    assert [p.shape for p in feedforward(2, K, seed=3).parameters()] == [p.shape for p in model.parameters()]
    assert torch.equal(feedforward(2, K, seed=3)[0][0].weight, model[0][0].weight)


def test_images_are_shrunk_without_a_shift():
    """A ramp stays a ramp, and its ends stay between -1 and 1."""
    ramp = torch.linspace(0, 5, 28).repeat(28, 1)
    found = small_images(LabeledData(ramp.reshape(1, -1), torch.zeros(1, dtype=torch.int64), 1, "ramp", (1, 28, 28)))
    rows = found.inputs.reshape(10, 10)
    assert torch.allclose(rows, rows[0].expand(10, 10), atol=1e-6)
    # The weights of the few pixels behind each are not quite a triangle's.
    assert torch.allclose(rows[0].diff()[1:-1], torch.full((7,), 2 * 2.8 / 27), rtol=0.02)
    assert torch.allclose(rows[0], -rows[0].flip(0), atol=1e-6)


def test_graphs_have_the_neighbors_that_they_say():
    labels = torch.arange(4).repeat_interleave(50)
    graph = balanced_graph(labels, 12, 3)
    assert torch.equal(graph, graph.T)
    counts = torch.stack([graph[:, labels == k].sum(dim=1) for k in range(4)], dim=1)
    assert torch.equal(counts, torch.where(labels.unsqueeze(1) == torch.arange(4), 12.0, 3.0).double())
    drawn = torch.stack([random_graph(labels, 12, 3, torch.Generator().manual_seed(seed)) for seed in range(40)])
    assert torch.equal(drawn, drawn.transpose(1, 2))
    assert not drawn.diagonal(dim1=1, dim2=2).any()
    mean = torch.stack([drawn[:, :, labels == k].sum(dim=2).mean(dim=0) for k in range(4)], dim=1)
    assert (mean - counts).abs().mean() < 0.5
    assert [float(mean[counts == links].mean()) for links in (12, 3)] == pytest.approx([12, 3], abs=0.12)


def test_graphs_are_compared_by_decades(monkeypatch):
    """PFC1 of the last layer on the random graph over that on the balanced one, after training and before."""
    ends = iter([([9.0, 0.5], [9.0, 0.1]), ([9.0, 0.25], [9.0, 0.001])])
    monkeypatch.setattr(review_training, "_graph_collapse", lambda *_: next(ends))
    found = review_training._graphs(Work(0, False, None, print))
    assert (found.value, found.before) == pytest.approx((2, math.log10(2)))


def test_the_law_is_one_of_all_networks(monkeypatch):
    line, bent = [2.0**-depth for depth in range(5)], [1.0, 1.0, 1.0, 0.9, 0.01]
    for networks, expected in (
        ({3: (bent, line), 7: (bent, line)}, (True, False)),
        ({3: (line, line), 7: (line, bent)}, (False, True)),
        ({3: (line, line[::-1])}, (False, True)),
    ):
        monkeypatch.setattr(separation, "_networks", lambda work, networks=networks: networks)
        found = separation.law_of_separation(Work(0, False, None, print))
        assert (found.value, found.before) == expected


def test_a_graph_layer_takes_the_mean_of_the_neighbors():
    layer = GraphLayer(2, 2)
    nodes = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 4.0]])
    mean = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = torch.relu(
        layer.own(nodes) + torch.stack([(nodes[1] + nodes[2]) / 2, nodes[0], nodes[1]]) @ layer.others.weight.T
    )
    assert torch.allclose(layer(nodes, mean), expected)
