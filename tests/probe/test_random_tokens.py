"""Random small networks of tokens: what is measured at every layer equals plain hooks in float64, or it is refused in words."""

import random

import numpy as np
import pytest
import torch
from torch import nn

import reference
from ncollapse.metrics import CORE
from ncollapse.probe import measure
from probe.test_random_networks import digest

# How a module takes tokens (N, T, D), and which modules take them so, for D features and P positions.
LAYOUTS = {"tokens": (0, 1, 2), "last": (0, 2, 1), "time first": (1, 0, 2)}
MODULES = {
    "linear": ("tokens", lambda D, P: nn.Linear(D, D)),
    "stack": ("tokens", lambda D, P: nn.Sequential(nn.LayerNorm(D), nn.Linear(D, D), nn.Tanh())),
    "tanh": ("tokens", lambda D, P: nn.Tanh()),
    "relu last": ("last", lambda D, P: nn.ReLU()),
    "over tokens": ("last", lambda D, P: nn.Linear(P, P)),
    "convolution": ("last", lambda D, P: nn.Conv1d(D, D, 3, padding=1)),
    "convolution of width 1": ("last", lambda D, P: nn.Conv1d(D, D, 1)),
    "normalization": ("last", lambda D, P: nn.BatchNorm1d(D)),
    "attention": ("tokens", lambda D, P: nn.TransformerEncoderLayer(D, 1, 8, batch_first=True)),
    "attention, time first": ("time first", lambda D, P: nn.TransformerEncoderLayer(D, 1, 8)),
    "recurrent": ("tokens", lambda D, P: nn.GRU(D, D, batch_first=True)),
    "linear, time first": ("time first", lambda D, P: nn.Linear(D, D)),
}
MOVES = ("prefix", "drop", "order", "merge", "every second", "first half", "twice")


