"""Layers in series are listed as depth; layers beside one another are named and left out."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from hooks.test_designs import normal
from hooks.test_tapped_network import seeded
from ncollapse import collect_features, find_layers, measure

K, N = 3, 12
Y = torch.arange(N) % K
X, LEFT, RIGHT = normal(N, 6), normal(N, 6, seed=1), normal(N, 6, seed=2)
IDS = torch.arange(N * 4).reshape(N, 4) * 5 % 9


class Attention(nn.Module):
    """One layer of attention: query, key and value lie beside one another."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, 6), nn.Linear(6, K)
        self.q, self.k, self.v, self.out = (nn.Linear(6, 6) for _ in range(4))

    def forward(self, ids):
        h = self.embed(ids)
        weights = (self.q(h) @ self.k(h).mT).softmax(-1)
        return self.head(torch.tanh(self.out(weights @ self.v(h)))[:, 0])


class Block(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(width, width), nn.Tanh())

    def forward(self, x):
        return x + self.inner(x)


def tower(blocks, plain):
    parts = [Block() if not plain else nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(blocks)]
    return nn.Sequential(*parts)


class Towers(nn.Module):
    """Two towers of given depths, joined by a layer."""

    def __init__(self, left, right, plain):
        super().__init__()
        self.left, self.right = tower(left, plain), tower(right, plain)
        self.join, self.act, self.head = nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, K)

    def forward(self, left, right):
        return self.head(self.act(self.join(torch.cat([self.left(left), self.right(right)], dim=1))))


class Distillation(nn.Module):
    """A teacher runs first, without gradients, and is compared with the student."""

    def __init__(self, plain):
        super().__init__()
        self.teacher, self.student = tower(3, plain), tower(2, plain)
        self.teacher_head, self.head = nn.Linear(6, K), nn.Linear(6, K)

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher_head(self.teacher(x)).softmax(1)
        logits = self.head(self.student(x))
        return {"logits": logits, "loss": ((logits.softmax(1) - target) ** 2).sum()}


class Ensemble(nn.Module):
    """The mean of members behind a common stem, or without one."""

    def __init__(self, stem):
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(6, 6), nn.Tanh()) if stem else nn.Identity()
        self.members = nn.ModuleList(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, K)) for _ in range(3))

    def forward(self, x):
        h = self.stem(x)
        return sum(member(h) for member in self.members) / 3


class Conditioned(nn.Module):
    """A trunk that is scaled by features of other inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Linear(6, 6) for _ in range(3))
        self.side, self.head = nn.Linear(6, 6), nn.Linear(6, K)

    def forward(self, x, side):
        h = torch.relu(self.second(torch.relu(self.first(x)))) * torch.sigmoid(self.side(side))
        return self.head(torch.relu(self.third(h)))


class Shortcut(nn.Module):
    """A residual connection with a layer on its own."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv1, self.conv2, self.shortcut = (nn.Linear(6, 6) for _ in range(4))
        self.head = nn.Linear(6, K)

    def forward(self, x):
        h = torch.relu(self.stem(x))
        return self.head(torch.relu(self.conv2(torch.relu(self.conv1(h))) + self.shortcut(h)))


CASES = {
    "attention": (Attention, IDS, ["embed:mean", "out.input:mean", "head.input"], ["q", "k", "v"]),
    "towers": (lambda: Towers(2, 2, False), (LEFT, RIGHT), ["join.input", "act"], ["left.0", "left.1", "right.0", "right.1"]),
    "plain towers": (lambda: Towers(2, 2, True), (LEFT, RIGHT), ["join.input", "act"], ["left.0.1", "right.0.1"]),
    "a deep and a shallow tower": (
        lambda: Towers(3, 1, False), (LEFT, RIGHT), ["left.0", "left.1", "left.2", "join.input", "act"], ["right.0"]
    ),
    "teacher and student": (lambda: Distillation(False), X, ["student.0", "student.1"], ["teacher", "teacher_head"]),
    "plain teacher and student": (lambda: Distillation(True), X, ["student.0.1", "student.1.1"], ["teacher", "teacher_head"]),
    "conditioned": (Conditioned, (LEFT, RIGHT), ["second.input", "third.input", "head.input"], ["side"]),
    "shortcut": (Shortcut, X, ["conv1.input", "conv2.input", "head.input"], ["shortcut"]),
}  # fmt: skip


