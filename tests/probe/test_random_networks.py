"""Random small networks: every core metric equals plain hooks in float64, and the network stays as it was, to the bit."""

import copy
import math
import random
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import event, given, settings
from hypothesis import strategies as st
from torch import nn

import reference
from ncollapse.metrics import CORE
from ncollapse.probe import measure

D, TOKENS, N = 8, 5, 66
ACTIVATIONS = {"relu": F.relu, "tanh": torch.tanh, "gelu": F.gelu}
MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


class Block(nn.Module):
    """A linear layer with a norm, an activation as a module or a function, and dropout, plain or around a skip."""

    def __init__(self, residual, norm, activation, as_module):
        super().__init__()
        self.residual, self.linear = residual, nn.Linear(D, D)
        self.norm = {"layer": nn.LayerNorm, "batch": nn.BatchNorm1d, "none": nn.Identity}[norm](D)
        self.act = MODULES[activation]() if as_module else None
        self.function, self.drop = ACTIVATIONS[activation], nn.Dropout(0.4)

    def forward(self, h):
        out = self.linear(h)
        out = self.norm(out.flatten(0, -2)).view_as(out)
        out = self.drop(self.function(out) if self.act is None else self.act(out))
        return h + out if self.residual else out


class Cosine(nn.Module):
    """Cosines times a scale."""

    def __init__(self, num_classes):
        super().__init__()
        self.rows = nn.Parameter(torch.randn(num_classes, D))

    def forward(self, h):
        return 4.0 * F.normalize(h, dim=-1) @ F.normalize(self.rows, dim=1).T


HEADS = {
    "linear": lambda k: nn.Linear(D, k),
    "no bias": lambda k: nn.Linear(D, k, bias=False),
    "behind dropout": lambda k: nn.Sequential(nn.Dropout(0.5), nn.Linear(D, k)),
    "softmax": lambda k: nn.Linear(D, k),
    "temperature": lambda k: nn.Linear(D, k),
    "two outputs": lambda k: nn.Linear(D, k),
    "cosine": Cosine,
    "one logit": lambda k: nn.Linear(D, 1),
    "tanh": lambda k: nn.Linear(D, k),
    "mean of two": lambda k: nn.ModuleList([nn.Linear(D, k), nn.Linear(D, k)]),
}
THEN = {"softmax": lambda z: z.softmax(-1), "temperature": lambda z: z / 0.7, "tanh": torch.tanh}
UNPROVEN = {"tanh", "mean of two"}


def effective(network):
    """The classifier (W, b) that the head is, read off its parameters; None if it is none."""
    head, kind, num_classes = network.head, network.design.head, network.design.num_classes
    if kind in UNPROVEN:
        return None
    if kind == "cosine":
        return 4.0 * F.normalize(head.rows, dim=1).detach().double().numpy(), np.zeros(num_classes)
    layer = head[1] if kind == "behind dropout" else head
    weight = layer.weight.detach().double().numpy()
    bias = np.zeros(num_classes) if layer.bias is None else layer.bias.detach().double().numpy()
    if kind == "one logit":
        return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return (weight / 0.7, bias / 0.7) if kind == "temperature" else (weight, bias)


@dataclass(frozen=True)
class Design:
    """A drawn network."""

    layout: str
    blocks: tuple[tuple[bool, str, str, bool], ...]
    shared: bool
    head: str
    float64: bool
    seed: int
    batch_size: int

    @property
    def num_classes(self):
        return 2 if self.head == "one logit" else 3


