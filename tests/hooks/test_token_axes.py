"""Layers with their tokens in another order or dimension than usual, and images with their channels last."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import reference
from hooks.test_designs import normal
from ncollapse import Tap, collect_features, find_layers, measure

K, N, T, D = 3, 24, 6, 8


def made(network, *args):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return network(*args).eval()


def hooked(net, names, x):
    """What modules return, or take, from plain hooks in float64."""
    kept, net = {}, net.double()
    for name in names:
        module = net.get_submodule(name.removesuffix(".input"))
        module.register_forward_hook(
            lambda _, args, out, name=name: kept.update({name: args[0] if name.endswith(".input") else out})
        )
    with torch.no_grad():
        net(x.double())
    return kept


class Turning(nn.Module):
    """Gives the tokens another order in front of a module that mixes them, and takes it back behind."""

    def __init__(self, order, mix):
        super().__init__()
        self.order, self.inp, self.a, self.head = order, nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, K)
        self.mix = (
            nn.GRU(D, D, batch_first=True) if mix == "recurrent" else nn.TransformerEncoderLayer(D, 2, 8, batch_first=True)
        )

    def forward(self, x):
        h = self.mix(torch.relu(self.a(torch.tanh(self.inp(x))[:, self.order])))
        h = h[0] if isinstance(h, tuple) else h
        return self.head(h[:, self.order.argsort()])


ORDERS = {"reversed": torch.arange(T).flip(0), "the last one stays": torch.tensor([3, 1, 0, 2, 4, 5])}
TOKEN_LABELS = torch.arange(N * T).view(N, T) * 7 % K
TOKENS = normal(N, T, D) + F.one_hot(TOKEN_LABELS, D)


@pytest.mark.parametrize("mix", ["recurrent", "attention"])
@pytest.mark.parametrize("order", ORDERS)
def test_layers_whose_tokens_have_another_order_are_left_out(order, mix):
    net = made(Turning, ORDERS[order], mix)
    features, _ = collect_features(net, [(TOKENS, TOKEN_LABELS)], num_classes=K)
    assert "head.input" in features
    for name, output in hooked(made(Turning, ORDERS[order], mix), list(features), TOKENS).items():
        inside = name.startswith("mix") or name == "a"
        rows = output[:, ORDERS[order].argsort()] if inside else output
        torch.testing.assert_close(features[name].double(), rows.flatten(0, 1), rtol=1e-4, atol=1e-5)
    assert "may have the tokens in another order" in find_layers(net, TOKENS, num_classes=K).why


def test_tokens_in_their_order_are_no_suspects():
    net = made(Turning, torch.arange(T), "attention")
    assert "another order" not in measure(net, [(TOKENS, TOKEN_LABELS)], num_classes=K).chosen


class Mixer(nn.Module):
    """Mixes over tokens in a layer with the tokens last, then over features."""

    def __init__(self, num_tokens):
        super().__init__()
        self.inp, self.tokens, self.features = nn.Linear(D, D), nn.Linear(num_tokens, num_tokens), nn.Linear(D, D)
        self.head = nn.Linear(D, K)

    def forward(self, x):
        h = torch.relu(self.tokens(self.inp(x).transpose(1, 2))).transpose(1, 2)
        return self.head(torch.relu(self.features(h)).mean(dim=1))


@pytest.mark.parametrize("num_tokens", [T, D, 11])
def test_tokens_in_the_last_dimension_are_averaged_there(num_tokens):
    labels = torch.arange(N) % K
    x = normal(N, num_tokens, D) + 0.3 * labels[:, None, None]
    m = measure(made(Mixer, num_tokens), [(x[:10], labels[:10]), (x[10:], labels[10:])], num_classes=K, metrics=["pfc1"])
    found = ("tokens.input:mean", "features.input:mean", "head.input")
    assert m.layers == (found if num_tokens != D else (found[0], found[2]))
    assert ("features.input:mean left out (may have its tokens in the last dimension)" in m.chosen) == (num_tokens == D)
    for layer, rows in hooked(made(Mixer, num_tokens), [layer.partition(":")[0] for layer in m.layers], x).items():
        rows = rows.mean(dim=2) if layer == "tokens.input" else rows.mean(dim=1) if rows.ndim == 3 else rows
        value = next(m.value("pfc1", full) for full in m.layers if full.partition(":")[0] == layer)
        assert value == pytest.approx(reference.feature_metrics(rows.numpy(), labels.numpy(), K)["pfc1"], rel=1e-4)


class ChannelsLast(nn.Module):
    """Classifies pixels with their channels last inside, as some transformers for images do."""

    def __init__(self, mixes, logits_last=False):
        super().__init__()
        self.a, self.b, self.norm, self.head = nn.Linear(3, D), nn.Linear(D, D), nn.LayerNorm(D), nn.Linear(D, K)
        self.mixes, self.logits_last, self.places = mixes, logits_last, torch.zeros(())

    def forward(self, x):
        h = torch.relu(self.a(x.permute(0, 2, 3, 1))) + self.places
        h = h + h.mean(dim=(1, 2), keepdim=True) if self.mixes else h
        logits = self.head(self.norm(self.b(h)))
        return logits if self.logits_last else logits.permute(0, 3, 1, 2)


@pytest.mark.parametrize(("size", "mixes"), [((D, D), False), ((D, D), True), ((D, 5), False), ((5, D), True), ((4, 5), True)])
def test_channels_are_found_in_the_last_dimension(size, mixes):
    x, y = normal(6, 3, *size), torch.arange(6 * size[0] * size[1]).view(6, *size) * 5 % K
    net = made(ChannelsLast, mixes)
    features, _ = collect_features(net, [(x, y)], num_classes=K)
    for name, output in hooked(made(ChannelsLast, mixes), list(features), x).items():
        torch.testing.assert_close(features[name].double(), output.flatten(0, 2), rtol=1e-4, atol=1e-5)
    assert {"b.input", "norm"} <= set(features)


def test_channels_of_images_of_one_size_whose_pixels_are_mixed_are_not_guessed():
    x, y = normal(6, 3, D, D), torch.arange(6 * D * D).view(6, D, D) * 5 % K
    net = made(ChannelsLast, True)
    net.places = torch.zeros(1, D, D, 1)
    assert (
        "norm left out (may have its channels last or second)" in measure(net, [(x, y)], num_classes=K, metrics=["pfc1"]).chosen
    )


class Plain(nn.Module):
    """Classifies pixels with convolutions, after which all pixels depend on one another."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, D, 3, padding=1), nn.Conv2d(D, D, 3, padding=1), nn.Conv2d(D, K, 1)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.head(torch.relu(self.b(h + h.mean(dim=(2, 3), keepdim=True))))


