"""Networks that give their tokens other dimensions, orders and lengths on the way: what is measured is what plain hooks see."""

import pytest
import torch
from torch import nn

from hooks.test_designs import normal
from ncollapse import collect_features, measure

N = 20
# How a module takes tokens (N, T, D).
LAYOUTS = {"tokens": (0, 1, 2), "last": (0, 2, 1), "time first": (1, 0, 2)}


class Steps(nn.Module):
    """Embeds inputs as tokens (N, T, D), and runs modules in layouts of their own, and functions of the tokens in between."""

    def __init__(self, embed, *steps, read, width, num_classes):
        super().__init__()
        self.embed, self.steps, self.read = embed, steps, read
        for i, step in enumerate(steps):
            if isinstance(step, tuple):
                self.add_module(f"m{i}", step[1])
        self.head = nn.Linear(width, num_classes)
        self.seen = {}

    def forward(self, x):
        h = self.embed(x)
        h = h.flatten(1, 2) if h.ndim == 4 else h
        places = torch.arange(h.shape[1], dtype=h.dtype)[None, :, None]
        for i, step in enumerate(self.steps):
            if isinstance(step, tuple):
                self.note(f"m{i}.input", h, places)
                order = LAYOUTS[step[0]]
                h = step[1](h.permute(order))
                h = (h[0] if isinstance(h, tuple) else h).permute([order.index(dim) for dim in range(3)])
                self.note(f"m{i}", h, places)
                h = torch.tanh(h)
            else:
                h, places = step(h), step(places)
        h = self.read(h)
        self.note("head.input", h, torch.arange(h.shape[1], dtype=h.dtype)[None, :, None])
        return self.head(h)

    def note(self, name, h, places):
        self.seen[name] = h.detach().clone(), places.flatten().tolist()

    def rows(self, layer, num_labels=0):
        """The rows of a layer; None if its positions are not those of the labels."""
        name, _, pool = layer.partition(":")
        h, places = self.seen[name]
        if num_labels:
            ours = [places.index(place) for place in range(num_labels) if place in places]
            return h[:, ours].flatten(0, 1) if len(ours) == num_labels else None
        if pool.startswith("mean_from_"):
            return h[:, int(pool.removeprefix("mean_from_")) :].mean(1)
        return {"": lambda: h.flatten(1), "mean": lambda: h.mean(1), "cls": lambda: h[:, 0]}[pool]()


class ClassesFirst(Steps):
    def forward(self, x):
        return super().forward(x).transpose(1, 2)


def attention(width):
    return nn.TransformerEncoderLayer(width, 1, 8, 0.0, batch_first=True)


def prefix(num):
    """Puts virtual tokens in front; their places are those of no label."""
    return lambda h: torch.cat([torch.full_like(h[:, :1], -1.0).expand(-1, num, -1), h], dim=1)


def pairs(h):
    """Joins two neighboring tokens to one."""
    return h.reshape(len(h), -1, 2 * h.shape[2])


def in_order(*places):
    return lambda h: h[:, list(places)]


