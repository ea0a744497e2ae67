"""Networks as people write them, with no word on their layers: what is found, each layer as plain hooks see it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reference
from ncollapse import measure

K, N = 3, 12
Y = torch.arange(N) % K


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def conv(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


class UNet(nn.Module):
    """Skips past deeper stages, everything between the stages functional."""

    def __init__(self):
        super().__init__()
        self.up = nn.ModuleList([conv(16, 4), conv(8, 4)])  # defined first, run last
        self.down = nn.ModuleList([conv(1, 4), conv(4, 8)])
        self.middle, self.head = conv(8, 8), nn.Linear(4, K)

    def forward(self, x):
        a = self.down[0](x)
        b = self.down[1](F.max_pool2d(a, 2))
        h = self.middle(F.max_pool2d(b, 2))
        for before, stage in zip((b, a), self.up, strict=True):
            h = stage(torch.cat([F.interpolate(h, scale_factor=2), before], dim=1))
        return self.head(h.mean(dim=(2, 3)))


class Siamese(nn.Module):
    """One trunk for two inputs."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 6), nn.ReLU())
        self.join, self.head = nn.Linear(12, 7), nn.Linear(7, K)

    def forward(self, left, right):
        return self.head(torch.tanh(self.join(torch.cat([self.trunk(left), self.trunk(right)], dim=1))))


class Tied(nn.Module):
    """Depth by one cell run again and again."""

    def __init__(self):
        super().__init__()
        self.stem, self.cell, self.head = nn.Linear(5, 6), nn.Sequential(nn.Linear(6, 6), nn.Tanh()), nn.Linear(6, K)

    def forward(self, x):
        h = self.stem(x)
        for _ in range(3):
            h = self.cell(h)
        return self.head(h)


class Functional(nn.Module):
    """Parameters of its own, and one module."""

    def __init__(self):
        super().__init__()
        self.weight, self.head = nn.Parameter(normal(5, 6)), nn.Linear(6, K)

    def forward(self, x):
        return self.head(torch.tanh(x @ self.weight))


class Recurrent(nn.Module):
    def __init__(self, state):
        super().__init__()
        self.embed, self.rnn, self.head = nn.Embedding(9, 5), nn.LSTM(5, 6, 2, batch_first=True), nn.Linear(6, K)
        self.state = state

    def forward(self, ids):
        outputs, (h, _) = self.rnn(self.embed(ids))
        return self.head(h[-1] if self.state else outputs.mean(dim=1))


class Square(nn.Module):
    """As many tokens as each has numbers, so that ids have the shape of one token's features."""

    def __init__(self):
        super().__init__()
        self.embed, self.each, self.head = nn.Embedding(9, 4), nn.Linear(4, 4), nn.Linear(4, K)

    def forward(self, ids):
        return self.head(torch.tanh(self.each(self.embed(ids))).mean(dim=1))


class MixerBlock(nn.Module):
    def __init__(self, num_tokens=16):
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(6), nn.Sequential(nn.Linear(num_tokens, 8), nn.GELU(), nn.Linear(8, num_tokens))
        self.norm2, self.channels = nn.LayerNorm(6), nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))

    def forward(self, h):
        h = h + self.tokens(self.norm1(h).mT).mT
        return h + self.channels(self.norm2(h))


class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.blocks = nn.Conv2d(1, 6, 2, 2), nn.Sequential(MixerBlock(), MixerBlock())
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, K)

    def forward(self, x):
        return self.head(self.norm(self.blocks(self.patches(x).flatten(2).mT)).mean(dim=1))


class LateClassToken(nn.Module):
    """A token for the class that joins the others behind the first blocks."""

    def __init__(self):
        super().__init__()
        self.embed, self.token = nn.Embedding(9, 6), nn.Parameter(normal(1, 1, 6))
        self.blocks, self.joined = nn.ModuleList(MixerBlock(4) for _ in range(2)), MixerBlock(5)
        self.norm, self.head = nn.LayerNorm(6), nn.Linear(6, K)

    def forward(self, ids):
        h = self.embed(ids)
        for block in self.blocks:
            h = block(h)
        h = self.joined(torch.cat([self.token.expand(len(h), 1, 6), h], dim=1))
        return self.head(self.norm(h)[:, 0])