def test_convolutions_with_as_many_channels_as_rows_stay_as_they_are():
    x, y = normal(6, 3, D, D), torch.arange(6 * D * D).view(6, D, D) * 5 % K
    features, _ = collect_features(made(Plain), [(x, y)], num_classes=K)
    assert list(features) == ["b.input", "head.input"]
    for name, output in hooked(made(Plain), list(features), x).items():
        torch.testing.assert_close(features[name].double(), output.movedim(1, 3).flatten(0, 2), rtol=1e-4, atol=1e-5)


def test_logits_with_their_classes_last_are_not_read_across():
    x, y = normal(6, 3, K, 5), torch.arange(6 * K * 5).view(6, K, 5) % K
    with pytest.raises(
        ValueError, match=r"The network's logits must have their classes in the second dimension, got \(6, 3, 5, 3\)"
    ):
        measure(made(ChannelsLast, False, True), [(x, y)], num_classes=K)


class Stages(nn.Module):
    """Two stages of attention; the second has fewer tokens with more channels."""

    def __init__(self, tokens, channels):
        super().__init__()
        self.merged, narrow = tokens[0] // tokens[1], channels
        self.a = nn.TransformerEncoderLayer(narrow[0], 2, 8, dropout=0.0, batch_first=True)
        self.merge = nn.Linear(self.merged * narrow[0], narrow[1])
        self.b = nn.TransformerEncoderLayer(narrow[1], 2, 8, dropout=0.0, batch_first=True)
        self.inp, self.head = nn.Linear(3, narrow[0]), nn.Linear(narrow[1], K)

    def forward(self, x):
        h = self.a(self.inp(x))
        return self.head(self.b(self.merge(h.reshape(len(h), -1, self.merged * h.shape[2]))).mean(dim=1))