class Pixels(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.inner = nn.Linear(channels, width)

    def forward(self, x):
        return self.inner(x.permute(0, 2, 3, 1))


class ChannelsFirst(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.inner = nn.Conv1d(channels, width, 1)

    def forward(self, x):
        return self.inner(x).transpose(1, 2)


class OfOneLength(nn.Module):
    def __init__(self, channels, width, length):
        super().__init__()
        self.inner, self.mix, self.places = (
            nn.Linear(channels, width),
            attention(width),
            nn.Parameter(torch.randn(length, width)),
        )

    def forward(self, x):
        return self.mix(self.inner(x) + self.places)


class TimeFirst(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.inner = nn.Linear(channels, width)

    def forward(self, x):
        return self.inner(x).transpose(0, 1)


MEAN, FIRST, FLAT, MOST = (lambda h: h.mean(1)), (lambda h: h[:, 0]), (lambda h: h.flatten(1)), (lambda h: h.amax(1))

# Sample labels: the network, the shape of its inputs, and the layers that are read.
OF_SAMPLES = {
    "as many tokens as features, mixed before": (
        lambda: Steps(nn.Linear(3, 4), ("tokens", attention(4)), ("tokens", nn.Linear(4, 4)), ("last", nn.Linear(4, 4)),
                      read=FIRST, width=4, num_classes=3),
        (N, 4, 3), {"m0.norm1:mean", "m1.input:mean", "m2.input:mean"},
    ),
    "pixels, of which some are dropped": (
        lambda: Steps(Pixels(2, 4), lambda h: h[:, ::2], ("last", nn.Linear(2, 2)), read=MOST, width=4, num_classes=3),
        (N, 2, 2, 2), {"m1.input:mean"},
    ),
    "pixels, which are the last dimension everywhere": (
        lambda: Steps(Pixels(2, 6), ("last", nn.Linear(4, 4)), lambda h: h.repeat_interleave(2, 1)[:, 4:], read=FIRST, width=6,
                      num_classes=3),
        (N, 2, 2, 2), {"m0.input:mean"},
    ),
    "pairs of tokens behind a convolution": (
        lambda: Steps(nn.Linear(3, 4), ("last", nn.Conv1d(4, 4, 1)), pairs, ("tokens", nn.Linear(8, 4)), read=FLAT, width=16,
                      num_classes=3),
        (N, 8, 3), {"m0.input:mean", "m2.input:mean"},
    ),
    "pairs of tokens behind a layer over all of them": (
        lambda: Steps(nn.Linear(3, 4), ("last", nn.Linear(8, 8)), pairs, ("tokens", nn.Linear(8, 4)), read=FIRST, width=4,
                      num_classes=3),
        (N, 8, 3), {"m0.input:mean"},
    ),
    "pixels that are the last dimension in every layer": (
        lambda: Steps(Pixels(3, 4), lambda h: h[:, 2:], ("last", nn.Conv1d(4, 4, 1)), ("last", nn.Linear(2, 2)), read=MOST,
                      width=4, num_classes=3),
        (N, 3, 2, 2), {"m1.input:mean"},
    ),
    "pixels whose ends are dropped": (
        lambda: Steps(Pixels(3, 2), lambda h: h[:, 1:3], ("last", nn.Linear(2, 2)), ("last", nn.Linear(2, 2)), read=MOST,
                      width=2, num_classes=3),
        (N, 3, 2, 2), {"m1.input:mean"},
    ),
    "a view of attention's tokens": (
        lambda: Steps(OfOneLength(3, 4, 4), ("last", nn.Linear(4, 4)), read=FIRST, width=4, num_classes=3),
        (N, 4, 3), {"m0.input:mean"},
    ),
    "a fixed number of them": (
        lambda: Steps(nn.Linear(3, 5), prefix(1), ("tokens", attention(5)), lambda h: h[:, :3], ("last", nn.Linear(3, 3)),
                      read=FIRST, width=5, num_classes=3),
        (N, 6, 3), {"m1.norm1:mean"},
    ),
    "features that may be fewer, until they are refused": (
        lambda: Steps(nn.Identity(), ("last", nn.Linear(5, 5)), ("tokens", nn.Linear(3, 6)), read=FIRST, width=6,
                      num_classes=3),
        (N, 5, 3), {"m1.input:mean"},
    ),
    "channels first, of which a convolution refuses some": (
        lambda: Steps(ChannelsFirst(3, 3), ("last", nn.Linear(5, 5)), ("tokens", nn.Linear(3, 3)), read=FIRST, width=3,
                      num_classes=3),
        (N, 3, 5), {"m1.input:mean"},
    ),
    "pixels of which nothing shows where they are": (
        lambda: Steps(Pixels(4, 4), in_order(5, 4, 3, 2, 1, 0), ("last", nn.Linear(6, 6)), read=FLAT, width=24, num_classes=3),
        (N, 4, 2, 3), {"head.input"},
    ),
    "tokens that come twice, joined to pairs": (
        lambda: Steps(nn.Linear(3, 6), in_order(*range(6), *range(6)), pairs, ("tokens", nn.Linear(12, 6)), read=MOST, width=6,
                      num_classes=3),
        (N, 6, 3), {"head.input"},
    ),
    "as many tokens as features, without those in front": (
        lambda: Steps(nn.Embedding(11, 4), ("last", nn.Conv1d(4, 4, 3, padding=1)), ("tokens", attention(4)),
                      read=lambda h: h[:, 2:].mean(1), width=4, num_classes=3),
        None, {"head.input"},
    ),
    "time first, as many steps as samples, in pairs": (
        lambda: Steps(TimeFirst(3, 4), pairs, ("tokens", nn.Linear(8, 8)), ("last", nn.Conv1d(8, 8, 3, padding=1)), read=MEAN,
                      width=8, num_classes=3),
        (N, N, 3), {"m2.input:mean"},
    ),
    "time first, as many steps as samples": (
        lambda: Steps(TimeFirst(3, 2), prefix(3), ("last", nn.Linear(N + 3, N + 3)), read=MEAN, width=2, num_classes=3),
        (N, N, 3), {"m1.input:mean"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_tokens_are_averaged_over_their_own_dimension(name):
    make, shape, expected = OF_SAMPLES[name]
    labels, x = torch.arange(N) % 3, torch.arange(N * 4).view(N, 4) * 7 % 11 if shape is None else normal(*shape).double()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make().double().eval()
    features, _ = collect_features(net, [(x, labels)], num_classes=3)
    assert expected <= features.keys()
    with torch.no_grad():
        net(x)
    for layer, rows in features.items():
        if layer.partition(":")[0] in net.seen:
            torch.testing.assert_close(rows, net.rows(layer))


# Labels for every token: the network, the shape of its inputs, layers that are read, and layers that are left out.
OF_TOKENS = {
    "channels as many as labels": (
        lambda: Steps(Pixels(2, 6), prefix(3), in_order(8, 7, 6, 5, 4, 3, 2, 1, 0), ("last", nn.Linear(9, 9)),
                      read=in_order(5, 4, 3, 2, 1, 0), width=6, num_classes=4),
        (N, 2, 2, 3), {"head.input"}, {"m2.input"},
    ),
    "another order behind a layer over all tokens": (
        lambda: Steps(nn.Linear(3, 4), ("last", nn.Linear(5, 5)), in_order(1, 2, 3, 4, 0), ("tokens", nn.Linear(4, 4)),
                      ("last", nn.Linear(5, 5)), read=in_order(4, 0, 1, 2, 3), width=4, num_classes=4),
        (N, 5, 3), {"head.input"}, {"m2.input", "m3.input"},
    ),
    "another order of all but the ends": (
        lambda: Steps(nn.Linear(3, 4), ("tokens", nn.Linear(4, 4)), in_order(0, 2, 1, 3, 4), ("tokens", nn.Linear(4, 4)),
                      ("last", nn.Linear(5, 5)), read=in_order(0, 2, 1, 3, 4), width=4, num_classes=4),
        (N, 5, 3), {"embed", "head.input"}, {"m2.input", "m3.input"},
    ),
    "another order of pixels": (
        lambda: Steps(Pixels(2, 4), ("tokens", nn.Linear(4, 4)), in_order(3, 2, 1, 0), ("tokens", attention(4)),
                      read=in_order(3, 2, 1, 0), width=4, num_classes=3),
        (N, 2, 2, 2), {"head.input"}, {"m2.norm1", "m2.input"},
    ),
    "another order behind a token in front": (
        lambda: Steps(nn.Linear(3, 4), ("tokens", nn.Linear(4, 4)), in_order(1, 2, 3, 0, 4), prefix(1),
                      ("tokens", nn.Linear(4, 4)), read=in_order(4, 1, 2, 3, 5), width=4, num_classes=3),
        (N, 5, 3), {"embed", "head.input"}, {"m3.input"},
    ),
    "time first, as many steps as samples": (
        lambda: ClassesFirst(TimeFirst(3, 4), ("tokens", nn.GRU(4, 4, batch_first=True)), ("tokens", attention(4)),
                      read=in_order(*range(N)), width=4, num_classes=3),
        (N, N, 3), {"embed", "m1.norm1", "head.input"}, set(),
    ),
    "as many tokens as features and classes": (
        lambda: Steps(nn.Linear(3, 4), ("tokens", attention(4)), ("last", nn.Linear(4, 4)), read=in_order(0, 1, 2, 3), width=4,
                      num_classes=4),
        (N, 4, 3), {"m0.norm1", "m1.input", "head.input"}, set(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_TOKENS)
def test_rows_are_those_of_the_labels_or_left_out(name):
    make, shape, expected, left_out = OF_TOKENS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = make().double().eval()
    x = normal(*shape).double()
    with torch.no_grad():
        logits = net(x).transpose(1, 2) if isinstance(net, ClassesFirst) else net(x)
    num_labels, num_classes = logits.shape[1:]
    labels = torch.arange(N * num_labels).view(N, num_labels) * 7 % 11 % num_classes
    features, _ = collect_features(net, [(x, labels)], num_classes=num_classes)
    assert expected <= features.keys()
    assert not left_out & features.keys()
    for layer, rows in features.items():
        if layer in net.seen:
            torch.testing.assert_close(rows, net.rows(layer, num_labels))
    value = measure(net, [(x, labels)], num_classes=num_classes, metrics=["accuracy"]).value("accuracy")
    assert value == pytest.approx(float((logits.argmax(2) == labels).double().mean()))


class MovedToTheEnd(nn.Module):
    """Puts a class token in front of pixels, as many as channels, and moves it behind them."""

    def __init__(self):
        super().__init__()
        self.embed, self.cls, self.a = nn.Conv2d(8, 6, 1), nn.Parameter(torch.randn(1, 1, 6)), nn.Linear(6, 6)
        self.mix, self.head = nn.GRU(6, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, x):
        h = self.embed(x).flatten(2).transpose(1, 2)
        h = self.a(torch.cat([self.cls.expand(len(h), -1, -1), h], dim=1))
        return self.head(self.mix(h[:, [1, 2, 3, 4, 5, 6, 7, 8, 0]])[0][:, :8])


def test_what_is_taken_behind_a_move_of_tokens_says_nothing_of_layers_in_front_of_it():
    net, x, seen = MovedToTheEnd().double().eval(), normal(N, 8, 4, 2).double(), {}
    net.a.register_forward_hook(lambda _, args, out: seen.update({"a.input": args[0].detach(), "a": out.detach()}))
    features, _ = collect_features(net, [(x, torch.arange(N * 8).view(N, 8) * 7 % 11 % 4)], num_classes=4)
    assert "head.input" in features
    for layer in seen.keys() & features.keys():
        torch.testing.assert_close(features[layer], seen[layer][:, 1:].flatten(0, 1))


def test_two_classes_of_tokens_are_no_one_hot_labels_of_three():
    net = Steps(nn.Linear(3, 4), ("tokens", nn.Linear(4, 4)), read=in_order(0, 1), width=4, num_classes=3).eval()
    with pytest.raises(ValueError, match="the output has 2 positions, the labels 5"):
        measure(net, [(normal(N, 5, 3), torch.arange(N * 5).view(N, 5) % 2)], num_classes=3)