class Dropped(nn.Module):
    """A head of several modules; returns a mapping."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 7), nn.Tanh())
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(7, K))

    def forward(self, x):
        h = self.body(x)
        return {"features": h, "logits": self.head(h)}


class Auxiliary(nn.Module):
    """A further head over the first layer, run before or after the classifier, returned beside its logits or not."""

    def __init__(self, late, returns):
        super().__init__()
        self.first, self.second, self.classifier = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, K)
        self.auxiliary = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, K))
        self.late, self.returns = late, returns

    def forward(self, x):
        h = torch.relu(self.first(x))
        early = None if self.late else self.auxiliary(h)
        logits = self.classifier(torch.relu(self.second(h)))
        return self.returns(logits, self.auxiliary(h) if self.late else early)


IMAGES, ROWS, IDS = normal(N, 1, 8, 8), normal(N, 5), torch.arange(N * 4).reshape(N, 4) * 5 % 9
RETURNS = {
    "tuple": lambda main, side: (main, side),
    "mapping": lambda main, side: {"side": side, "logits": main},
    "list": lambda main, side: [main, side],
}
# Network, input, the layers that are found with the pool that makes rows of them, and the classifier.
DESIGNS = {
    "unet": (UNet, IMAGES, ["down.1.0.input", "middle.0.input", "up.0.0.input", "up.1.0.input", "head.input"], "head"),
    "siamese": (Siamese, (ROWS, ROWS.flip(0)), ["join.input", "head.input"], "head"),
    "weights tied over depth": (Tied, ROWS, ["stem", "head.input"], "head"),
    "functional": (Functional, ROWS, ["head.input"], "head"),
    "last state": (lambda: Recurrent(True), IDS, ["embed:last_token", "head.input"], "head"),
    "mean of states": (lambda: Recurrent(False), IDS, ["embed:mean", "head.input"], "head"),
    "square": (Square, IDS, ["embed:mean", "head.input"], "head"),
    "mixer": (Mixer, IMAGES, ["blocks.0.input:mean", "blocks.0:mean", "blocks.1:mean", "head.input"], "head"),
    "class token": (LateClassToken, IDS, ["embed:mean", "blocks.0:mean", "blocks.1:mean", "joined:cls", "head.input"], "head"),
    "head of dropout and linear": (Dropped, ROWS, ["body.2", "head.0"], "head.1"),
} | {
    f"two heads, {'late' if late else 'early'}, {name}": (
        lambda late=late, returns=returns: Auxiliary(late, returns), ROWS, ["second.input", "classifier.input"], "classifier"
    )
    for late in (False, True) for name, returns in RETURNS.items()
}  # fmt: skip


def rows_of(layer, tensor):
    """One row a sample in float64, by plain loops over the tokens."""
    pool, array = layer.partition(":")[2], tensor.double().numpy()
    if not pool:
        return array.reshape(len(array), -1)
    one = {"cls": lambda rows: rows[0], "last_token": lambda rows: rows[-1], "mean": lambda rows: sum(rows) / len(rows)}
    return np.stack([one[pool](sample) for sample in array])


def seen(model, x, layers):
    """Rows of each layer as plain hooks see it, in the order of execution."""
    found, handles = {}, []

    def keep(layer, tensor):
        found[layer] = rows_of(layer, tensor[0] if isinstance(tensor, tuple) else tensor)

    for layer in layers:
        name = layer.partition(":")[0]
        module = model.get_submodule(name.removesuffix(".input"))
        if name.endswith(".input"):
            handles.append(module.register_forward_pre_hook(lambda _, args, layer=layer: keep(layer, args[0])))
        else:
            handles.append(module.register_forward_hook(lambda _, __, output, layer=layer: keep(layer, output)))
    with torch.no_grad():
        model(*x) if isinstance(x, tuple) else model(x)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize("design", DESIGNS)
def test_what_is_found_is_natural_and_holds_what_hooks_see(design):
    make, x, layers, head = DESIGNS[design]
    model = make()
    for index, parameter in enumerate(model.parameters()):
        parameter.data = 0.4 * normal(*parameter.shape, seed=index + 1)
    m = measure(model, [(x, Y)], num_classes=K)
    assert m.layers == tuple(layers)
    found, y = seen(model.eval(), x, layers), Y.numpy()
    assert list(found) == layers
    for layer, H in found.items():
        tolerance = 1e-5 if layer.endswith(":mean") else 1e-9
        assert m.value("pfc1", layer) == pytest.approx(reference.feature_metrics(H, y, K)["pfc1"], rel=tolerance)
    module = model.get_submodule(head)
    W, b = reference.rows_of(module.weight), module.bias.detach().double().numpy()
    expected = reference.classifier_metrics(found[layers[-1]], y, K, W, b)
    assert m.value("nc3") == pytest.approx(expected["nc3"], rel=1e-9)


def test_modules_that_are_left_out_are_named():
    assert "trunk left out (runs more than once)" in measure(Siamese(), [((ROWS, ROWS), Y)], num_classes=K).chosen
    chosen = measure(Auxiliary(False, RETURNS["tuple"]), [(ROWS, Y)], num_classes=K).chosen
    assert "auxiliary left out (another head)" in chosen


def test_hidden_states_that_the_network_returns_are_layers_still():
    class Hidden(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.head = nn.Linear(5, 6), nn.Linear(6, 6), nn.Linear(6, K)

        def forward(self, x):
            first = self.first(x)
            second = self.second(torch.relu(first))
            return self.head(torch.relu(second)), first, second

    assert measure(Hidden(), [(ROWS, Y)], num_classes=K).layers == ("second.input", "head.input")


def test_a_bottleneck_of_width_k_is_no_further_head():
    model = nn.Sequential(nn.Linear(5, K), nn.Linear(K, 6), nn.Tanh(), nn.Linear(6, K))
    assert measure(model, [(ROWS, Y)], num_classes=K).layers == ("0", "2")


def test_a_network_without_modules_is_told_what_to_do():
    with pytest.raises(ValueError, match=r"Linear must contain modules, got one .*nn\.Sequential, or pass"):
        measure(nn.Linear(5, K), [(ROWS, Y)], num_classes=K)
    assert measure(nn.Sequential(nn.Linear(5, K)), [(ROWS, Y)], num_classes=K).layers == ("0.input",)