def changes(model, inputs, first, second):
    """Whether noise on what one module returns changes what a later one takes or returns: plain hooks in float64."""
    seen, generator = [], torch.Generator().manual_seed(0)

    def module(label):
        name = label.partition(":")[0]
        return model.get_submodule(name.removesuffix(".input")), name.endswith(".input")

    def noise(tensor):
        return tensor + torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)

    for noisy in (False, True):
        handles = []
        later, takes = module(second)
        handles.append(
            later.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
            if takes
            else later.register_forward_hook(lambda _, __, out: seen.append(out.clone()))
        )
        if noisy:
            earlier, takes = module(first)
            handles.append(
                earlier.register_forward_pre_hook(lambda _, args: (noise(args[0]),))
                if takes
                else earlier.register_forward_hook(lambda _, __, out: noise(out))
            )
        with torch.no_grad():
            model(*inputs) if isinstance(inputs, tuple) else model(inputs)
        for handle in handles:
            handle.remove()
    return not torch.equal(*seen)


@pytest.mark.parametrize("case", CASES)
def test_only_layers_in_series_are_listed_and_the_others_are_named(case):
    make, x, layers, aside = CASES[case]
    model = seeded(make()).double().eval()
    inputs = tuple(part.double() for part in x) if isinstance(x, tuple) else x.double() if x.is_floating_point() else x
    m = measure(model, [(inputs, Y)], num_classes=K)
    assert m.layers == tuple(layers)
    left_out = find_layers(model, inputs, num_classes=K).left_out
    for name in aside:
        assert name in left_out, left_out
        assert name in m.chosen
    for first, second in pairwise(layers):
        assert changes(model, inputs, first, second), "the later one depends on the earlier"
    for name in aside:
        independent = [other for other in (*layers, *aside) if not changes(model, inputs, name, other)]
        assert any(not changes(model, inputs, other, name) for other in independent if other != name), "it lies beside another"


def test_reasons_tell_what_lies_beside_from_what_leads_elsewhere():
    beside = find_layers(Towers(2, 2, False), (LEFT, RIGHT)).left_out
    assert set(beside.values()) == {f"beside {side}.{depth}" for side in ("left", "right") for depth in range(2)}
    assert "beside, not before" in find_layers(Towers(2, 3, False), (LEFT, RIGHT)).left_out.values()
    assert find_layers(Distillation(False), X).left_out["teacher"] == "does not lead to head"


@pytest.mark.parametrize("stem", [False, True])
def test_of_an_ensemble_one_series_is_listed_at_most(stem):
    model = seeded(Ensemble(stem))
    layers = measure(model, [(X, Y)], num_classes=K).layers
    assert len({layer.split(".")[1] for layer in layers if layer.startswith("members")}) <= 1
    assert ("stem.1" in layers) == stem
    left_out = find_layers(model, X, num_classes=K).left_out
    assert len({name.split(".")[1] for name in left_out if name.startswith("members")}) >= 2


class Detour(nn.Module):
    """Goes through NumPy, where nothing can be followed."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, K)

    def forward(self, x):
        h = torch.from_numpy(np.tanh(self.first(x).numpy()))
        return self.head(torch.relu(self.second(h)))


def test_what_cannot_be_followed_is_said_and_nothing_is_left_out():
    found = find_layers(Detour(), X)
    assert "could not be followed" in found.why
    assert not found.left_out
    assert found.names[-1] == "head.input"


class Written(Detour):
    """Goes through an operation that writes into its arguments and returns nothing."""

    def forward(self, x):
        h = torch.zeros(len(x), 6)
        torch._foreach_add_([h], [self.first(x)])
        return self.head(torch.relu(self.second(torch.tanh(h))))


def test_what_an_operation_writes_into_its_arguments_is_followed():
    found = find_layers(Written(), X)
    assert "could not be followed" not in found.why
    assert found.names == ("second.input", "head.input")


def test_the_order_is_the_same_each_time_and_the_network_computes_the_same():
    model = seeded(Towers(2, 2, False)).eval()
    assert len({find_layers(model, (LEFT, RIGHT)).names for _ in range(20)}) == 1
    features, _ = collect_features(model, [((LEFT, RIGHT), Y)], num_classes=K)
    with torch.no_grad():
        assert torch.equal(features["act"], model.act(model.join(torch.cat([model.left(LEFT), model.right(RIGHT)], dim=1))))
