"""Graph networks of PyTorch Geometric: labeled nodes of a graph, seeds of sampled neighborhoods, and whole graphs."""

import numpy as np
import pytest
import torch
from torch import nn

import reference
from ncollapse import measure

geometric = pytest.importorskip("torch_geometric.nn")
data = pytest.importorskip("torch_geometric.data")

K, F, D = 3, 4, 5


def graph(seed, nodes=80, **more):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(nodes) % K
    x = torch.randn(nodes, F, generator=generator) + torch.eye(K, F)[y]
    edges = torch.randint(nodes, (2, 2 * nodes), generator=generator)
    return data.Data(x=x, edge_index=edges, y=y, train_mask=torch.rand(nodes, generator=generator) < 0.7, **more)


class LinearHead(nn.Module):
    def __init__(self, pool=None):
        super().__init__()
        self.body = geometric.GCN(F, D, 3, act="tanh", norm="batch_norm", dropout=0.3)
        self.pool = pool
        self.head = nn.Linear(D, K)

    def forward(self, graph):
        h = self.body(graph.x, graph.edge_index)
        return self.head(h if self.pool is None else self.pool(h, graph.batch))


class ConvolvedHead(nn.Module):
    """Its logits mix neighbors, so they are no W h + b of one node."""

    def __init__(self):
        super().__init__()
        self.body = geometric.GCN(F, D, 3, out_channels=K, act="tanh", norm="batch_norm", dropout=0.3)

    def forward(self, graph):
        return self.body(graph.x, graph.edge_index)


def made(network, batches):
    """A network whose batch norms have seen the batches, so that they are not the identity."""
    for _ in range(5):
        for batch in batches:
            network.train()(batch)
    return network


def labeled_rows(network, batches, layers, labeled):
    """What plain hooks see at the labeled nodes, the logits and labels there."""
    parts, modules, handles = {layer: [] for layer in layers}, dict(network.named_modules()), []
    for layer in layers:
        name = layer.removesuffix(".input")
        if name == layer:
            handles.append(modules[name].register_forward_hook(lambda _, __, out, kept=parts[layer]: kept.append(out)))
        else:
            handles.append(modules[name].register_forward_pre_hook(lambda _, args, kept=parts[layer]: kept.append(args[0])))
    with torch.no_grad():
        logits = [network.eval()(batch) for batch in batches]
    for handle in handles:
        handle.remove()

    def rows(of_batches):
        return torch.cat([part[labeled(batch)] for part, batch in zip(of_batches, batches, strict=True)])

    features = {layer: reference.rows_of(rows(kept)) for layer, kept in parts.items()}
    return features, rows(logits).argmax(dim=1).numpy(), rows([batch.y for batch in batches]).numpy()


def assert_equals_oracle(m, network, batches, labeled, head=None):
    features, decided, y = labeled_rows(network, batches, m.layers, labeled)
    for layer, H in features.items():
        expected, last = reference.feature_metrics(H, y, K), layer == m.layers[-1]
        if last and head is not None:
            weight, bias = reference.rows_of(head.weight), reference.rows_of(head.bias)[:, 0]
            expected |= reference.classifier_metrics(H, y, K, weight, bias)
        if last:
            expected["accuracy"] = np.mean(decided == y)
            expected["nc4"] = np.mean(decided == reference.nearest(H, reference.means(H, y, K)))
        measured = {row.metric: row.value for row in m.rows if row.layer == layer and not np.isnan(row.value)}
        shared = measured.keys() & expected.keys()
        assert {"pfc1", "pfc2", "pfc3", "nc1", "cdnv"} <= shared
        assert {name: measured[name] for name in shared} == pytest.approx({name: expected[name] for name in shared}, rel=1e-6)
    assert m.num_samples == len(y)


LABELED = [graph(0)]
# As a NeighborLoader yields them: the labels of a batch belong to its first nodes, the others are their neighbors.
SAMPLED = [graph(seed, nodes, batch_size=size) for seed, nodes, size in [(1, 40, 15), (2, 55, 15), (3, 31, 9)]]


BLOCKS = ("body.convs.0", "body.norms.0", "body.convs.1", "body.norms.1")


def masked(batch):
    return batch.train_mask


def seeds(batch):
    return torch.arange(len(batch.y)) < batch.batch_size


@pytest.mark.parametrize(("batches", "labeled"), [(LABELED, masked), (SAMPLED, seeds)], ids=["masked", "sampled"])
def test_a_linear_head_on_labeled_nodes(batches, labeled):
    torch.manual_seed(0)
    network = made(LinearHead(), batches)
    m = measure(network, batches, num_classes=K, rows=labeled, metrics="all")
    assert m.layers == (*BLOCKS, "body.convs.2")
    assert "classifier head gives the logits" in m.chosen
    assert_equals_oracle(m, network, batches, labeled, network.head)


@pytest.mark.parametrize(("batches", "labeled"), [(LABELED, masked), (SAMPLED, seeds)], ids=["masked", "sampled"])
def test_a_convolution_is_no_linear_classifier(batches, labeled):
    torch.manual_seed(0)
    network = made(ConvolvedHead(), batches)
    m = measure(network, batches, num_classes=K, unpack=lambda batch: (batch, batch.y), rows=labeled, metrics="all")
    assert "no classifier found, since body.convs.2 is no linear map of one row of features" in m.chosen
    assert m.layers == (*BLOCKS, "body.convs.2.input")
    assert np.isnan(m.value("nc3"))
    assert_equals_oracle(m, network, batches, labeled)


def test_one_label_per_graph():
    torch.manual_seed(0)
    graphs = [graph(seed, nodes=6 + seed % 5) for seed in range(40)]
    for i, each in enumerate(graphs):
        each.y = torch.tensor([i % K])
    batches = [data.Batch.from_data_list(graphs[i : i + 15]) for i in range(0, 40, 15)]
    network = made(LinearHead(geometric.MeanAggregation()), batches)
    m = measure(network, batches, num_classes=K, metrics="all")
    assert m.layers == ("pool",)
    assert "could not be followed" not in m.chosen
    assert_equals_oracle(m, network, batches, lambda batch: slice(None), network.head)
