"""Heads that are no module, such as F.linear(h, self.W): NC3 and accuracy equal plain hooks in float64, or are flagged."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_classifiers import BATCHES, D, K, N, X, Y, drawn, made, nc3_of
from torch import nn
from torch.nn.utils import parametrizations

import reference
from ncollapse import find_layers, measure, next_tokens, watch


class Net(nn.Module):
    """A body, parameters of which no module makes logits, and the function that does."""

    def __init__(self, logits, body=()):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), *body)
        self.W, self.b, self.scale = (
            nn.Parameter(torch.randn(K, D)),
            nn.Parameter(torch.randn(K)),
            nn.Parameter(torch.tensor(7.0)),
        )
        self.register_buffer("frame", torch.randn(D, K))
        self.embed, self.normed = nn.Embedding(K, D), parametrizations.weight_norm(nn.Linear(D, K))
        self.vector = nn.Parameter(torch.randn(D))
        self.logits = logits

    def forward(self, x):
        return self.logits(self, self.body(x))


def unit(weight):
    return F.normalize(weight, dim=1)


# The logits, the weight on the features, and the activation that comes first.
PROVEN = {
    "F.linear": (lambda net, h: F.linear(h, net.W, net.b), lambda net: net.W),
    "product": (lambda net, h: h @ net.W.T + net.b, lambda net: net.W),
    "buffer the other way round": (lambda net, h: h @ net.frame, lambda net: net.frame.T),
    "einsum over a temperature": (lambda net, h: torch.einsum("nd,kd->nk", h, net.W) / 0.07, lambda net: net.W),
    "tied embedding": (lambda net, h: F.linear(h, net.embed.weight), lambda net: net.embed.weight),
    "weight of a module that does not run": (lambda net, h: F.linear(h, net.normed.weight), lambda net: net.normed.weight),
    "cosine": (lambda net, h: F.normalize(h) @ F.normalize(net.W).T * net.scale, lambda net: unit(net.W)),
    "cosine similarity": (lambda net, h: F.cosine_similarity(h[:, None], net.W[None], dim=2), lambda net: unit(net.W)),
    "directions of features alone": (lambda net, h: F.normalize(h) @ net.W.T, lambda net: net.W),
    "directions of weights alone": (lambda net, h: h @ F.normalize(net.W).T + net.b, lambda net: unit(net.W)),
    "squared distances": (lambda net, h: -(torch.cdist(h, net.W) ** 2), lambda net: net.W),
    "softmax": (lambda net, h: F.linear(h, net.W, net.b).softmax(dim=1), lambda net: net.W),
    "named out": (lambda net, h: {"out": h @ net.W.T, "loss": h.sum()}, lambda net: net.W),
    "behind a loss": (lambda net, h: (h.square().mean(), h @ net.W.T), lambda net: net.W),
    "a scalar per class": (lambda net, h: F.linear(h, net.W) * net.b, lambda net: net.b[:, None] * net.W),
}
ACTIVATED = {"relu": F.relu, "gelu": F.gelu, "silu": F.silu, "tanh": torch.tanh}


def logits_of(output):
    output = output["out"] if isinstance(output, dict) else output[1] if isinstance(output, tuple) else output
    return output.detach()


@pytest.mark.parametrize("name", PROVEN)
def test_a_matrix_of_the_forward_equals_the_oracle(name):
    logits, weight = PROVEN[name]
    make = lambda: Net(logits, [nn.Tanh()])  # noqa: E731
    for budget in (None, 0):
        m = measure(made(make), BATCHES, num_classes=K, memory_budget=budget)
        net = made(make).eval()
        with torch.no_grad():
            assert m.value("accuracy") == pytest.approx(float((logits_of(net(X)).argmax(1) == Y).double().mean()), abs=1e-14)
            assert m.value("nc3") == pytest.approx(nc3_of(net.body(X), weight(net), Y), rel=2e-5)
        assert not any("classifier_unproven" in row.flags for row in m.rows)
    assert "multiplied with what body returns, gives the logits" in m.chosen
    found = find_layers(made(make), X, num_classes=K)
    assert found.names == m.layers
    assert found.classifier in {"W", "frame", "embed.weight", "normed.weight"}


@pytest.mark.parametrize("name", ACTIVATED)
def test_features_that_a_function_activates_are_a_layer(name):
    make = lambda: Net(lambda net, h: F.linear(ACTIVATED[name](h), net.W, net.b))  # noqa: E731
    m = measure(made(make), BATCHES, num_classes=K)
    net = made(make).eval()
    with torch.no_grad():
        features = ACTIVATED[name](net.body(X))
        assert m.value("nc3") == pytest.approx(nc3_of(features, net.W, Y), rel=2e-5)
    means = reference.means(features.double().numpy(), Y.numpy(), K)
    assert m.layers[-1] == f"body.2:{name}"
    assert m.statistics[m.layers[-1]].moments.means.numpy() == pytest.approx(means, rel=1e-6)


class Prepared(Net):
    """The weight is normalized before the body runs, and used after it."""

    def forward(self, x):
        weight = F.normalize(self.W)
        return self.body(x) @ weight.T


def test_a_matrix_that_is_prepared_before_the_features_is_found():
    m = measure(made(lambda: Prepared(None)), BATCHES, num_classes=K)
    net = made(lambda: Prepared(None)).eval()
    with torch.no_grad():
        assert m.value("nc3") == pytest.approx(nc3_of(net.body(X), unit(net.W), Y), rel=2e-5)


UNPROVEN = {
    "sum of two": lambda net, h: F.linear(h, net.W) + F.linear(h, net.embed.weight),
    "distances": lambda net, h: -torch.cdist(h, net.W),
    "of features that no module returns": lambda net, h: F.linear(F.hardtanh(h, -0.3, 0.3), net.W),
    "squared": lambda net, h: F.linear(h, net.W) ** 2,
    "normed over the batch": lambda net, h: F.linear(h - h.mean(dim=0), net.W),
    "clamped": lambda net, h: F.linear(h, net.W).clamp(-0.1, 0.1),
}


@pytest.mark.parametrize("name", UNPROVEN)
def test_what_no_matrix_explains_is_flagged(name):
    m = measure(made(lambda: Net(UNPROVEN[name])), BATCHES, num_classes=K)
    assert np.isnan(m.value("nc3"))
    assert "no classifier found, since" in m.chosen
    assert {"nc3", "nc3_cosine"} <= {row.metric for row in m.rows if "classifier_unproven" in row.flags}


def test_one_logit_by_a_vector():
    x, y = drawn(2, seed=5)
    make = lambda: Net(lambda net, h: h @ net.vector + 0.1, [nn.Tanh()])  # noqa: E731
    m = measure(made(make), [(x, y)], num_classes=2)
    net = made(make).eval()
    with torch.no_grad():
        assert m.value("nc3") == pytest.approx(nc3_of(net.body(x), torch.stack([-net.vector, net.vector]), y, 2), rel=2e-5)
        assert m.value("accuracy") == pytest.approx(float(((net(x) > 0) == y.bool()).double().mean()))


def test_a_matrix_is_read_as_it_is_now_in_a_watched_loop():
    net = made(lambda: Net(lambda net, h: F.linear(h, net.W, net.b), [nn.Tanh()]))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    with watch(net, num_classes=K) as watched:
        for x, y in BATCHES:
            optimizer.zero_grad()
            logits = net(x)
            watched.update(y)
            F.cross_entropy(logits, y).backward()
            optimizer.step()
        m = watched.compute()
        assert m.statistics[m.layers[-1]].classifier.weight == pytest.approx(net.W.detach().double())
        net.logits = lambda net, h: F.linear(h, net.W, net.b) + F.linear(h, net.embed.weight)
        assert np.isnan(watched.compute().value("nc3"))


class Language(nn.Module):
    """A small language model whose logits are products with its embedding."""

    def __init__(self, tokens=6):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, 0.0, batch_first=True) for _ in range(2))
        self.norm = nn.LayerNorm(8)
        self.register_buffer("unseen", torch.ones(tokens, tokens, dtype=torch.bool).triu(1))

    def forward(self, input_ids):
        h = self.embed(input_ids)
        for block in self.blocks:
            h = block(h, src_mask=self.unseen)
        return F.linear(self.norm(h), self.embed.weight)


def test_a_language_model_with_a_tied_embedding():
    net = made(Language)
    ids = torch.randint(0, 11, (N, 6), generator=torch.Generator().manual_seed(0))
    m = measure(net, [{"input_ids": ids}], num_classes=11, unpack=next_tokens)
    features = []
    handle = net.eval().norm.register_forward_hook(lambda _, __, output: features.append(output.detach()[:, :-1].flatten(0, 1)))
    with torch.no_grad():
        logits = net(ids)[:, :-1].flatten(0, 1)
    handle.remove()
    labels = ids[:, 1:].flatten()
    assert m.value("nc3") == pytest.approx(nc3_of(features[0], net.embed.weight, labels, 11), rel=2e-5)
    assert m.value("accuracy") == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


class Pooled(nn.Module):
    """An encoder of tokens or images, pooled by a function in front of a product."""

    def __init__(self, body, read):
        super().__init__()
        self.body, self.read, self.W = body, read, nn.Parameter(torch.randn(8, K))

    def forward(self, x):
        return self.read(self.body(x)) @ self.W


def encoder():
    blocks = [nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2)]
    return nn.Sequential(nn.Linear(5, 8), *blocks)


POOLED = {
    "first token": (encoder, (5, 5), lambda h: h[:, 0], "body.2:cls"),
    "last token": (encoder, (5, 5), lambda h: h[:, -1], "body.2:last_token"),
    "mean of tokens": (encoder, (5, 5), lambda h: h.mean(1), "body.2:mean"),
    "mean of pixels": (lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), (3, 6, 6), lambda h: h.mean((2, 3)), "body:mean"),
    "pooled by a module": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)),
        (3, 6, 6),
        lambda h: h.flatten(1),
        "body.2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", POOLED)
def test_a_matrix_behind_pooling(name):
    body, shape, read, layer = POOLED[name]
    x = torch.randn(N, *shape, generator=torch.Generator().manual_seed(2)) + Y.view(-1, *(1 for _ in shape))
    net = made(lambda: Pooled(body(), read))
    m = measure(net, [(x[:20], Y[:20]), (x[20:], Y[20:])], num_classes=K)
    with torch.no_grad():
        features = read(net.eval().body(x))
    assert m.value("nc3") == pytest.approx(nc3_of(features, net.W.T, Y), rel=2e-5)
    assert m.layers[-1] == layer
