"""Which row belongs to which label: virtual tokens, encoders, strides, and time first, against plain hooks in float64."""

import pytest
import torch
from torch import nn

import reference
from hooks.test_designs import normal
from hooks.test_tapped_network import seeded
from ncollapse import collect_features, find_layers, measure, watch

K, N, T, D, V = 3, 8, 6, 5, 11
IDS = torch.randint(1, V, (N, T), generator=torch.Generator().manual_seed(5))
TAGS = (IDS * 7 + torch.arange(T)) % K


class Mix(nn.Module):
    """A block that lets each token see the others, or those before it."""

    def __init__(self, causal):
        super().__init__()
        self.own, self.others, self.causal = nn.Linear(D, D), nn.Linear(D, D), causal

    def forward(self, h):
        seen = h.cumsum(1) / torch.arange(1, h.shape[1] + 1)[:, None] if self.causal else h.mean(1, keepdim=True)
        return h + torch.tanh(self.own(h) + self.others(seen))


class Prompted(nn.Module):
    """Virtual tokens in front (or behind), cut off in front of the head, behind it, or not at all."""

    def __init__(self, causal, num_virtual=2, cut="features", behind=False):
        super().__init__()
        self.prompt, self.embed = nn.Parameter(normal(num_virtual, D)), nn.Embedding(V, D)
        self.blocks = nn.ModuleList(Mix(causal) for _ in range(2))
        self.norm, self.head, self.cut = nn.LayerNorm(D), nn.Linear(D, K), cut
        self.kept = slice(0, T) if behind else slice(num_virtual, None)
        self.behind = behind

    def forward(self, ids):
        parts = [self.prompt.expand(len(ids), -1, -1), self.embed(ids)]
        h = torch.cat(parts[::-1] if self.behind else parts, dim=1)
        for block in self.blocks:
            h = block(h)
        h = self.norm(h)
        if self.cut == "features":
            return self.head(h[:, self.kept])
        logits = self.head(h)
        return logits[:, self.kept] if self.cut == "logits" else logits


def hooked(model, inputs, layers):
    """What plain hooks see."""
    seen, handles = {}, []
    for layer in layers:
        module = model.get_submodule(layer.removesuffix(".input"))
        if layer.endswith(".input"):
            handles.append(module.register_forward_pre_hook(lambda _, args, layer=layer: seen.update({layer: args[0]})))
        else:
            handles.append(module.register_forward_hook(lambda _, __, out, layer=layer: seen.update({layer: out})))
    model.eval()
    with torch.no_grad():
        model(*inputs) if isinstance(inputs, tuple) else model(inputs)
    for handle in handles:
        handle.remove()
    return seen


def check_tokens(model, inputs, labels, layers, rows):
    """The features and a metric at each layer, with the rows (N, T) of positions that the test gives."""
    m = measure(model, [(inputs, labels)], num_classes=K)
    assert m.layers == tuple(layers)
    features, _ = collect_features(model, [(inputs, labels)], num_classes=K)
    for layer, output in hooked(model, inputs, layers).items():
        expected = [output[i, rows(layer)[t]] for i in range(len(labels)) for t in range(labels.shape[1]) if labels[i, t] >= 0]
        assert torch.equal(features[layer], torch.stack(expected)), layer
        H, y = torch.stack(expected).double().numpy(), labels[labels >= 0].numpy()
        assert m.value("pfc1", layer) == pytest.approx(reference.feature_metrics(H, y, K)["pfc1"], rel=1e-9), layer
    return m


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("cut", "behind"), [("features", False), ("features", True), ("logits", False), ("logits", True)])
@pytest.mark.parametrize("num_virtual", [1, 4])
def test_virtual_tokens_have_no_label(causal, cut, behind, num_virtual):
    model = seeded(Prompted(causal, num_virtual, cut, behind)).double()
    labels = torch.where(IDS == 3, -100, TAGS)
    last = "head.input" if cut == "features" else "norm"
    first = 0 if behind else num_virtual

    def rows(layer):
        return range(T) if layer == "head.input" else range(first, first + T)

    check_tokens(model, IDS, labels, ["blocks.0.input", "blocks.0", "blocks.1", last], rows)