class Network(nn.Module):
    """Embeds vectors, ids, images or inputs with time first; its steps are modules, and operations that move tokens."""

    def __init__(self, seed):
        super().__init__()
        draw = self.draw = random.Random(seed)
        torch.manual_seed(seed)
        self.kind = draw.choice(["ids", "vectors", "vectors", "image", "time first"])
        self.size = draw.choice([(2, 2), (2, 3), (4, 2)])
        self.tokens = self.size[0] * self.size[1] if self.kind == "image" else draw.choice([2, 3, 4, 6, 8])
        D = self.tokens if self.tokens > 2 and draw.random() < 0.35 else draw.choice([3, 4, 6, 8])
        self.given, self.num_classes = draw.choice([2, 3, D, self.tokens]), draw.choice([2, 3, 4])
        self.samples = max(draw.choice([self.tokens, 12, 13, 16]), 2 * self.num_classes)
        self.embed = nn.Embedding(11, D) if self.kind == "ids" else nn.Linear(self.given, D)
        self.masked = self.kind in {"ids", "vectors"} and draw.random() < 0.5
        self.steps, self.m, places = [], nn.ModuleDict(), list(range(self.tokens))
        for i in range(draw.randint(2, 5)):
            name = draw.choice([*MODULES, *MODULES, *MOVES])
            if name in MODULES:
                layout, make = MODULES[name]
                self.m[f"{i}"] = make(D, len(places))
                self.steps.append((f"m.{i}", layout, None))
                continue
            move, D = self.move(name, len(places), D, i)
            self.steps += [] if move is None else [move]
            places = places if move is None else moved(move[1], places, move[2])
        self.shared = draw.choice([None, None, nn.Tanh()])
        found = [places.index(t) if places.count(t) == 1 else None for t in range(self.tokens)]
        self.labeled = found if None not in found and draw.random() < 0.5 else None
        reads = ["mean", "mean", "cls", "last", "flat", "max"]
        ordered = all(
            kind not in {"drop", "order", "merge", "every second", "first half", "twice"} for _, kind, _ in self.steps
        )
        self.read = draw.choice(reads + ["real"] * 3 * (self.masked and ordered))
        wide = self.labeled is None and self.read == "flat"
        self.head, self.classes_first = nn.Linear(D * len(places) if wide else D, self.num_classes), draw.random() < 0.3
        for module in self.double().modules():
            module.training = draw.random() < 0.5
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.normal_(), module.running_var.uniform_(0.5, 2.0)
        self.seen = None

    def move(self, name, P, D, i):
        """One move of the tokens: the module's name, the kind, and what it takes; None where it does not fit."""
        if name == "prefix":
            setattr(self, f"p{i}", nn.Parameter(torch.randn(1, self.draw.randint(1, 3), D)))
            return ("", name, getattr(self, f"p{i}")), D
        fits = {"drop": P > 2, "order": P > 1, "merge": P > 3 and P % 2 == 0, "every second": P > 3, "first half": P > 3}
        if not fits.get(name, P <= 8):
            return None, D
        if name == "merge":
            wide = self.draw.choice([D, 2 * D, P // 2])
            self.m[f"{i}"] = nn.Linear(2 * D, wide)
            return (f"m.{i}", name, 2), wide
        order = list(range(P))
        {"order": self.draw.choice([order.reverse, lambda: self.draw.shuffle(order)])}.get(name, list)()
        chosen = {"drop": order[1:], "every second": order[::2], "first half": order[: P // 2], "twice": order + order}
        return ("", name, chosen.get(name, order)), D

    def note(self, name, h, places):
        if self.seen is not None:
            self.seen[name] = h.detach().clone(), places

    def forward(self, x, attention_mask=None):
        x = x.permute(0, 2, 3, 1).flatten(1, 2) if self.kind == "image" else x
        h = self.embed(x).transpose(0, 1) if self.kind == "time first" else self.embed(x)
        places = list(range(self.tokens))
        self.note("embed", h, places)
        for name, kind, given in self.steps:
            if kind == "prefix":
                h = torch.cat([given.expand(len(h), -1, -1), h], 1)
            elif kind == "merge":
                h = h.reshape(len(h), -1, 2 * h.shape[2])
            elif not name:
                h = h[:, given]
            places = moved(kind, places, given)
            if name:
                h = self.run(name, kind, h, places)
        if self.shared is not None:
            h = self.shared(self.shared(h))
        if self.labeled is not None:
            h = h[:, self.labeled]
            self.note("head.input", h, list(range(self.tokens)))
            z = self.head(h)
            return z.transpose(1, 2) if self.classes_first else z
        h = {"mean": lambda: h.mean(1), "cls": lambda: h[:, 0], "last": lambda: h[:, -1], "flat": lambda: h.flatten(1),
             "max": lambda: h.amax(1), "real": lambda: real_mean(h, attention_mask)}[self.read]()  # fmt: skip
        self.note("head.input", h, None)
        return self.head(h)

    def run(self, name, layout, h, places):
        """Run a module in its layout; hooks note what it and the modules inside take and return."""
        order = LAYOUTS.get(layout, (0, 1, 2))
        back = [order.index(dim) for dim in range(3)]

        def noted(part, args, output):
            for end, tensor in ((".input", args[0]), ("", output[0] if isinstance(output, tuple) else output)):
                if tensor.ndim == 3:
                    self.note(names[part] + end, tensor.permute(back), places)

        module = self.get_submodule(name)
        names = {part: f"{name}.{inner}".rstrip(".") for inner, part in module.named_modules()}
        handles = [part.register_forward_hook(noted) for part in names] if self.seen is not None else []
        h = module(h.permute(order))
        for handle in handles:
            handle.remove()
        return (h[0] if isinstance(h, tuple) else h).permute(back)


def moved(kind, places, given):
    """Which token is at each position behind a step."""
    if kind == "prefix":
        return [None] * given.shape[1] + places
    if kind == "merge":
        return [("several", i) for i in range(len(places) // 2)]
    return places if kind in LAYOUTS else [places[i] for i in given]


def real_mean(h, mask):
    mask = torch.cat([mask.new_ones(len(h), h.shape[1] - mask.shape[1]), mask], 1)[..., None]
    return (h * mask).sum(1) / mask.sum(1)


def drawn(network):
    """Inputs, the mask of real tokens, and labels."""
    N, T, K = network.samples, network.tokens, network.num_classes
    shape = {"image": (N, network.given, *network.size), "time first": (T, N, network.given)}
    x = (
        torch.randint(11, (N, T))
        if network.kind == "ids"
        else torch.randn(shape.get(network.kind, (N, T, network.given))).double()
    )
    mask = (torch.arange(T) < torch.randint(1, T + 1, (N, 1))).long()
    mask[0] = 1
    shape = (N,) if network.labeled is None else (N, T)
    return x, mask if network.masked else None, (torch.randperm(torch.Size(shape).numel()) % K).view(shape)


def possible_rows(network, layer, mask):
    """The rows that a layer may have: of its labeled tokens, or pooled; both means where the network does not say which."""
    name, _, pool = layer.partition(":")
    h, places = network.seen[name]
    if h.ndim == 2:
        return [h]
    if network.labeled is not None:
        return [h[:, [places.index(t) for t in range(network.tokens)]].flatten(0, 1)]
    real = mask is not None and h.shape[1] >= mask.shape[1]
    if pool == "mean":
        plain = [h.mean(1)] if network.read != "real" or not real else []
        return [*plain, real_mean(h, mask)] if real else plain
    further = h.shape[1] - network.tokens
    ends = [h[:, -1], h[torch.arange(len(h)), further + mask.sum(1) - 1]] if real else [h[:, -1]]
    return {"": [h.flatten(1)], "cls": [h[:, 0]], "last_token": ends}.get(pool) or [
        h[:, int(pool.rpartition("_")[2]) :].mean(1)
    ]


def check(seed):
    """Measure a random network; return False where it was refused in words."""
    with torch.random.fork_rng():
        network = Network(seed)
        x, mask, y = drawn(network)
    K, before, axis = network.num_classes, digest(network), int(network.kind == "time first")
    half = [slice(0, network.samples // 2), slice(network.samples // 2, None)]
    parts = [(x.narrow(axis, s.start, len(range(network.samples)[s])), None if mask is None else mask[s], y[s]) for s in half]
    batches = [(a, c) if b is None else {"x": a, "attention_mask": b, "labels": c} for a, b, c in parts]
    try:
        measured = measure(network, batches, num_classes=K)
    except ValueError as error:
        if not any(words in str(error) for words in ("must be", "must have", "must return", "needs one position")):
            raise
        return False
    finally:
        assert digest(network) == before
    network.eval()
    network.seen = {}
    with torch.no_grad():
        z = network(x) if mask is None else network(x, mask)
    z = z.transpose(1, 2) if network.labeled is not None and network.classes_first else z
    chosen, labels = z.argmax(-1).flatten().numpy(), y.flatten().numpy()
    rows = {(row.layer, row.metric): row.value for row in measured.rows}
    for layer in measured.layers:
        possible = possible_rows(network, layer, mask)
        if any(bool((h.std(dim=0) < 1e-6).all()) for h in possible):
            continue  # a prefix alone, whose spread is rounding
        wanted = [reference.feature_metrics(h.numpy(), labels, K) for h in possible]
        own = {metric: rows[layer, metric] for metric in CORE if np.isfinite(wanted[0].get(metric, np.inf))}
        assert any(own == pytest.approx({m: want[m] for m in own}, rel=1e-6, abs=1e-9, nan_ok=True) for want in wanted), layer
    assert rows[measured.layers[-1], "accuracy"] == pytest.approx(np.mean(chosen == labels), abs=1e-12)
    return True


@pytest.mark.parametrize("seed", [*range(40), 1467])  # 1467 joins its tokens to pairs of the same numbers
def test_random_networks_of_tokens_are_measured_right_or_refused(seed):
    check(seed)


@pytest.mark.slow
def test_hundreds_of_random_networks_of_tokens():
    assert sum(map(check, range(1000, 1400))) > 300
