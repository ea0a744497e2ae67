"""The same weights, coded in several styles, give the same states: modules, one shared module, functions, in place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reference
from hooks.test_designs import normal
from ncollapse import collect_features, find_layers, measure

K, N = 3, 12
Y = torch.arange(N) % K
STYLES = ("modules", "modules in place", "one shared module", "functions", "functions in place")


class Styled(nn.Module):
    """A network whose activations are called as ``self.act(i, h)``."""

    def __init__(self, style, num_activations):
        super().__init__()
        self.style = style
        if style.startswith("modules"):
            self.acts = nn.ModuleList(nn.ReLU(inplace=style.endswith("place")) for _ in range(num_activations))
        elif style.startswith("one"):
            self.relu = nn.ReLU()

    def act(self, i, h):
        if self.style.startswith("modules"):
            return self.acts[i](h)
        return self.relu(h) if self.style.startswith("one") else F.relu(h, inplace=self.style.endswith("place"))


class Perceptron(Styled):
    def __init__(self, style):
        super().__init__(style, 2)
        self.first, self.second, self.head = nn.Linear(5, 7), nn.Linear(7, 6), nn.Linear(6, K)

    def states(self, x, act):
        h = act(0, self.first(x))
        g = act(1, self.second(h))
        return [h, g]

    def forward(self, x):
        return self.head(self.states(x, self.act)[-1])


class LeNet(Styled):
    """Convolutions, normalization, and pooling by functions."""

    def __init__(self, style):
        super().__init__(style, 3)
        self.conv1, self.bn1, self.conv2 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(24, 8), nn.Linear(8, K)

    def states(self, x, act):
        a = F.max_pool2d(act(0, self.bn1(self.conv1(x))), 2)
        b = F.max_pool2d(act(1, self.conv2(a)), 2).flatten(1)
        return [a, b, act(2, self.fc1(b))]

    def forward(self, x):
        return self.fc2(self.states(x, self.act)[-1])


class MeanPooled(Styled):
    """The last activation is averaged over the pixels."""

    def __init__(self, style):
        super().__init__(style, 2)
        self.conv1, self.conv2, self.fc = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6, K)

    def states(self, x, act):
        a = act(0, self.conv1(x))
        return [a, act(1, self.conv2(a)).mean(dim=(2, 3))]

    def forward(self, x):
        return self.fc(self.states(x, self.act)[-1])


class BasicBlock(Styled):
    def __init__(self, style):
        super().__init__(style, 2)
        self.conv1, self.conv2 = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        return self.act(1, x + self.conv2(self.act(0, self.conv1(x))))


class ResNet(Styled):
    """A stem with an activation, blocks, pooling, and a head of two layers."""

    def __init__(self, style):
        super().__init__(style, 2)
        self.conv1, self.bn1 = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.blocks = nn.Sequential(BasicBlock(style), BasicBlock(style))
        self.fc1, self.fc2 = nn.Linear(16, 8), nn.Linear(8, K)

    def states(self, x, act):
        h = [act(0, self.bn1(self.conv1(x)))]
        for block in self.blocks:
            h.append(torch.relu(h[-1] + block.conv2(torch.relu(block.conv1(h[-1])))))
        pooled = F.avg_pool2d(h[-1], 4).flatten(1)
        return [*h, pooled, torch.relu(self.fc1(pooled))]

    def forward(self, x):
        h = F.avg_pool2d(self.blocks(self.act(0, self.bn1(self.conv1(x)))), 4).flatten(1)
        return self.fc2(self.act(1, self.fc1(h)))


class Tokens(Styled):
    """Tokens whose features are averaged."""

    def __init__(self, style):
        super().__init__(style, 2)
        self.embed, self.mix, self.each, self.head = nn.Embedding(9, 5), nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, K)

    def states(self, x, act):
        e = self.embed(x)
        h = act(0, self.mix(e))
        return [e.mean(1), h.mean(1), act(1, self.each(h)).mean(1)]

    def forward(self, x):
        return self.head(self.states(x, self.act)[-1])


ROWS, IMAGES = normal(N, 5).double(), normal(N, 1, 8, 8).double()
IDS = torch.arange(N * 4).reshape(N, 4) * 5 % 9
CASES = {Perceptron: ROWS, LeNet: IMAGES, MeanPooled: IMAGES, ResNet: IMAGES, Tokens: IDS}


def seeded(make, style):
    model = make(style).double()
    for index, parameter in enumerate(model.parameters()):
        parameter.data = 0.5 * normal(*parameter.shape, seed=index + 1).double()
    return model


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("style", STYLES)
def test_every_style_has_the_states_that_the_next_layer_takes(make, style):
    model, x = seeded(make, style), CASES[make]
    features, _ = collect_features(model, [(x, Y)], num_classes=K)
    with torch.no_grad():
        expected = model.eval().states(x, lambda i, h: torch.relu(h))
    assert len(features) == len(expected)
    for found, state in zip(features.values(), expected, strict=True):
        assert torch.allclose(found.double(), state.flatten(1), rtol=1e-9)
    m = measure(model, [(x, Y)], num_classes=K)
    for layer, state in zip(m.layers, expected, strict=True):
        value = reference.feature_metrics(state.flatten(1).numpy(), Y.numpy(), K)["pfc1"]
        assert m.value("pfc1", layer) == pytest.approx(value, rel=1e-9)


def test_states_are_named_after_the_module_that_returned_them_or_the_one_that_takes_them():
    assert find_layers(Perceptron("modules"), ROWS.float()).names == ("acts.0", "acts.1")
    for style in STYLES[2:]:
        assert find_layers(Perceptron(style), ROWS.float()).names == ("second.input", "head.input")


def test_the_input_of_a_module_is_a_layer_that_can_be_named():
    model = seeded(Perceptron, "functions")
    m = measure(model, [(ROWS, Y)], num_classes=K, layers=["second.input", "second"])
    assert m.layers == ("second.input", "second", "head.input")
    with pytest.raises(ValueError, match=r"layers must name or match modules, got 'third\.input'\. .*available here: first"):
        measure(model, [(ROWS, Y)], num_classes=K, layers=["third.input"])


def test_a_module_may_be_called_input():
    model = nn.Sequential()
    model.add_module("body", nn.Sequential())
    model.body.add_module("input", nn.Linear(5, 4))
    model.body.add_module("act", nn.Tanh())
    model.add_module("head", nn.Linear(4, K))
    features, _ = collect_features(model, [(ROWS.float(), Y)], num_classes=K, layers=["body.input"])
    with torch.no_grad():
        assert torch.equal(features["body.input"], model.body.input(ROWS.float()))