@pytest.mark.parametrize("num_virtual", [1, 4])
def test_logits_of_virtual_tokens_are_no_decisions(num_virtual):
    model = seeded(Prompted(True, num_virtual, "nowhere")).double()
    m = check_tokens(
        model, IDS, TAGS, ["blocks.0.input", "blocks.0", "blocks.1", "norm"], lambda _: range(num_virtual, num_virtual + T)
    )
    assert f"of {num_virtual + T} positions those from {num_virtual} on" in m.chosen
    with torch.no_grad():
        decided = model(IDS)[:, num_virtual:].argmax(-1)
    assert m.value("accuracy") == pytest.approx(float((decided == TAGS).double().mean()))


def test_where_the_labels_are_cannot_be_told_is_an_error():
    class Random(Prompted):
        """The tokens go round, so that no position belongs to one of them."""

        def forward(self, ids):
            h = torch.cat([self.prompt.expand(len(ids), -1, -1), self.embed(ids)], dim=1)
            return self.head(self.norm(self.blocks[0](h.flatten(1)[:, torch.arange(h[0].numel()).flip(0)].view(h.shape))))

    model = seeded(Random(False, 2))
    with pytest.raises(ValueError, match=rf"must be clear, but the output has {T + 2} positions, the labels {T}"):
        measure(model, [(IDS, TAGS)], num_classes=K)


class Patches(nn.Module):
    """A vision transformer with a class token, and a label for each patch; the images show no tokens."""

    def __init__(self, cut):
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, D, 2, 2), nn.Parameter(normal(1, 1, D))
        self.blocks, self.norm, self.head = nn.ModuleList([Mix(False), Mix(False)]), nn.LayerNorm(D), nn.Linear(D, K)
        self.cut = cut

    def forward(self, images):
        h = self.patches(images).flatten(2).mT
        h = torch.cat([self.token.expand(len(h), 1, D), h], dim=1)
        for block in self.blocks:
            h = block(h)
        if self.cut == "features":
            return self.head(self.norm(h[:, 1:]))
        return self.head(self.norm(h))[:, 1:] if self.cut == "logits" else self.head(self.norm(h))


@pytest.mark.parametrize("cut", ["features", "logits", "declared"])
def test_a_class_token_has_no_label_among_patches(cut):
    model, images = seeded(Patches(cut)).double(), normal(N, 1, 4, 6).double()
    if cut == "declared":
        with pytest.raises(ValueError, match=rf"the output has {T + 1} positions, the labels {T}"):
            measure(model, [(images, TAGS)], num_classes=K)
        model.num_prefix_tokens = 1

    def rows(layer):
        return range(T) if layer == "norm" and cut == "features" else range(1, T + 1)

    check_tokens(model, images, TAGS, ["blocks.0.input", "blocks.0", "blocks.1", "norm"], rows)


class Translator(nn.Module):
    """An encoder, and a decoder whose tokens have the labels."""

    def __init__(self, causal=True):
        super().__init__()
        self.embed, self.embed_out = nn.Embedding(V, D), nn.Embedding(V, D)
        self.encoder, self.decoder = (nn.ModuleList(Mix(causal and i > 0) for _ in range(2)) for i in range(2))
        self.head = nn.Linear(D, K)

    def forward(self, ids, decoder_ids):
        h, g = self.embed(ids), self.embed_out(decoder_ids)
        for block in self.encoder:
            h = block(h)
        for block in self.decoder:
            g = block(g + h.mean(1, keepdim=True))
        return self.head(g)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [T - 2, T, T + 3])
def test_an_encoders_tokens_have_no_labels(causal, length):
    source = torch.randint(1, V, (N, length), generator=torch.Generator().manual_seed(6))
    model = seeded(Translator(causal)).double()
    m = check_tokens(model, (source, IDS), TAGS, ["decoder.0", "decoder.1"], lambda _: range(T))
    left_out = find_layers(model, (source, IDS), num_classes=K).left_out
    assert {"encoder.0", "encoder.1"} <= set(left_out)
    assert "encoder.0" in m.chosen
    with pytest.raises(ValueError, match=r"must be clear, but 'encoder\.0' (has|sees)"):
        measure(model, [((source, IDS), TAGS)], num_classes=K, layers=["encoder.0"])


class Strided(nn.Module):
    """An encoder of sounds with a stride of two."""

    def __init__(self):
        super().__init__()
        self.conv, self.blocks, self.head = nn.Conv1d(1, D, 2, 2), nn.ModuleList([Mix(False), Mix(False)]), nn.Linear(D, K)

    def forward(self, x):
        h = self.conv(x[:, None]).mT
        for block in self.blocks:
            h = block(h)
        return self.head(h)


