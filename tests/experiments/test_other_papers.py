"""The law of data separation against the formula of its authors in numpy, residual alignment, graphs against counts by hand."""

import math
from functools import partial

import numpy as np
import pytest
import torch

from ncollapse.analysis import ResidualAlignment
from ncollapse.data.labeled import LabeledData
from ncollapse.experiments import EXPERIMENTS, Work, other_papers, review_training
from ncollapse.experiments.other_papers import feedforward, fuzziness, small_images
from ncollapse.experiments.review_training import GraphLayer, balanced_graph, random_graph

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
        monkeypatch.setattr(other_papers, "_networks", lambda work, networks=networks: networks)
        found = other_papers.law_of_separation(Work(0, False, None, print))
        assert (found.value, found.before) == expected


def test_a_graph_layer_takes_the_mean_of_the_neighbors():
    layer = GraphLayer(2, 2)
    nodes = torch.tensor([[1.0, 0.0], [3.0, 2.0], [5.0, 4.0]])
    mean = torch.tensor([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    expected = torch.relu(
        layer.own(nodes) + torch.stack([(nodes[1] + nodes[2]) / 2, nodes[0], nodes[1]]) @ layer.others.weight.T
    )
    assert torch.allclose(layer(nodes, mean), expected)


def made(ratios=(1.0, 1.0), straightness=1.0, shared=((1.0, 1.0), (1.0, 1.0)), top=(1.0, 1.0)):
    tensors = (torch.tensor(values, dtype=torch.float64) for values in (ratios, shared, top))
    steps, frames, values = tensors
    return ResidualAlignment(tuple("ab"[: len(steps)]), 3, 4, steps, straightness, frames, values)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        (made(), True),
        (made(ratios=(0.81, 1.19)), True),
        (made(ratios=(0.79, 1.21)), False),
        (made(ratios=(0.74, 1.26)), False),
        (made(straightness=0.89), False),
    ],
)
def test_steps_are_equal_and_on_a_line(trained, expected, monkeypatch):
    pair = {"before training": made(straightness=0.5), "after training": trained}
    monkeypatch.setattr(other_papers, "_aligned", lambda *_: pair)
    found = EXPERIMENTS["alignment:ra1"].measure(Work(0, False, None, print))
    assert (found.value, found.before) == (expected, False)
    assert [point.y for point in found.points] == [1, 1, *trained.step_ratios.tolist()]


def test_frames_are_shared_and_few(monkeypatch):
    """The mean over pairs of blocks, and the block with the least energy in its K leading directions."""
    pair = {"before training": made(shared=((0.9, 0.2), (0.4, 0.8))), "after training": made(shared=((1.0, 0.7), (0.5, 0.97)))}
    monkeypatch.setattr(other_papers, "_aligned", lambda *_: pair)
    frames, energy = (EXPERIMENTS[f"alignment:{name}"].measure(Work(0, False, None, print)) for name in ("ra2", "ra3"))
    assert (frames.value, frames.before) == pytest.approx((0.1, -0.2))
    assert (energy.value, energy.before) == pytest.approx((0.02, -0.15))
    assert [point.y for point in frames.points] == pytest.approx([0.2, 0.4, 0.7, 0.5])


def test_a_fall_as_one_over_the_depth_has_slope_one(monkeypatch):
    def aligned(work, blocks):
        return {"before training": made(top=(3.0, 3.0)), "after training": made(top=(1 / blocks, 3 / blocks))}

    monkeypatch.setattr(other_papers, "_aligned", aligned)
    found = EXPERIMENTS["alignment:ra4"].measure(Work(0, False, None, print))
    assert (found.value, found.before) == pytest.approx((0.5, -0.5))
    assert [point.y for point in found.points] == pytest.approx([3, 3, 3, 1, 0.4, 0.2])


def test_the_network_before_training_is_that_of_the_run(tmp_path):
    """After no epoch that helps, a network has the alignment of its beginning."""
    work = Work(3, False, tmp_path, lambda words: None)
    run = partial(work.run, "demo", "train.epochs=1", "train.learning_rate=1e-12", "train.weight_decay=0", "data.per_class=4")
    work.run = lambda name, blocks: run(blocks, "model.width=12", "model.normalization=none")
    before, after = other_papers._aligned(work, 2).values()
    assert torch.allclose(before.shared, after.shared, atol=1e-6)
    assert torch.allclose(before.step_ratios, after.step_ratios, atol=1e-6)
    assert before.num_samples == 20