@pytest.mark.parametrize(("tokens", "channels"), [((16, 4), (4, 16)), ((16, 4), (8, 16)), ((16, 8), (4, 16)), ((8, 4), (4, 8))])
def test_channels_of_a_stage_are_not_the_tokens_of_another(tokens, channels):
    labels = torch.arange(N) % K
    x = normal(N, tokens[0], 3) + 0.3 * labels[:, None, None]
    m = measure(made(Stages, tokens, channels), [(x, labels)], num_classes=K, metrics=["pfc1"])
    names = [layer.partition(":")[0] for layer in m.layers if layer.endswith(":mean")]
    assert names
    for name, rows in hooked(made(Stages, tokens, channels), names, x).items():
        expected = reference.feature_metrics(rows.mean(dim=1).numpy(), labels.numpy(), K)["pfc1"]
        assert m.value("pfc1", f"{name}:mean") == pytest.approx(expected, rel=1e-4)


def attention():
    return nn.TransformerEncoderLayer(D, 2, 8, 0.0, batch_first=True)


class OverTime(nn.Module):
    """Convolutions over time in front of a module that takes tokens, as for sounds and sensors."""

    def __init__(self, behind, fixed=False):
        super().__init__()
        self.a, self.b, self.head = nn.Conv1d(3, D, 3, padding=1), nn.Conv1d(D, D, 3, padding=1), nn.Linear(D, K)
        self.c = nn.GRU(D, D, batch_first=True) if behind == "recurrent" else attention()
        self.places = nn.Parameter(torch.randn(1, D, fixed or 1))

    def forward(self, x):
        h = self.c(torch.relu(self.b(torch.relu(self.a(x.transpose(1, 2))) + self.places)).transpose(1, 2))
        return self.head((h[0] if isinstance(h, tuple) else h).mean(dim=1))


@pytest.mark.parametrize(
    ("behind", "length", "fixed"),
    [("recurrent", T, False), ("attention", D, False), ("recurrent", D, True), ("attention", 11, True), ("attention", D, True)],
)
def test_what_convolutions_over_time_take_is_averaged_over_time(behind, length, fixed):
    labels = torch.arange(N) % K
    x, args = normal(N, length, 3) + 0.3 * labels[:, None, None], (behind, fixed and length)
    features, _ = collect_features(made(OverTime, *args), [(x, labels)], num_classes=K)
    assert "b.input:mean" in features
    for layer, output in hooked(made(OverTime, *args), [layer.partition(":")[0] for layer in features], x).items():
        output = output[0] if isinstance(output, tuple) else output
        rows = output if output.ndim == 2 else output.mean(dim=2 if layer in {"a", "b", "b.input"} else 1)
        torch.testing.assert_close(features[layer + ":mean" * (output.ndim == 3)].double(), rows, rtol=1e-4, atol=1e-5)


class MixedTwice(Mixer):
    """Mixes over tokens twice, so that no changed token shows where the tokens are in the second layer."""

    def forward(self, x):
        h = torch.tanh(self.tokens(self.inp(x).transpose(1, 2)))
        return self.head(torch.relu(self.more(h)).mean(dim=2))

    def __init__(self, num_tokens):
        super().__init__(num_tokens)
        self.more = nn.Linear(num_tokens, num_tokens)