@pytest.mark.parametrize("num_labels", [2 * T, 2 * T - 1, T + 1, T - 1])
def test_another_number_of_positions_than_labels_is_an_error_that_names_both(num_labels):
    labels = torch.arange(N * num_labels).reshape(N, num_labels) % K
    with pytest.raises(ValueError, match=rf"the output has {T} positions, the labels {num_labels}\b"):
        measure(Strided(), [(normal(N, 2 * T), labels)], num_classes=K)
    fitting = torch.arange(N * T).reshape(N, T) % K
    assert measure(Strided(), [(normal(N, 2 * T), fitting)], num_classes=K).layers[-2:] == ("blocks.0", "blocks.1")


def test_batches_of_other_lengths_keep_the_difference_and_other_differences_are_refused():
    model = seeded(Prompted(True, 2, "features")).double()
    short = (IDS[:, :4], TAGS[:, :4])
    m = measure(model, [(IDS, TAGS), short], num_classes=K)
    assert m.num_samples == N * T + N * 4
    source = torch.randint(1, V, (N, T + 1), generator=torch.Generator().manual_seed(6))
    translator = seeded(Translator(True)).double()
    with pytest.raises(ValueError, match=r"'embed_out' must have one position per label \(6\), got 5"):
        measure(translator, [((source, IDS), TAGS), ((source, IDS[:, :5]), TAGS)], num_classes=K, layers=["embed_out"])


class TimeFirst(nn.Module):
    """PyTorch's default encoder takes (T, N, D)."""

    def __init__(self, takes_time_first=False, read="mean"):
        super().__init__()
        layer = nn.TransformerEncoderLayer(D * 2, 2, 16)
        self.embed, self.encoder = nn.Linear(4, D * 2), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head, self.takes_time_first, self.read = nn.Linear(D * 2, K), takes_time_first, read

    def forward(self, x):
        h = self.encoder(self.embed(x if self.takes_time_first else x.transpose(0, 1)))
        return self.head(h.mean(0) if self.read == "mean" else h[0] if self.read == "cls" else h[-1])


@pytest.mark.parametrize("read", ["mean", "cls", "last_token"])
@pytest.mark.parametrize("takes_time_first", [False, True])
@pytest.mark.parametrize("length", [2, 3, 5, N])
def test_time_first_is_measured_along_the_samples(read, takes_time_first, length):
    x, y = normal(N, length, 4).double(), torch.arange(N) % K
    inputs = x.transpose(0, 1).contiguous() if takes_time_first else x
    model = seeded(TimeFirst(takes_time_first, read)).double()
    features, _ = collect_features(model, [(inputs, y)], num_classes=K)
    pool = "" if length == 1 else f":{read}"
    layers = ["embed", "encoder.layers.0", "encoder.layers.1"]
    assert [*features] == [*(f"{layer}{pool}" for layer in layers), "head.input"]
    one = {"mean": lambda out: out.mean(0), "cls": lambda out: out[0], "last_token": lambda out: out[-1]}[read]
    for layer, output in hooked(model, inputs, layers).items():
        assert torch.allclose(features[f"{layer}{pool}"].double(), one(output), atol=1e-6), layer


@pytest.mark.parametrize("length", [2, 3, N])
def test_a_named_layer_with_time_first_is_measured_along_the_samples(length):
    x, y = normal(N, length, 4).double(), torch.arange(N) % K
    model = seeded(TimeFirst()).double()
    features, _ = collect_features(model, [(x, y)], num_classes=K, layers=["encoder.layers.0"])
    output = hooked(model, x, ["encoder.layers.0"])["encoder.layers.0"]
    assert torch.equal(features["encoder.layers.0"], output.transpose(0, 1).flatten(1))


def test_layers_without_rows_are_named():
    class Windows(nn.Module):
        """Cuts each sample into parts, which become rows of their own."""

        def __init__(self):
            super().__init__()
            self.parts, self.norm, self.head = nn.Linear(3, 5), nn.LayerNorm(5), nn.Linear(10, K)

        def forward(self, x):
            return self.head(self.norm(self.parts(x.reshape(-1, 3))).reshape(len(x), -1))

    found = find_layers(Windows(), normal(N, 6), num_classes=K)
    assert found.left_out == {"parts": "returns (4, 5) for 2 samples", "norm": "returns (4, 5) for 2 samples"}
    assert found.names == ("head.input",)
    with pytest.raises(ValueError, match=r"'parts' returns \(4, 5\)"):
        measure(Windows(), [(normal(N, 6), torch.arange(N) % K)], num_classes=K, layers=["parts"])


