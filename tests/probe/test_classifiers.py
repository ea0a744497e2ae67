"""Heads of every kind: accuracy, NC3 and NC4 equal plain hooks in float64, or a flag says that the classifier is unproven."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import reference
from ncollapse import find_layers, measure, measure_features, watch
from ncollapse.hooks.affine import noisy

K, D, N = 4, 7, 48


def drawn(num_classes=K, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(N) % num_classes
    return torch.randn(N, 6, generator=generator) + 0.7 * labels[:, None] * torch.tensor([1.0, -1, 0, 1, 0, 0]), labels


X, Y = drawn()
BATCHES = [(X[:20], Y[:20]), (X[20:], Y[20:])]


class Net(nn.Module):
    """A body, a head, and what the forward does with the head's outputs."""

    def __init__(self, head, then=lambda logits: logits, shape=(D,)):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.head, self.then, self.shape = head, then, shape

    def forward(self, x):
        return self.then(self.head(self.body(x).reshape(-1, *self.shape)))


class Cosine(nn.Linear):
    """A cosine classifier that subclasses nn.Linear (CosFace)."""

    def forward(self, x):
        return 6.0 * F.linear(F.normalize(x), F.normalize(self.weight))


class CosineByHand(nn.Module):
    """Cosines with a learned scale and a bias."""

    def __init__(self):
        super().__init__()
        self.prototypes, self.scale = nn.Parameter(torch.randn(D, K)), nn.Parameter(torch.tensor(5.0))
        self.bias = nn.Parameter(0.1 * torch.randn(K))

    def forward(self, x):
        return self.scale * (x / x.norm(dim=1, keepdim=True)) @ F.normalize(self.prototypes, dim=0) + self.bias


class LowRank(nn.Module):
    """A linear layer with a low-rank update, of rank ``rank``."""

    def __init__(self, rank=2, zero=False):
        super().__init__()
        self.base, self.lora_a, self.lora_b = nn.Linear(D, K), nn.Linear(D, rank, bias=False), nn.Linear(rank, K, bias=False)
        if zero:
            nn.init.zeros_(self.lora_b.weight)

    def forward(self, x):
        return self.base(x) + 1.5 * self.lora_b(self.lora_a(x))

    @property
    def merged(self):
        return self.base.weight + 1.5 * self.lora_b.weight @ self.lora_a.weight


class Temperature(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.7))

    def forward(self, logits):
        return logits / self.scale


class WeightTimesRows(nn.Module):
    """Logits of a matrix that is stored the other way round."""

    def __init__(self):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(D, K))

    def forward(self, x):
        return x @ self.kernel


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def weight_norm_old():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nn.utils.weight_norm(nn.Linear(D, K))


def parametrized():
    layer = nn.Linear(D, K)
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def linear():
    return nn.Linear(D, K)


class Distances(nn.Module):
    """Squared distances to prototypes, which are linear but for a number that all classes have in common."""

    def __init__(self, variances=1.0):
        super().__init__()
        self.prototypes, self.variances = nn.Parameter(torch.randn(K, D)), variances

    def forward(self, x):
        return -(x.unsqueeze(1) - self.prototypes).square().sum(dim=2) / self.variances


FACTORS = torch.tensor([1.0, -2.0, 0.5, 1.0])
PRIORS = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4]))


class Head(NamedTuple):
    """A network, and the weight of its classifier on the features, as a function of the network."""

    make: object
    weight: object = lambda net: net.head.weight
    name: str = "head"


def half(weight):
    return torch.cat([-weight, weight]) / 2