class Network(nn.Module):
    """Inputs as vectors or tokens, blocks, perhaps a layer that runs before and behind them, a read-out, a head."""

    def __init__(self, design):
        super().__init__()
        self.design = design
        self.embed = nn.Linear(6, D) if design.layout == "vectors" else nn.Embedding(13, D)
        self.mixer = nn.Linear(D, D) if design.shared else None
        self.blocks = nn.ModuleList([Block(*block) for block in design.blocks])
        self.head = HEADS[design.head](design.num_classes)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def features(self, x, attention_mask=None):
        h = self.embed(x)
        h = h if self.mixer is None else torch.tanh(self.mixer(h))
        for block in self.blocks:
            h = block(h)
        h = h if self.mixer is None else torch.tanh(self.mixer(h))
        if self.design.layout == "mean":
            return (h * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        if self.design.layout == "last":
            return h[torch.arange(len(h)), attention_mask.sum(1) - 1]
        return h[:, 0] if self.design.layout == "cls" else h

    def forward(self, x, attention_mask=None):
        # In eval mode too: a counter, and random numbers that are drawn and not used.
        self.calls += 1
        torch.rand(1), np.random.rand(), random.random()
        h = self.features(x, attention_mask)
        if self.design.head == "mean of two":
            z = (self.head[0](h) + self.head[1](h)) / 2
        else:
            z = THEN.get(self.design.head, lambda z: z)(self.head(h))
        return (z, h) if self.design.head == "two outputs" else z


blocks = st.tuples(st.booleans(), st.sampled_from(["layer", "batch", "none"]), st.sampled_from(list(MODULES)), st.booleans())
designs = st.builds(
    Design,
    layout=st.sampled_from(["vectors", "mean", "cls", "last", "each token"]),
    blocks=st.lists(blocks, min_size=1, max_size=3).map(tuple),
    shared=st.booleans(),
    head=st.sampled_from(list(HEADS)),
    float64=st.booleans(),
    seed=st.integers(0, 2**20),
    batch_size=st.integers(9, 40),
)


def drawn(design):
    """A network with random modes and gradients, inputs, the mask of real tokens, and labels, -100 for tokens without."""
    with torch.random.fork_rng():
        torch.manual_seed(design.seed)
        network = Network(design)
        for module in network.modules():
            module.training = bool(torch.rand(()) < 0.5)
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
        for parameter in network.parameters():
            parameter.grad = torch.randn_like(parameter) if torch.rand(()) < 0.5 else None
            parameter.requires_grad_(bool(torch.rand(()) < 0.8))
        network = network.double() if design.float64 else network
        labels = torch.randint(0, design.num_classes, (N,))
        if design.layout == "vectors":
            x = torch.randn(N, 6) + labels[:, None]
            return network, x.to(next(network.parameters()).dtype), None, labels
        x, mask = torch.randint(0, 13, (N, TOKENS)), torch.arange(TOKENS) < torch.randint(2, TOKENS + 1, (N, 1))
        if design.layout == "each token":
            labels = torch.where(mask, (x + torch.randint(0, 2, x.shape)) % design.num_classes, -100)
        return network, x, mask.long(), labels


def split(tensor, size):
    return list(tensor.split(size))


def batches_of(design, x, mask, labels):
    """Batches as users have them."""
    size = design.batch_size
    if mask is None:
        return list(zip(split(x, size), split(labels, size), strict=True))
    parts = zip(split(x, size), split(mask, size), split(labels, size), strict=True)
    return [{"x": x, "attention_mask": m, "labels": y} for x, m, y in parts]


def row_of(tokens, pool, mask):
    """One sample's features: the mean of its real tokens, its first token, or the last real one."""
    real = [tokens[t] for t in range(len(tokens)) if mask[t]]
    return {"mean": sum(real) / len(real), "cls": tokens[0], "last_token": real[-1]}[pool]


def plain(network, layers, batches):
    """Features of the layers by plain hooks, labels, and the network's choices, in the order of the samples."""
    network = copy.deepcopy(network).eval()
    modules, kept, layout = dict(network.named_modules()), {}, network.design.layout

    def keep(layer, values):
        kept[layer] = values.detach().double().numpy().copy()

    for layer in layers:
        name = layer.partition(":")[0]
        if name in modules:
            modules[name].register_forward_hook(lambda _, __, output, layer=layer: keep(layer, output))
        else:
            module = modules[name.removesuffix(".input")]
            module.register_forward_pre_hook(lambda _, args, layer=layer: keep(layer, args[0]))
    rows, labels, choices = {layer: [] for layer in layers}, [], []
    for batch in batches:
        x, y = (batch["x"], batch["labels"]) if isinstance(batch, dict) else batch
        mask = batch["attention_mask"] if isinstance(batch, dict) else None
        with torch.no_grad():
            output = network(x, mask)
        logits = (output[0] if isinstance(output, tuple) else output).numpy()
        chosen = (logits[..., 0] > 0).astype(int) if logits.shape[-1] == 1 else logits.argmax(-1)
        counted = y.flatten().numpy() != -100
        labels.append(y.flatten().numpy()[counted])
        choices.append(chosen.flatten()[counted])
        for layer, values in kept.items():
            pool = layer.partition(":")[2]
            if layout == "each token":
                rows[layer].append(values.reshape(-1, D)[counted])
            elif values.ndim == 3:
                rows[layer].append(np.stack([row_of(h, pool, m) for h, m in zip(values, mask, strict=True)]))
            else:
                rows[layer].append(values)
    return {layer: np.concatenate(part) for layer, part in rows.items()}, np.concatenate(labels), np.concatenate(choices)


def assert_layers(network, layers):
    """All blocks are there, tokens are read as the network reads them, and the last layer feeds the head."""
    names, pools = zip(*(layer.partition(":")[::2] for layer in layers), strict=True)
    if len(network.blocks) > 1:
        blocks = [name for name in names if name.count(".") == 1 and name.startswith("blocks.") and "input" not in name]
        assert blocks == [f"blocks.{i}" for i in range(len(network.blocks))]
    if not network.design.shared:
        # A shared layer behind the blocks hides how the tokens are read, so that they are read at their mean.
        pool = {"last": "last_token", "vectors": "", "each token": ""}.get(network.design.layout, network.design.layout)
        assert set(pools) <= {pool, ""}
        assert pools[0] == pool


def digest(network):
    """Everything that a measurement may change, compared by value and by identity."""
    found = {"state": {name: value.numpy().tobytes() for name, value in network.state_dict().items()}}
    found["modes"] = {name: module.training for name, module in network.named_modules()}
    found["hooks"] = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in network.modules()]
    found["grads"] = {
        name: (id(p.grad), None if p.grad is None else p.grad.numpy().tobytes(), p.requires_grad, id(p))
        for name, p in network.named_parameters()
    }
    found["attributes"] = {name: set(vars(module)) for name, module in network.named_modules()}
    found["random"] = (torch.get_rng_state().numpy().tobytes(), str(np.random.get_state()), random.getstate())
    return found