@pytest.mark.parametrize("num_tokens", [5, D])
def test_tokens_that_are_mixed_twice_have_the_order_of_their_shape_or_are_left_out(num_tokens):
    labels = torch.arange(N) % K
    x = normal(N, num_tokens, D) + 0.3 * labels[:, None, None]
    features, _ = collect_features(made(MixedTwice, num_tokens), [(x, labels)], num_classes=K)
    assert ("more.input:mean" in features) == (num_tokens != D)
    names = [layer.partition(":")[0] for layer in features]
    for layer, output in hooked(made(MixedTwice, num_tokens), names, x).items():
        rows = output if output.ndim == 2 else output.mean(dim=2)
        torch.testing.assert_close(features[layer + ":mean" * (output.ndim == 3)].double(), rows, rtol=1e-4, atol=1e-5)


class Prompted(nn.Module):
    """Classifies tokens behind two virtual ones, and returns classes in the second dimension if asked."""

    def __init__(self, mix, classes_first):
        super().__init__()
        self.inp, self.head, self.classes_first = nn.Linear(3, D), nn.Linear(D, K), classes_first
        self.prompt = nn.Parameter(torch.randn(1, 2, D))
        self.mix = attention() if mix == "attention" else nn.Conv1d(D, D, 3, padding=1)

    def forward(self, x):
        h = torch.cat([self.prompt.expand(len(x), -1, -1), self.inp(x)], dim=1)
        h = torch.relu(self.mix(h.transpose(1, 2)).transpose(1, 2)) if isinstance(self.mix, nn.Conv1d) else self.mix(h)
        logits = self.head(h)[:, 2:]
        return logits.transpose(1, 2) if self.classes_first else logits


@pytest.mark.parametrize("classes_first", [False, True])
@pytest.mark.parametrize("mix", ["attention", "convolution"])
@pytest.mark.parametrize("length", [T, D])
def test_as_many_features_as_labels_are_not_taken_for_tokens(length, mix, classes_first):
    labels = torch.arange(N * length).view(N, length) * 7 % K
    x = normal(N, length, 3) + F.one_hot(labels, 3)
    features, _ = collect_features(made(Prompted, mix, classes_first), [(x, labels)], num_classes=K)
    assert features.keys() >= ({"mix.input", "head.input"} if mix == "convolution" else {"mix.norm2"})
    for layer, output in hooked(made(Prompted, mix, classes_first), list(features), x).items():
        tokens = output.transpose(1, 2) if mix == "convolution" and layer.startswith("mix") else output
        torch.testing.assert_close(features[layer].double(), tokens[:, -length:].flatten(0, 1), rtol=1e-4, atol=1e-5)


def test_as_many_time_steps_as_samples():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inp, self.head = nn.Linear(3, D), nn.Linear(N * D, K)

        def forward(self, x):  # (T, N, 3)
            return self.head(torch.tanh(self.inp(x)).transpose(0, 1).flatten(1))

    x, labels = normal(N, N, 3), torch.arange(N) % K
    features, _ = collect_features(made(Fixed), [(x, labels)], num_classes=K)
    rows = hooked(made(Fixed), ["head.input"], x)["head.input"]
    torch.testing.assert_close(features["head.input"].double(), rows, rtol=1e-4, atol=1e-5)