PROVEN = {
    "linear": Head(lambda: Net(linear())),
    "without bias": Head(lambda: Net(nn.Linear(D, K, bias=False))),
    "behind dropout": Head(lambda: Net(nn.Sequential(nn.Dropout(0.5), linear())), lambda net: net.head[1].weight, "head.1"),
    "1x1 convolution behind pooling": Head(
        lambda: Net(nn.Conv2d(D, K, 1), lambda z: z.flatten(1), (D, 1, 1)), lambda net: net.head.weight.flatten(1)
    ),
    "1x1 convolution that is not flattened": Head(
        lambda: Net(nn.Conv2d(D, K, 1), shape=(D, 1, 1)), lambda net: net.head.weight.flatten(1)
    ),
    "1x1 convolution of a pooled sound": Head(
        lambda: Net(nn.Conv1d(D, K, 1), lambda z: z.flatten(1), (D, 1)), lambda net: net.head.weight.flatten(1)
    ),
    "1x1 convolution of a pooled film": Head(
        lambda: Net(nn.Conv3d(D, K, 1), lambda z: z.flatten(1), (D, 1, 1, 1)), lambda net: net.head.weight.flatten(1)
    ),
    "cosine as a subclass of linear": Head(lambda: Net(Cosine(D, K)), lambda net: F.normalize(net.head.weight)),
    "cosine by hand": Head(lambda: Net(CosineByHand()), lambda net: F.normalize(net.head.prototypes, dim=0).T),
    "temperature in the forward": Head(lambda: Net(linear(), lambda z: z / 0.07)),
    "temperature as a module": Head(lambda: Net(nn.Sequential(linear(), Temperature())), lambda net: net.head[0].weight),
    "softmax": Head(lambda: Net(linear(), lambda z: z.softmax(dim=1))),
    "log-softmax": Head(lambda: Net(linear(), lambda z: z.log_softmax(dim=1))),
    "sigmoid of each class": Head(lambda: Net(linear(), lambda z: z.sigmoid())),
    "logit adjustment": Head(lambda: Net(linear(), lambda z: z + 2.0 * PRIORS)),
    "scaled and adjusted softmax": Head(lambda: Net(linear(), lambda z: (0.5 * z + PRIORS).softmax(dim=1))),
    "weight norm": Head(lambda: Net(parametrizations.weight_norm(linear()))),
    "weight norm of old": Head(lambda: Net(weight_norm_old())),
    "spectral norm": Head(lambda: Net(parametrizations.spectral_norm(linear()))),
    "parametrized": Head(lambda: Net(parametrized())),
    "low-rank update": Head(lambda: Net(LowRank()), lambda net: net.head.merged),
    "low-rank update of rank K": Head(lambda: Net(LowRank(rank=K)), lambda net: net.head.merged),
    "low-rank update that is zero yet": Head(lambda: Net(LowRank(zero=True)), lambda net: net.head.base.weight),
    "matrix of a module's own": Head(lambda: Net(WeightTimesRows()), lambda net: net.head.kernel.T),
    "squared distances": Head(lambda: Net(Distances()), lambda net: 2 * net.head.prototypes),
    "log-softmax of squared distances": Head(
        lambda: Net(Distances(), lambda z: z.log_softmax(dim=1)), lambda net: 2 * net.head.prototypes
    ),
    "distances with the other sign": Head(lambda: Net(Distances(), lambda z: -z), lambda net: -2 * net.head.prototypes),
    "negated": Head(lambda: Net(linear(), lambda z: -z), lambda net: -net.head.weight),
    "batch norm behind": Head(
        lambda: Net(linear(), lambda z: z * FACTORS + PRIORS), lambda net: FACTORS[:, None] * net.head.weight
    ),
    "named logits": Head(lambda: Net(linear(), lambda z: {"hidden": torch.zeros(len(z), 3), "logits": z})),
    "behind features": Head(lambda: Net(linear(), lambda z: (torch.zeros(len(z), 3), z))),
}  # fmt: skip


def made(make):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return make().train()


def returned(net, x=X):
    output = net.eval()(x)
    output = output["logits"] if isinstance(output, dict) else output[1] if isinstance(output, tuple) else output
    return output.detach().flatten(1)


def oracle(net, x=X, y=Y, num_classes=K):
    """Features of the body's end and the network's choices by plain hooks; accuracy and NC4 from them."""
    features = []
    handle = net.body.register_forward_hook(lambda _, __, output: features.append(output.detach().double().numpy()))
    with torch.no_grad():
        decided = returned(net, x)
    handle.remove()
    decided = decided.argmax(dim=1).numpy() if decided.shape[1] > 1 else (decided[:, 0] > 0).long().numpy()
    H, labels = features[0], y.long().numpy()
    nearest = reference.nearest(H, reference.means(H, labels, num_classes))
    return H, {"accuracy": np.mean(decided == labels), "nc4": np.mean(decided == nearest)}


def nc3_of(features, weight, labels, num_classes=K):
    H, W = (torch.as_tensor(part).detach().double().numpy() for part in (features, weight))
    M = reference.means(H, labels.long().numpy(), num_classes)
    M = M - M.mean(axis=0)
    return ((W / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2).sum()


def assert_equals_oracle(m, net, weight, x=X, y=Y, num_classes=K, rel=2e-5):
    H, expected = oracle(net, x, y, num_classes)
    assert {name: m.value(name) for name in expected} == pytest.approx(expected, abs=1e-14)
    assert m.value("nc3") == pytest.approx(nc3_of(H, weight, y, num_classes), rel=rel)
    assert not any("classifier_unproven" in row.flags for row in m.rows)


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("name", PROVEN)
def test_a_proven_head_equals_the_oracle(name, budget):
    head = PROVEN[name]
    m = measure(made(head.make), BATCHES, num_classes=K, memory_budget=budget)
    net = made(head.make)
    with torch.no_grad():
        assert_equals_oracle(m, net, head.weight(net.eval()))
    assert f"classifier {head.name} gives the logits" in m.chosen
    found = find_layers(made(head.make), X, num_classes=K)
    assert (found.classifier, found.names) == (head.name, m.layers)


@pytest.mark.parametrize("name", PROVEN)
def test_a_proven_head_is_read_as_it_is_now_in_a_watched_loop(name):
    head = PROVEN[name]
    net = made(head.make)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05)
    with watch(net, num_classes=K, mode="train") as watched:
        for x, y in BATCHES:
            output = net(x)
            watched.update(y)
            output = output["logits"] if isinstance(output, dict) else output[1] if isinstance(output, tuple) else output
            F.cross_entropy(output.flatten(1), y).backward()
            optimizer.step()
        before = [parameter.clone() for parameter in net.parameters()]
        m = watched.compute()
    assert net.training
    assert all(torch.equal(parameter, old) for parameter, old in zip(net.parameters(), before, strict=True))
    with torch.no_grad():
        net.eval()(X)  # the weight norm of old computes the weight in each pass
        weight = head.weight(net)
        if name == "low-rank update that is zero yet":
            weight = net.head.merged
    found = m.statistics[m.layers[-1]].classifier.weight
    weight = weight.detach()
    scale = float((found * weight).sum() / weight.double().square().sum())
    assert scale > 0
    assert torch.allclose(found, scale * weight.double(), atol=1e-5 * float(found.abs().max()), rtol=0)