def assert_value(row, expected, tolerance):
    assert not math.isnan(row.value), row
    assert row.value == pytest.approx(expected, rel=tolerance, abs=tolerance), row


def check(design):
    network, x, mask, labels = drawn(design)
    batches = batches_of(design, x, mask, labels)
    before = digest(network)
    measured = measure(network, batches, num_classes=design.num_classes)
    assert digest(network) == before

    features, y, chosen = plain(network, measured.layers, batches)
    rows = {(row.layer, row.metric): row for row in measured.rows}
    assert_layers(network, measured.layers)
    # Means over tokens are taken in the network's own precision.
    tolerance = 1e-9 if design.float64 or design.layout in ("vectors", "each token") else 2e-5
    last, K, classifier = measured.layers[-1], design.num_classes, effective(network)
    for layer in measured.layers:
        assert np.isfinite(features[layer]).all()
        wanted = reference.feature_metrics(features[layer], y, K)
        for metric in (id for id in CORE if id in wanted):
            assert_value(rows[layer, metric], wanted[metric], tolerance)
    assert_value(rows[last, "accuracy"], np.mean(chosen == y), 1e-12)
    nearest = reference.nearest(features[last], reference.means(features[last], y, K))
    assert_value(rows[last, "nc4"], np.mean(chosen == nearest), 1e-12)
    if classifier is None:
        assert math.isnan(rows[last, "nc3"].value)
        assert rows[last, "nc3"].flags == ("classifier_unproven",)
    else:
        of_head = reference.classifier_metrics(features[last], y, K, *classifier)
        for metric in ("nc3", "nc3_bias"):
            assert_value(rows[last, metric], of_head[metric], 1e-9 if design.float64 else 1e-4)
    return measured


@settings(max_examples=20)
@given(designs)
def test_random_networks_are_measured_right_and_left_alone(design):
    measured = check(design)
    event(f"{design.layout}: {len(measured.layers)} layers")


def test_a_second_head_is_seen_where_the_first_two_samples_are_alike():
    # The last tokens of the first two samples are the same: what the other head adds to their logits is one constant.
    blocks = ((True, "none", "relu", False), (True, "layer", "gelu", True), (False, "none", "gelu", False))
    check(Design("last", blocks, shared=True, head="mean of two", float64=True, seed=98104, batch_size=19))