def test_no_layer_with_rows_is_an_error_with_the_causes():
    model = nn.Sequential(nn.Flatten(0), nn.Unflatten(0, (-1, 3)), nn.Linear(3, 4))
    with pytest.raises(
        ValueError,
        match=r"No module before the classifier ran once and returned 2 rows for 2 samples\. .*Likely causes: \(a\) samples "
        r"are not the first dimension \(batch_first=False\).*\(b\) every module runs several times",
    ):
        find_layers(model, normal(N, 6), num_classes=7)
    with pytest.raises(ValueError, match=r"must be clear, but '2\.input' returns \(4, 3\)"):
        find_layers(model, normal(N, 6))


class Sorts(nn.Module):
    """Handles the samples in an order of its own, as recurrent networks do for packed sequences."""

    def __init__(self, restores):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.restores = restores

    def forward(self, x):
        order = x[:, 0].argsort()
        h = self.second(self.first(x[order]).tanh()).tanh()
        back = order.argsort()
        return self.head(h[back]) if self.restores else self.head(h)[back]


SAMPLES = torch.randn(24, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("layers", ["auto", ["head.input"]])
def test_layers_that_reorder_the_samples_are_left_out(layers):
    torch.manual_seed(0)
    network, y = Sorts(True), torch.arange(24) % 3
    m = measure(network, [(SAMPLES, y)], num_classes=3, layers=layers)
    assert m.layers == ("head.input",)
    with torch.no_grad():
        rows = network.second(network.first(SAMPLES).tanh()).tanh()
    assert m.value("pfc1") == pytest.approx(reference.feature_metrics(reference.rows_of(rows), y.numpy(), 3)["pfc1"], rel=1e-5)
    assert ("second.input left out (reorders the samples)" in m.chosen) == (layers == "auto")


@pytest.mark.parametrize("layers", ["auto", ["first"]])
def test_a_needed_layer_that_reorders_the_samples_is_refused(layers):
    with pytest.raises(ValueError, match="reorders the samples"):
        measure(Sorts(False), [(SAMPLES, torch.arange(24) % 3)], num_classes=3, layers=layers)


class SortsTimeFirst(nn.Module):
    """Sorts the samples of inputs (T, N, F) by their last step, as recurrent networks do for packed sequences."""

    def __init__(self, restores):
        super().__init__()
        self.recurrent, self.head = nn.GRU(4, 6), nn.Linear(6, 3)
        self.restores = restores

    def forward(self, x):
        order = x[-1, :, 0].argsort()
        h = self.recurrent(x[:, order])[0]
        return self.head(h[-1, order.argsort()] if self.restores else h[-1])[slice(None) if self.restores else order.argsort()]


def watched(network, x, y):
    with watch(network.eval(), num_classes=3, mode="eval") as watching, torch.no_grad():
        network(x)
        watching.update(y)
    return watching.compute()


@pytest.mark.parametrize("how", [lambda network, x, y: measure(network, [(x, y)], num_classes=3), watched])
@pytest.mark.parametrize("steps", [2, 5, 10, 20])
def test_samples_in_the_second_dimension_that_are_reordered_are_noticed(steps, how):
    torch.manual_seed(0)
    x, y = torch.randn(steps, 10, 4), torch.arange(10) % 3
    with pytest.raises(ValueError, match=r"reorders the samples|returns 10 rows for \d samples"):
        how(SortsTimeFirst(False), x, y)
    network = SortsTimeFirst(True)
    m = how(network, x, y)
    assert m.layers == ("head.input",)
    with torch.no_grad():
        rows = network.recurrent(x)[0][-1]
    assert m.value("pfc1") == pytest.approx(reference.feature_metrics(reference.rows_of(rows), y.numpy(), 3)["pfc1"], rel=1e-5)


class Experts(nn.Module):
    """Runs each sample through one of two layers."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 6), nn.Linear(6, 3)
        self.experts = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])

    def forward(self, x):
        h = self.first(x).tanh()
        to, mixed = (x[:, 0] > 0).long(), torch.zeros_like(h)
        for index, expert in enumerate(self.experts):
            if (to == index).any():
                mixed[to == index] = expert(h[to == index])
        return self.head(mixed.tanh())


def test_experts_that_see_a_part_of_the_samples_are_left_out():
    x = SAMPLES.clone()
    x[:2, 0] = 1.0
    m = measure(Experts(), [(x, torch.arange(24) % 3)], num_classes=3)
    assert "head.input" in m.layers
    assert not any("experts" in layer for layer in m.layers)


class TwoTowers(nn.Module):
    """Compares features with those of two prompts: as many as there are samples in a look."""

    def __init__(self):
        super().__init__()
        self.prompts = nn.Parameter(torch.randn(2, 4))
        self.image = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())
        self.text = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh())

    def forward(self, x):
        return self.image(x) @ self.text(self.prompts).T


def test_layers_that_do_not_see_the_samples_are_none():
    m = measure(TwoTowers(), [(SAMPLES, torch.arange(24) % 2)], num_classes=2)
    assert m.layers == ("image.1", "image.3")


class AlongTime(nn.Module):
    """Convolutions along the tokens, whose tensors are (N, C, T)."""

    def __init__(self, width, classes_first):
        super().__init__()
        self.embed, self.first = nn.Embedding(20, width), nn.Conv1d(width, width, 3, padding=1)
        self.head, self.classes_first = nn.Conv1d(width, 3, 1), classes_first

    def forward(self, ids):
        logits = self.head(self.first(self.embed(ids).transpose(1, 2)).tanh())
        return logits if self.classes_first else logits.transpose(1, 2)


@pytest.mark.parametrize("classes_first", [True, False])
@pytest.mark.parametrize(("width", "length"), [(8, 6), (6, 6), (3, 5)])
def test_tokens_in_the_last_dimension(width, length, classes_first):
    torch.manual_seed(0)
    network, ids = AlongTime(width, classes_first), torch.randint(0, 20, (16, length))
    labels = (ids + 1) % 3
    m = measure(network, [(ids[:8], labels[:8]), (ids[8:], labels[8:])], num_classes=3)
    with torch.no_grad():
        embedded = network.embed(ids).transpose(1, 2)
        rows = {"first.input": embedded, "head.input": network.first(embedded).tanh()}
        decided = network.head(rows["head.input"]).argmax(dim=1)
    for layer, tensor in rows.items():
        H = tensor.transpose(1, 2).flatten(0, 1).double().numpy()
        expected = reference.feature_metrics(H, labels.flatten().numpy(), 3)["pfc1"]
        assert m.value("pfc1", layer) == pytest.approx(expected, rel=1e-5)
    assert m.value("accuracy") == pytest.approx(float((decided == labels).double().mean()))


def test_as_many_classes_as_tokens_in_an_unclear_order_are_refused():
    ids = torch.randint(0, 20, (16, 3))
    with pytest.raises(ValueError, match="the output has as many positions as classes, in either order"):
        measure(AlongTime(8, True), [(ids, ids % 3)], num_classes=3)


class TokensTimeFirst(nn.Module):
    """A recurrent layer that has time first, and labels for every token."""

    def __init__(self):
        super().__init__()
        self.embed, self.recurrent = nn.Embedding(20, 6), nn.LSTM(6, 5, bidirectional=True)
        self.middle, self.head = nn.Linear(10, 7), nn.Linear(7, 3)

    def forward(self, ids):
        h, _ = self.recurrent(self.embed(ids).transpose(0, 1))
        return self.head(self.middle(h).tanh()).transpose(0, 1)


@pytest.mark.parametrize("length", [5, 12])
def test_time_first_with_labels_for_every_token(length):
    torch.manual_seed(0)
    network, ids = TokensTimeFirst(), torch.randint(0, 20, (12, length))
    labels = (ids + 1) % 3
    m = measure(network, [(ids, labels)], num_classes=3)
    with torch.no_grad():
        h = network.recurrent(network.embed(ids).transpose(0, 1))[0]
        rows = network.middle(h).tanh().transpose(0, 1).flatten(0, 1)
    expected = reference.feature_metrics(rows.double().numpy(), labels.flatten().numpy(), 3)["pfc1"]
    assert m.value("pfc1", "head.input") == pytest.approx(expected, rel=1e-5)