class TwoHeads(nn.Module):
    """Two heads on one body, and what the forward makes of them."""

    def __init__(self, join, towers=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.other = nn.Linear(6, D) if towers else nn.Identity()
        self.first, self.second, self.join, self.towers = nn.Linear(D, K), nn.Linear(D, K), join, towers

    def forward(self, x):
        h = self.body(x)
        return self.join(self.first(h), self.second(self.other(x) if self.towers else h))


class DeepSupervision(nn.Module):
    """The mean of the logits of three depths."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(3))
        self.heads = nn.ModuleList(nn.Linear(6, K) for _ in range(3))

    @property
    def body(self):
        return self.blocks[-1]

    def forward(self, x):
        logits = []
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            logits.append(head(x))
        return torch.stack(logits).mean(dim=0)


class Frame(nn.Module):
    """Logits of a fixed frame that no module computes, beside an auxiliary linear layer with K outputs."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.auxiliary = nn.Linear(D, K)
        self.register_buffer("frame", torch.randn(K, D))

    def forward(self, x):
        h = self.body(x)
        self.auxiliary(h)
        return h @ self.frame.T


class Nonlinear(nn.Module):
    """Distances to prototypes, which are no linear logits."""

    def __init__(self):
        super().__init__()
        self.prototypes = nn.Parameter(torch.randn(K, D))

    def forward(self, x):
        return -torch.cdist(x, self.prototypes)


class ProjectionBeside(nn.Module):
    """Logits over a temperature of a head, and a projection of width K that runs later."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.head, self.projection = nn.Linear(D, K), nn.Linear(D, K)

    def forward(self, x):
        h = self.body(x)
        logits = self.head(h) / 0.3
        return logits, self.projection(h).square()


UNPROVEN = {
    "mean of two heads": lambda: TwoHeads(lambda a, b: (a + b) / 2),
    "mean of two heads on two towers": lambda: TwoHeads(lambda a, b: (a + b) / 2, towers=True),
    "product of two heads": lambda: TwoHeads(lambda a, b: a * b),
    "deep supervision": DeepSupervision,
    "distances": lambda: Net(Nonlinear()),
    "hyperbolic tangent": lambda: Net(nn.Sequential(nn.Linear(D, K), nn.Tanh())),
    "clamped": lambda: Net(nn.Linear(D, K), lambda z: z.clamp(-0.1, 0.1)),
    "bounded far away": lambda: Net(nn.Linear(D, K), lambda z: 30 * torch.tanh(z / 30)),
    "squared": lambda: Net(nn.Linear(D, K), lambda z: z * z.abs()),
    "Gaussians of classes with variances of their own": lambda: Net(Distances(variances=torch.tensor([1.0, 2.0, 0.5, 1.0]))),
    "distances and a function of the norm": lambda: Net(Distances(), lambda z: z * z.abs().mean(dim=1, keepdim=True)),
}  # fmt: skip


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("name", UNPROVEN)
def test_without_a_proof_accuracy_and_nc4_are_the_networks_and_nc3_is_flagged(name, budget):
    m = measure(made(UNPROVEN[name]), BATCHES, num_classes=K, memory_budget=budget)
    _, expected = oracle(made(UNPROVEN[name]))
    assert m.value("accuracy") == pytest.approx(expected["accuracy"], abs=1e-14)
    last = m.statistics[m.layers[-1]]
    if last.moments.dim == oracle(made(UNPROVEN[name]))[0].shape[1] and name != "mean of two heads on two towers":
        assert m.value("nc4") == pytest.approx(expected["nc4"], abs=1e-14)
    assert np.isnan(m.value("nc3"))
    flagged = {row.metric for row in m.rows if "classifier_unproven" in row.flags}
    assert {"nc3", "nc3_cosine", "nc3_bias", "nc2_etf_weights"} <= flagged
    assert not {"accuracy", "nc4", "pfc1", "pfc3"} & flagged
    assert "no classifier found, since" in m.chosen
    with pytest.raises(ValueError, match=r"Metrics nc3 need a classifier \(.*no classifier found, since"):
        measure(made(UNPROVEN[name]), BATCHES, num_classes=K, metrics=["nc3", "accuracy"])


def test_a_pair_stands_for_a_classifier_that_no_module_computes():
    net = made(Frame)
    m = measure(net, BATCHES, num_classes=K, classifier=(net.frame, None))
    assert_equals_oracle(m, made(Frame), net.frame)
    assert m.chosen.endswith(f"; W and b given for {m.layers[-1]}")
    with watch(net.eval(), num_classes=K, mode="eval", classifier=(net.frame, None)) as watched:
        net(X)
        watched.update(Y)
    assert watched.compute().value("nc3") == pytest.approx(m.value("nc3"), rel=1e-12)
    with pytest.raises(ValueError, match=r"weight must have shape \(4, 7\) for layer '.*', got \(4, 6\)"):
        measure(net, BATCHES, num_classes=K, classifier=(torch.ones(4, 6), None))


def test_a_pair_decides_for_a_network_without_logits():
    body, weight = made(lambda: Net(nn.Identity())), torch.randn(K, D, generator=torch.Generator().manual_seed(1))
    for budget in (None, 0):
        m = measure(body, BATCHES, num_classes=K, classifier=(weight, None), memory_budget=budget)
        features = body.eval()(X).detach()
        expected = measure_features({"x": features}, Y, num_classes=K, classifier=(weight, None))
        for metric in ("accuracy", "nc3", "nc4", "nc3_cosine"):
            assert m.value(metric) == pytest.approx(expected.value(metric), rel=1e-6), metric


SINGLE = {
    "one logit": lambda: Net(nn.Linear(D, 1)),
    "one logit without a dimension": lambda: Net(nn.Linear(D, 1), lambda z: z.squeeze(1)),
    "one probability": lambda: Net(nn.Linear(D, 1), torch.sigmoid),
    "one probability without a dimension": lambda: Net(nn.Linear(D, 1), lambda z: z.sigmoid().squeeze(1)),
    "one logit over a temperature": lambda: Net(nn.Linear(D, 1), lambda z: z / 3.0),
}


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.uint8])
@pytest.mark.parametrize("name", SINGLE)
def test_one_logit_for_two_classes(name, dtype):
    x, labels = drawn(2, seed=5)
    y = labels.to(dtype)
    m = measure(made(SINGLE[name]), [(x[:20], y[:20]), (x[20:], y[20:])], num_classes=2)
    net = made(SINGLE[name])
    plain = made(lambda: Net(nn.Linear(D, 1)))
    plain.load_state_dict(net.state_dict())
    assert_equals_oracle(m, plain, half(net.head.weight), x, labels, 2)


def test_one_number_in_the_unit_interval_that_is_neither_proven_a_logit_nor_a_probability_decides_nothing():
    x, y = drawn(2)
    net = made(lambda: Net(nn.Linear(D, 1), lambda z: z.sigmoid().square()))
    m = measure(net, [(x, y)], num_classes=2)
    assert "accuracy" not in {row.metric for row in m.rows}
    assert "one number in [0, 1]" in m.chosen


@pytest.mark.parametrize("join", [lambda a, b: (a, b), lambda a, b: [a, b], lambda a, b: {"shape": a, "color": b}])
def test_two_tasks_are_named_and_chosen_between(join):
    make = lambda: TwoHeads(join)  # noqa: E731
    for name in ("first", "second"):
        m = measure(made(make), BATCHES, num_classes=K, classifier=name)
        net = made(make)
        net.join = lambda a, b, name=name: a if name == "first" else b
        assert_equals_oracle(m, net, getattr(net, name).weight)
        other = {"first": "second", "second": "first"}[name]
        assert f"classifier {name} gives the logits" in m.chosen
        assert f"{other} left out (another head)" in m.chosen
    default = measure(made(make), BATCHES, num_classes=K)
    assert "classifier first gives the logits" in default.chosen
    assert find_layers(made(make), X, num_classes=K).left_out == {"second": "another head"}


class Gated(Net):
    """A head, and something else that adds to its logits once its gate is open."""

    def __init__(self):
        super().__init__(nn.Linear(D, K))
        self.side, self.gate = nn.Linear(6, K), nn.Parameter(torch.zeros(()))

    def forward(self, x):
        return super().forward(x) + self.gate * self.side(x)


def test_a_head_that_ceases_to_give_the_logits_is_flagged_in_a_watched_loop():
    net = made(Gated).eval()
    with watch(net, num_classes=K, mode="eval") as watched:
        net(X)
        watched.update(Y)
        assert_equals_oracle(watched.compute(), made(Gated), net.head.weight)
        watched.reset()
        net.gate.data.fill_(1.0)
        logits = net(X)
        watched.update(Y)
        m = watched.compute()
    assert np.isnan(m.value("nc3"))
    assert m.value("accuracy") == (logits.argmax(dim=1) == Y).double().mean()


@pytest.mark.parametrize("scale", [30.0, 100.0])
@pytest.mark.parametrize("change", [torch.nn.Softmax(dim=1), torch.nn.LogSoftmax(dim=1), torch.nn.Sigmoid()])
def test_saturated_probabilities(scale, change):
    make = lambda: Net(linear(), lambda z: change(scale * z))  # noqa: E731
    m = measure(made(make), BATCHES, num_classes=K)
    net = made(make)
    H, expected = oracle(net)
    assert m.value("accuracy") == pytest.approx(expected["accuracy"], abs=1e-14)
    W, M = net.head.weight.detach().double().numpy(), reference.means(H, Y.numpy(), K)
    M = M - M.mean(axis=0)
    nc3 = ((W / np.linalg.norm(W) - M / np.linalg.norm(M)) ** 2).sum()
    assert m.value("nc3") == pytest.approx(nc3, rel=1e-5) or "no classifier found" in m.chosen


class ByDomain(nn.Module):
    """Changes the logits of each sample by its domain, a second input, as a function says."""

    def __init__(self, change):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.head, self.second, self.change = nn.Linear(D, K), nn.Linear(D, K), change
        self.offsets = nn.Parameter(torch.randn(2, K))

    def forward(self, x, domain):
        h = self.body(x)
        return self.change(self, h, domain)


CHANGES = {
    "another head": lambda net, h, domain: torch.where(domain[:, None] == 0, net.head(h), net.second(h)),
    "an offset for each class": lambda net, h, domain: net.head(h) + net.offsets[domain],
    "another temperature": lambda net, h, domain: net.head(h) / (2.0 + domain[:, None]),
    "an offset without a module": lambda net, h, domain: F.linear(h, net.head.weight) + net.offsets[domain],
    "bounds": lambda net, h, domain: torch.maximum(net.head(h), -1e3 + 999.9 * domain[:, None]),
}


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("first", ["in the first batch", "in a later batch", "nowhere"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_proof_by_the_first_samples_must_hold_for_others(change, first, budget):
    domain = torch.zeros(N, dtype=torch.long)
    domain[{"in the first batch": slice(2, N), "in a later batch": slice(20, N), "nowhere": slice(0)}[first]] = 1
    net = made(lambda: ByDomain(CHANGES[change]))
    batches = [((X[:20], domain[:20]), Y[:20]), ((X[20:], domain[20:]), Y[20:])]
    m = measure(net, batches, num_classes=K, memory_budget=budget, check=True)
    with torch.no_grad():
        expected = (net.eval()(X, domain).argmax(dim=1) == Y).double().mean()
    assert m.value("accuracy") == float(expected)
    assert np.isnan(m.value("nc3")) == (first != "nowhere")
    said = "the logits of further samples are others than those of head" in m.chosen
    assert said == (first != "nowhere")
    if first == "nowhere":
        assert m.value("nc3") == pytest.approx(nc3_of(net.body(X), net.head.weight, Y), rel=1e-4)
    elif budget == 0:
        with pytest.raises(ValueError, match="Metrics nc3 need a classifier"):
            measure(net, batches, num_classes=K, metrics=["nc3"])


PROBABILITIES = {
    "softmax": lambda z: z.softmax(dim=1),
    "log-softmax": lambda z: z.log_softmax(dim=1),
    "sigmoid of each class": torch.sigmoid,
    "softmax at a temperature": lambda z: (30 * z).softmax(dim=1),
    "one probability": torch.sigmoid,
}


@pytest.mark.parametrize("first", ["in a later batch", "nowhere"])
@pytest.mark.parametrize("change", ["another head", "an offset for each class", "another temperature"])
@pytest.mark.parametrize("kind", PROBABILITIES)
def test_a_proof_by_probabilities_must_hold_for_others(kind, change, first):
    domain = (torch.arange(N) >= (20 if first == "in a later batch" else N)).long()
    num_classes = 2 if kind == "one probability" else K
    labels = Y % num_classes

    def make():
        net = ByDomain(lambda net, h, domain: PROBABILITIES[kind](CHANGES[change](net, h, domain)))
        if num_classes == 2:
            net.head, net.second, net.offsets = nn.Linear(D, 1), nn.Linear(D, 1), nn.Parameter(torch.randn(2, 1))
        return net

    net = made(make)
    batches = [((X[:20], domain[:20]), labels[:20]), ((X[20:], domain[20:]), labels[20:])]
    m = measure(net, batches, num_classes=num_classes)
    with torch.no_grad():
        found = net.eval()(X, domain)
        choices = found.argmax(dim=1) if num_classes > 2 else (found[:, 0] > 0.5).long()
    assert m.value("accuracy") == pytest.approx(float((choices == labels).double().mean()))
    assert np.isnan(m.value("nc3")) == (first != "nowhere")
    assert ("the logits of further samples are others than those of head" in m.chosen) == (first != "nowhere")
    if first == "nowhere":
        weight = net.head.weight if num_classes > 2 else half(net.head.weight)
        assert m.value("nc3") == pytest.approx(nc3_of(net.body(X), weight, labels, num_classes), rel=1e-4)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("change", [torch.nn.Softmax(dim=1), torch.nn.Sigmoid()])
def test_rounding_of_probabilities_is_no_other_head(change, precision, scale):
    net = made(lambda: Net(linear(), lambda z: change(scale * z))).to(precision)
    m = measure(net, [(x.to(precision), y) for x, y in BATCHES], num_classes=K)
    assert "the logits of further samples" not in m.chosen


def test_a_watched_network_is_proven_by_its_whole_first_batch():
    domain = (torch.arange(N) > 1).long()
    net = made(lambda: ByDomain(CHANGES["another head"])).eval()
    with watch(net, num_classes=K, mode="eval") as watching, torch.no_grad():
        net(X, domain)
        watching.update(Y)
    m = watching.compute()
    assert np.isnan(m.value("nc3"))
    assert "the logits of further samples" in m.chosen


def test_equal_samples_in_front_hide_no_offset_of_each_sample():
    x = X.clone()
    x[1] = x[0]
    net = made(lambda: ByDomain(lambda net, h, domain: h @ net.head.weight.T + domain @ net.second.weight.T))
    m = measure(net, [((x, torch.cat([x, x[:, :1]], dim=1)), Y)], num_classes=K)
    assert np.isnan(m.value("nc3"))
    assert "no classifier" in m.chosen


def test_logits_behind_their_own_probabilities_are_no_other_head():
    m = measure(made(lambda: Net(linear(), lambda z: (z.argmax(dim=1), z.softmax(dim=1), z))), BATCHES, num_classes=K)
    assert_equals_oracle(m, made(lambda: Net(linear())), made(lambda: Net(linear())).head.weight)
    assert "another head" not in m.chosen


def test_a_projection_beside_the_head_does_not_matter():
    m = measure(made(ProjectionBeside), BATCHES, num_classes=K)
    net = made(ProjectionBeside)
    plain = Net(net.head)
    plain.body = net.body
    assert_equals_oracle(m, plain, net.head.weight)


def test_calibration_behind_the_head():
    make = lambda: Net(nn.Sequential(nn.Linear(D, K), nn.Linear(K, K)))  # noqa: E731
    m = measure(made(make), BATCHES, num_classes=K)
    net = made(make)
    assert m.value("accuracy") == pytest.approx(oracle(net)[1]["accuracy"], abs=1e-14)
    # The last linear layer reproduces the logits on its own input, the outputs of the layer before it.
    rows = net.head[0](net.body(X)).detach()
    expected = measure_features(rows, Y, num_classes=K, classifier=(net.head[1].weight, net.head[1].bias))
    assert (m.value("nc3"), m.value("nc4")) == pytest.approx((expected.value("nc3"), expected.value("nc4")), rel=1e-5)


class Pixels(nn.Module):
    """Means of the logits of all pixels."""

    def __init__(self, keepdim):
        super().__init__()
        self.body, self.head, self.keepdim = nn.Conv2d(3, D, 3), nn.Conv2d(D, K, 1), keepdim

    def forward(self, x):
        return self.head(self.body(x).tanh()).mean(dim=(2, 3), keepdim=self.keepdim)


@pytest.mark.parametrize("keepdim", [False, True])
def test_a_convolution_in_front_of_pooling_is_the_classifier_of_the_pooled_features(keepdim):
    x = torch.randn(N, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    m = measure(made(lambda: Pixels(keepdim)), [(x[:20], Y[:20]), (x[20:], Y[20:])], num_classes=K)
    net = made(lambda: Pixels(False)).eval()
    pooled = net.body(x).tanh().mean(dim=(2, 3)).detach()
    expected = measure_features(pooled, Y, num_classes=K, classifier=(net.head.weight.flatten(1), net.head.bias))
    assert m.layers[-1] == "head.input:mean"
    assert (m.value("nc3"), m.value("nc4")) == pytest.approx((expected.value("nc3"), expected.value("nc4")), rel=1e-5)
    assert m.value("accuracy") == (net(x).argmax(dim=1) == Y).double().mean()


def test_a_dynamically_quantized_head():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.ao.quantization.quantize_dynamic(made(lambda: Net(linear())), {"head"})
    m = measure(net, BATCHES, num_classes=K)
    assert_equals_oracle(m, net, net.head.weight().dequantize())


def test_a_pair_with_nan_is_flagged():
    m = measure_features(X, Y, num_classes=K, classifier=(torch.full((K, 6), torch.nan), None))
    for metric in ("accuracy", "nc4", "nc3"):
        assert np.isnan(m.value(metric))
        assert [row.flags for row in m.rows if row.metric == metric] == [("classifier_not_finite",)]


@pytest.mark.parametrize("where", ["weight", "bias"])
def test_nan_in_the_head_is_refused_and_named(where):
    net = made(lambda: Net(linear()))
    getattr(net.head, where).data[1] = torch.nan
    words = r"must be numbers, got NaN in batch 0 although .* are finite\. Check the weights of classifier 'head' for NaN"
    with pytest.raises(ValueError, match=words):
        measure(net, BATCHES, num_classes=K)


class Product(nn.Module):
    """Logits that no module computes."""

    def __init__(self):
        super().__init__()
        self.body, self.W = nn.Sequential(nn.Linear(6, D), nn.Tanh()), nn.Parameter(torch.randn(K, D))

    def forward(self, x):
        return self.body(x) @ self.W.T


@pytest.mark.parametrize("watching", [False, True])
@pytest.mark.parametrize(
    ("make", "broken"),
    [
        (Product, lambda net: net.W),
        (lambda: Net(linear(), lambda z: z.softmax(dim=1)), lambda net: net.head.weight),
        (lambda: Net(CosineByHand()), lambda net: net.head.scale),
    ],
    ids=["product", "softmax", "cosine"],
)
def test_nan_in_any_head_is_no_decision(make, broken, watching):
    net = made(make).eval()
    broken(net).data.view(-1)[0] = torch.nan

    def watched():
        with watch(net, num_classes=K, mode="eval") as watching:
            net(X)
            watching.update(Y)
        return watching.compute()

    with pytest.raises(
        ValueError, match=r"logits must be numbers, got NaN.* although the features are finite\. Check the weights"
    ):
        watched() if watching else measure(net, BATCHES, num_classes=K)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["linear", "low-rank update", "1x1 convolution behind pooling", "weight norm"])
def test_every_precision(name, dtype):
    head = PROVEN[name]
    net = made(head.make).to(dtype)
    batches = [(x.to(dtype), y) for x, y in BATCHES]
    m = measure(net, batches, num_classes=K)
    assert f"classifier {head.name} gives the logits" in m.chosen
    logits = torch.cat([returned(net, x) for x, _ in batches])
    assert m.value("accuracy") == (logits.argmax(dim=1) == Y).double().mean()


@pytest.mark.parametrize("labels", [Y % 2, Y, torch.arange(N) % 8])
def test_own_networks_with_other_labels(labels):
    from ncollapse.models import FCResNet, FCResNetConfig

    num_classes = int(labels.max()) + 1
    net = FCResNet(FCResNetConfig(width=8, num_blocks=2), 6, K, seed=0)
    m = measure(net, [(X, labels)], num_classes=num_classes)
    assert m.layers == ("stem", "blocks.0", "blocks.1")
    has_head = num_classes == K
    assert ("nc3" in {row.metric for row in m.rows}) == has_head
    assert ("returns no logits" in m.chosen) != has_head


PIXELS = {
    "1x1 convolution": (1, lambda logits: logits, True),
    "temperature": (1, lambda logits: logits / 3, True),
    "softmax": (1, lambda logits: logits.softmax(dim=1), True),
    "3x3 convolution": (3, lambda logits: logits, False),
    "upsampled": (1, lambda logits: F.interpolate(logits[:, :, ::2, ::2], (5, 7)), False),
    "cubed": (1, lambda logits: logits**3, False),
}


class Segmentation(nn.Module):
    """A class for every pixel."""

    def __init__(self, size, then):
        super().__init__()
        self.body, self.head, self.then = nn.Conv2d(3, D, 3, padding=1), nn.Conv2d(D, K, size, padding=size // 2), then

    def forward(self, x):
        return self.then(self.head(torch.tanh(self.body(x))))


@pytest.mark.parametrize("name", PIXELS)
def test_a_class_for_every_pixel(name):
    size, then, is_proven = PIXELS[name]
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(6, 3, 5, 7, generator=generator), torch.randint(K, (6, 5, 7), generator=generator)
    net = Segmentation(size, then)
    m = measure(net, [(x[:2], y[:2]), (x[2:], y[2:])], num_classes=K)
    assert m.layers == ("head.input",)
    with torch.no_grad():
        rows, choices = torch.tanh(net.body(x)).movedim(1, -1).flatten(0, 2).double(), net(x).argmax(dim=1).flatten()
    labels = y.flatten()
    means = torch.stack([rows[labels == k].mean(dim=0) for k in range(K)])
    nearest = torch.cdist(rows, means).argmin(dim=1)
    assert m.value("accuracy") == pytest.approx(float((choices == labels).double().mean()))
    assert m.value("nc4") == pytest.approx(float((choices == nearest).double().mean()))
    (nc3,) = [row for row in m.rows if row.metric == "nc3"]
    if is_proven:
        centered, weight = means - means.mean(dim=0), net.head.weight.detach().flatten(1).double()
        expected = (weight / weight.norm() - centered / centered.norm()).square().sum()
        assert nc3.value == pytest.approx(float(expected), rel=1e-5)
    else:
        assert nc3.flags == ("classifier_unproven",)
        assert np.isnan(nc3.value)


class Returns(nn.Module):
    """Returns what a function makes of the features and the logits."""

    def __init__(self, returned, classes=K, width=K):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(X.shape[1], D), nn.Tanh(), nn.Linear(D, width))
        self.head, self.returned = nn.Linear(width, classes), returned

    def forward(self, x):
        h = self.body(x)
        return self.returned(h, self.head(h))


RETURNS = {
    "features as wide as there are classes": (lambda h, z: (h, z), K),
    "features by name": (lambda h, z: {"embedding": h, "prediction": z}, K),
    "changed features": (lambda h, z: [F.normalize(h), z], K),
    "features last": (lambda h, z: (z, h), K),
    "a loss for each sample": (lambda h, z: (h.square().sum(dim=1), z), 2),
    "a value for each sample": (lambda h, z: (h.sum(dim=1, keepdim=True), z), 2),
}


@pytest.mark.parametrize("name", RETURNS)
def test_features_and_losses_next_to_the_logits_are_not_taken_for_them(name):
    returned, classes = RETURNS[name]
    torch.manual_seed(4)
    net, labels = Returns(returned, classes), Y % classes
    m = measure(net, [(X, labels)], num_classes=classes)
    with torch.no_grad():
        decided = net.head(net.body(X)).argmax(dim=1)
    assert m.value("accuracy") == pytest.approx(float((decided == labels).double().mean()), abs=1e-14)
    assert torch.equal(m.statistics["body.2"].classifier.weight, net.head.weight.double())


class JoinedHeads(nn.Module):
    """One module for the old classes and one for a new one, or for old ones twice."""

    def __init__(self, join):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.old, self.new, self.join = nn.Linear(D, K - 1), nn.Sequential(nn.Dropout(0.5), nn.Linear(D, 1)), join

    def forward(self, x):
        h = self.body(x)
        return self.join([self.old(h), self.new(h)])


@pytest.mark.parametrize("budget", [None, 0])
def test_heads_that_are_joined(budget):
    net = made(lambda: JoinedHeads(lambda parts: torch.cat(parts, dim=1) / 0.5))
    m = measure(net, BATCHES, num_classes=K, memory_budget=budget)
    assert_equals_oracle(m, net, torch.cat([net.old.weight, net.new[1].weight]))
    assert "classifiers old, new, joined, give the logits times 2" in m.chosen
    assert m.layers == ("body.1", "body.3")


def test_joined_heads_that_are_mixed_are_no_classifier():
    net = made(lambda: JoinedHeads(lambda parts: torch.cat([parts[0] * parts[1], parts[1]], dim=1)))
    m = measure(net, BATCHES, num_classes=K)
    assert math.isnan(m.value("nc3"))
    assert m.value("accuracy") == oracle(net)[1]["accuracy"]


def test_autocast_inside_of_the_forward():
    net = made(lambda: Net(linear()))
    plain = net.forward

    def forward(x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(x).float()

    net.forward = forward
    found = measure(net, BATCHES, num_classes=K).statistics["body.3"].classifier.weight
    assert torch.equal(found, net.head.weight.double())


def test_one_row_of_one_feature_gives_random_numbers():
    assert bool(torch.isfinite(noisy(torch.tensor([[3.0]]), seed=0)).all())


@pytest.mark.parametrize(
    "then",
    [
        lambda z: z.topk(K, dim=-1).values,
        lambda z: z.topk(K, dim=-1),
        lambda z: z.softmax(-1).sort(-1, descending=True)[0].log(),
    ],
    ids=["values", "values and places", "log probabilities"],
)
def test_scores_sorted_by_size_are_no_logits(then):
    m = measure(made(lambda: Net(linear(), then)), BATCHES, num_classes=K)
    assert not {"accuracy", "nc3", "nc4"} & {row.metric for row in m.rows}
    assert m.layers == ("body.1", "body.3")
    assert "the network returns scores sorted by size, whose classes are not known" in m.chosen


def test_logits_beside_their_sorted_scores_and_logits_put_back_in_order():
    beside = made(lambda: Net(linear(), lambda z: (z.sort(-1).values, z)))
    assert_equals_oracle(measure(beside, BATCHES, num_classes=K), made(lambda: Net(linear())), beside.head.weight)

    def back(z):
        values, places = z.sort(-1)
        return torch.zeros_like(z).scatter(1, places, values)

    net = made(lambda: Net(linear(), back))
    assert_equals_oracle(measure(net, BATCHES, num_classes=K), net, net.head.weight)


class Beside(nn.Module):
    """A linear layer, and a way of low rank beside it that the network itself adds, perhaps behind dropout."""

    def __init__(self, ways, drop=False):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, D), nn.Tanh())
        self.drop = nn.Dropout(0.5) if drop else nn.Identity()
        self.base, self.ways = nn.Linear(D, K), nn.ModuleList(nn.Linear(*way, bias=False) for way in ways)

    def forward(self, x):
        h = self.body(x)
        logits, low = self.base(h), self.drop(h)
        for way in self.ways:
            low = way(low)
        return logits + 2 * low


BESIDE = {
    "low rank": lambda: Beside([(D, 2), (2, K)]),
    "low rank behind dropout": lambda: Beside([(D, 2), (2, K)], drop=True),
    "three in a row": lambda: Beside([(D, 3), (3, 3), (3, K)]),
    "a class without a row": lambda: Net(nn.Linear(D, K - 1), lambda z: torch.cat([z.new_zeros(len(z), 1), z], dim=1)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", BESIDE)
def test_weights_beside_a_classifier_do_not_hide_the_features_of_both(name, dtype):
    net, (x, y) = made(BESIDE[name]).to(dtype), (X.to(dtype), Y)
    m = measure(net, [(x, y)], num_classes=K)
    H, expected = oracle(net, x)
    last = m.statistics[m.layers[-1]].moments
    np.testing.assert_allclose(last.class_means.numpy(), reference.means(H, y.numpy(), K), atol=1e-6)
    assert (m.value("accuracy"), m.value("nc4")) == (pytest.approx(expected["accuracy"]), pytest.approx(expected["nc4"]))
    assert np.isnan(m.value("nc3"))


class SumsOverSamples(nn.Module):
    """Logits of a sample and of all before it in the batch: its neighbors, as in a graph."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(K, D))

    def forward(self, h):
        return (h @ self.weight.T).cumsum(dim=0)


def test_logits_are_no_features_of_themselves():
    m = measure(made(lambda: Net(SumsOverSamples())), BATCHES, num_classes=K)
    assert (m.layers, np.isnan(m.value("nc3"))) == (("body.1", "body.3"), True)
    assert "no classifier found, since head is no linear map of one row of features" in m.chosen


class Detector(nn.Module):
    """Returns boxes of as many numbers as there are classes in front of what it names as logits."""

    def __init__(self, key):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, D), nn.Tanh())
        self.boxes, self.head, self.key = nn.Linear(D, K), nn.Linear(D, K), key

    def forward(self, x):
        return {"pred_boxes": self.boxes(self.body(x)).sigmoid(), self.key: self.head(self.body(x))}


@pytest.mark.parametrize("key", ["logits", "pred_logits", "logits_per_class"])
def test_logits_are_known_by_their_name(key):
    net = made(lambda: Detector(key)).eval()
    m = measure(net, BATCHES, num_classes=K)
    assert m.value("accuracy") == pytest.approx(float((net(X)[key].argmax(dim=1) == Y).double().mean()))
    assert "head gives the logits" in m.chosen


class Refiner(Detector):
    """Returns further numbers for each class that it makes of the logits."""

    def __init__(self, key):
        super().__init__(key)
        self.boxes = nn.Linear(K, K)

    def forward(self, x):
        logits = self.head(self.body(x))
        return {"refined": self.boxes(logits), self.key: logits}


@pytest.mark.parametrize("key", ["logits", "class_logits"])
def test_what_is_made_of_named_logits_does_not_decide(key):
    net = made(lambda: Refiner(key)).eval()
    m = measure(net, BATCHES, num_classes=K)
    assert m.value("accuracy") == pytest.approx(float((net(X)[key].argmax(dim=1) == Y).double().mean()))
    assert m.value("nc3") == pytest.approx(nc3_of(net.body(X), net.head.weight, Y), rel=2e-5)