class Coarse(nn.Module):
    """Has half of the resolution inside, and a classifier that takes its channels last."""

    def __init__(self, channels):
        super().__init__()
        self.a, self.up, self.head = nn.Conv2d(3, 8, 2, 2), nn.ConvTranspose2d(8, channels, 2, 2), nn.Linear(channels, K)

    def forward(self, x):
        h = torch.tanh(self.up(torch.relu(self.a(x))))
        h = h + h.mean(dim=(2, 3), keepdim=True)
        return self.head(h.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@pytest.mark.parametrize(("size", "channels"), [((8, 4), 8), ((4, 4), 4), ((8, 4), 5)])
def test_a_coarser_layer_is_not_taken_for_one_with_its_channels_last(size, channels):
    x, y = normal(6, 3, *size), torch.arange(6 * size[0] * size[1]).view(6, *size) * 5 % K
    features, _ = collect_features(made(Coarse, channels), [(x, y)], num_classes=K, layers="all")
    assert features.keys() == {"up", "head"}
    for layer, output in hooked(made(Coarse, channels), list(features), x).items():
        rows = output.movedim(1, 3) if layer == "up" else output
        torch.testing.assert_close(features[layer].double(), rows.flatten(0, 2), rtol=1e-4, atol=1e-5)


class MixedView(nn.Module):
    """Attention over tokens, then a layer over as many tokens as features, which takes a view of what attention returned."""

    def __init__(self):
        super().__init__()
        self.a, self.mix, self.b, self.head = attention(), nn.Linear(D, D), nn.Linear(D, D), nn.Linear(D, K)

    def forward(self, x):
        return self.head(torch.tanh(self.b(torch.tanh(self.mix(self.a(x).transpose(1, 2))).transpose(1, 2))).mean(dim=1))


def test_a_view_has_the_tokens_where_its_strides_say():
    labels = torch.arange(N) % K
    x = normal(N, D, D) + 0.3 * labels[:, None, None]
    features, _ = collect_features(made(MixedView), [(x, labels)], num_classes=K, layers=[Tap("mix.input", "mean")])
    expected = hooked(made(MixedView), ["mix.input"], x)["mix.input"].mean(dim=2)
    torch.testing.assert_close(features["mix.input:mean"].double(), expected, rtol=1e-4, atol=1e-5)


class OverTimeOnly(nn.Module):
    """Layers over a fixed number of time steps, which are the last dimension, and a read-out."""

    def __init__(self, read):
        super().__init__()
        self.a, self.act, self.b, self.act2 = nn.Linear(T, T), nn.Tanh(), nn.Linear(T, T), nn.Tanh()
        self.mix, self.head, self.read = nn.Linear(D, D), nn.Linear(D, K), read

    def forward(self, x):
        return self.head(self.read(self.act2(self.b(self.act(self.a(x))))))


@pytest.mark.parametrize(("read", "pool"), [(lambda h: h.mean(dim=2), "mean"), (lambda h: h[:, :, -1], "mean")])
def test_tokens_that_the_network_reads_along_the_last_dimension_are_averaged_there(read, pool):
    labels = torch.arange(N) % K
    x = normal(N, D, T) + 0.3 * labels[:, None, None]
    features, _ = collect_features(made(OverTimeOnly, read), [(x, labels)], num_classes=K)
    assert features.keys() == {f"act:{pool}", "head.input"}
    expected = hooked(made(OverTimeOnly, read), ["act"], x)["act"].mean(dim=2)
    torch.testing.assert_close(features[f"act:{pool}"].double(), expected, rtol=1e-4, atol=1e-5)


class MixedBoth(nn.Module):
    """Mixes over tokens and over features, and reads the largest numbers, so that nothing shows what is what."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.head = nn.Linear(T, T), nn.Linear(D, D), nn.Linear(T, T), nn.Linear(D, K)

    def forward(self, x):
        h = torch.tanh(self.b(torch.tanh(self.a(x)).transpose(1, 2)))
        return self.head(torch.tanh(self.c(h.transpose(1, 2).contiguous())).amax(dim=2))


def test_what_nothing_shows_is_said():
    labels = torch.arange(N) % K
    m = measure(made(MixedBoth), [(normal(N, D, T), labels)], num_classes=K, metrics=["pfc1"])
    assert "nothing shows that the second dimension of c.input counts tokens" in m.chosen


def test_one_sample_in_the_first_batch():
    labels = torch.arange(N) % K
    x = normal(N, T, 3) + 0.3 * labels[:, None, None]
    batches = [(x[:1], labels[:1]), (x[1:], labels[1:])]
    features, _ = collect_features(made(OverTime, "attention"), batches, num_classes=K)
    expected = hooked(made(OverTime, "attention"), ["b.input"], x)["b.input"].mean(dim=2)
    torch.testing.assert_close(features["b.input:mean"].double(), expected, rtol=1e-4, atol=1e-5)
