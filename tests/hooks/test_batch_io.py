"""What batches may look like: pairs, mappings, several inputs, a reader of one's own, next-token labels."""

import re
from collections import namedtuple

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import reference
from ncollapse import Tap, collect_features, find_layers, measure, next_tokens, watch
from ncollapse.hooks import unpack_batch
from ncollapse.hooks.masks import named_rules

K = 3
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % K


class Net(nn.Module):
    """Takes its inputs by keyword or by position, and by default none beside x."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.body, self.head = nn.Linear(4, 5), nn.Linear(5, K)
        for parameter in self.parameters():
            nn.init.normal_(parameter, generator=generator)

    def forward(self, x, shift=None):
        return self.head(torch.tanh(self.body(x if shift is None else x + shift)))


def rows(batches, **options):
    return [(row.layer, row.metric, row.value) for row in measure(Net(), batches, num_classes=K, **options).rows]


SHIFT = torch.linspace(-1, 1, 48).reshape(12, 4)


@pytest.mark.parametrize(
    "whole",
    [
        {"x": X, "labels": Y},
        {"x": X, "label": Y},
        {"label": Y, "x": X, "shift": None},
        ((X,), Y),
        [[X, None], Y],
        ({"x": X}, Y),
        {"x": X - SHIFT, "shift": SHIFT, "labels": Y},
        ((X - SHIFT, SHIFT), Y),
    ],
)
def test_every_form_of_a_batch_gives_the_table_of_plain_pairs(whole):
    def part(value, index):
        if isinstance(value, torch.Tensor):
            return value[index]
        if isinstance(value, dict):
            return {key: part(item, index) for key, item in value.items()}
        return None if value is None else type(value)(part(item, index) for item in value)

    batches = [part(whole, slice(0, 7)), part(whole, slice(7, 12))]
    expected, got = rows([(X[:7], Y[:7]), (X[7:], Y[7:])]), rows(batches)
    assert [row[:2] for row in got] == [row[:2] for row in expected]
    # x - shift + shift is x to the last digit of float32 only.
    assert [row[2] for row in got] == pytest.approx([row[2] for row in expected], rel=1e-4, abs=1e-6, nan_ok=True)


def test_a_reader_of_ones_own_gets_each_batch_as_it_is():
    batches = [("first", X[:7], Y[:7]), ("second", X[7:], Y[7:])]
    got = []

    def unpack(batch):
        got.append(batch[0])
        return batch[1], batch[2]

    assert repr(rows(batches, unpack=unpack, memory_budget=2**20)) == repr(rows([(X[:7], Y[:7]), (X[7:], Y[7:])]))
    assert got == ["first", "second"]


def test_the_key_of_the_labels_is_taken_out_and_labels_go_first():
    inputs, labels = unpack_batch({"x": X, "labels": Y, "label": Y + 1})
    assert labels is Y
    assert list(inputs) == ["x", "label"]


@pytest.mark.parametrize(("keys", "parts"), [
    (["img", "target"], "batch['img'], batch['target']"),
    (["target", "img"], "batch['img'], batch['target']"),
    ([0, 1], "batch[0], batch[1]"),
    (["x"], "batch['x'], batch['labels']"),
])  # fmt: skip
def test_the_hint_names_the_keys_of_the_batch(keys, parts):
    with pytest.raises(TypeError, match=re.escape(f"such as unpack=lambda batch: ({parts}).")):
        unpack_batch(dict.fromkeys(keys, X))


def test_next_tokens_are_those_after_each_real_one():
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0], [0, 0, 11, 12]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 1, 1]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids}
    inputs, labels = next_tokens(batch)
    assert labels.tolist() == [[6, 7, 8, -100], [10, -100, -100, -100], [-100, -100, 12, -100]]
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert inputs["input_ids"] is ids
    assert next_tokens({"input_ids": ids})[1][1].tolist() == [10, 0, 0, -100]


@pytest.mark.parametrize(
    ("batch", "got"),
    [({"x": X}, "NoneType"), ((X, Y), "NoneType"), ({"input_ids": Y}, r"\(12,\)"), ({"input_ids": [[1, 2]]}, "list")],
)
def test_next_tokens_needs_token_ids(batch, got):
    with pytest.raises(TypeError, match=rf"next_tokens needs a mapping with input_ids of shape \(N, T\), got {got}\. Tokenize"):
        next_tokens(batch)


class Stream(IterableDataset):
    """Pairs without a length."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Counted:
    """Batches whose length cannot be told."""

    def __len__(self):
        raise NotImplementedError

    def __iter__(self):
        return iter([(X[:7], Y[:7]), (X[7:], Y[7:])])


@pytest.mark.parametrize(
    "batches",
    [DataLoader(Stream(), batch_size=7), Counted(), [(X[:7], Y[:7]), (X[7:], Y[7:])]],
    ids=["stream", "counted", "list"],
)
def test_batches_may_have_no_length(batches):
    told = []
    expected = rows([(X[:7], Y[:7]), (X[7:], Y[7:])])
    assert repr(rows(batches, progress=lambda done, total: told.append((done, total)))) == repr(expected)
    assert told[-1] == (2, 2 if isinstance(batches, list) else None)
    _, labels = collect_features(Net(), batches, num_classes=K)
    assert torch.equal(labels, Y)


class TakesOne(nn.Module):
    """Takes everything in one argument, whatever it is."""

    def __init__(self, read):
        super().__init__()
        self.net, self.read = Net(), read

    def forward(self, inputs):
        return self.net(self.read(inputs))


Pair = namedtuple("Pair", "image weight")
WHOLE = {
    "a list": (lambda inputs: inputs[0] + inputs[1], [X - SHIFT, SHIFT]),
    "a tuple": (lambda inputs: sum(inputs), (X - SHIFT, 0 * X, SHIFT)),
    "a named tuple": (lambda inputs: inputs.image * inputs.weight, Pair(X / 2, torch.full((12, 1), 2.0))),
    "a mapping": (lambda inputs: inputs["image"], {"image": X, "name": "some"}),
}


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.parametrize("called", [False, True])
def test_one_argument_gets_a_container_whole(kind, called):
    read, inputs = WHOLE[kind]
    options = {"call": lambda model, inputs: model(inputs)} if called else {}
    model = TakesOne(read)
    m = measure(model, [(inputs, Y)], num_classes=K, layers="net.body", **options)
    with torch.no_grad():
        rows = model.net.body(read(inputs))
    expected = reference.feature_metrics(rows.double().numpy(), Y.numpy(), K)
    for metric in ("pfc1", "pfc2", "cdnv"):
        assert m.value(metric, "net.body") == pytest.approx(expected[metric], rel=1e-6)


def test_call_decides_how_the_network_runs_also_in_the_search():
    expected = rows([(X, Y)])
    batches = [{"image": X, "label": Y}]
    assert repr(rows(batches, call=lambda model, inputs: model(inputs["image"]))) == repr(expected)
    assert repr(rows(batches, call=lambda model, inputs: model(inputs["image"] - SHIFT, shift=SHIFT))) != repr(expected)
    options = {"layers": "body", "call": lambda model, inputs: model(inputs["image"])}
    features, _ = collect_features(Net(), batches, num_classes=K, **options)
    assert torch.equal(features["body"], Net().body(X).detach())


class Packed(nn.Module):
    """Reads padded sequences of several lengths by a recurrent layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.body, self.head = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 6), nn.Linear(6, K)

    def forward(self, packed):
        _, last = self.cell(packed)
        return self.head(torch.relu(self.body(last[-1])))


@pytest.mark.parametrize("as_sequence", [False, True])
def test_a_packed_sequence_is_one_argument(as_sequence):
    lengths = torch.tensor([3, 1, 2, 3, 2, 1, 3, 3, 1, 2, 2, 3])
    padded = torch.randn(12, 3, 4, generator=torch.Generator().manual_seed(2))
    packed = pack_padded_sequence(padded, lengths, batch_first=True, enforce_sorted=False)
    model = Packed()
    inputs = (packed,) if as_sequence else packed
    m = measure(model, [(inputs, Y)], num_classes=K, layers=["cell", "body"])
    with torch.no_grad():
        last = torch.cat([model.cell(padded[i : i + 1, : lengths[i]])[1][-1] for i in range(12)])
        for layer, rows in {"cell": last, "body": model.body(last)}.items():
            expected = reference.feature_metrics(rows.double().numpy(), Y.numpy(), K)
            assert m.value("pfc1", layer) == pytest.approx(expected["pfc1"], rel=1e-5)
    assert find_layers(model, packed).names == ("cell", "head.input")


def test_samples_to_be_ignored_are_left_out():
    labels = Y.clone()
    labels[[1, 4, 5]] = -1
    kept = labels >= 0
    got = measure(Net(), [(X[:7], labels[:7]), (X[7:], labels[7:])], num_classes=K, layers="body", ignore_index=-1)
    with torch.no_grad():
        hidden = Net().body(X)
    expected = reference.feature_metrics(hidden[kept].double().numpy(), Y[kept].numpy(), K)
    assert got.num_samples == 9
    assert got.value("pfc1", "body") == pytest.approx(expected["pfc1"], rel=1e-6)
    assert got.value("accuracy") == pytest.approx(float((Net()(X).argmax(1) == Y)[kept].double().mean()))
    # A batch without a label that counts is left out.
    more = [(X[:7], labels[:7]), (X[:3], torch.full((3,), -1)), (X[7:], labels[7:])]
    assert repr(rows(more, ignore_index=-1)) == repr(rows([more[0], more[2]], ignore_index=-1))
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\), got -1"):
        measure(Net(), [(X, labels)], num_classes=K)
    with pytest.raises(ValueError, match="There is no data"):
        measure(Net(), [(X[:3], torch.full((3,), 255))], num_classes=K, ignore_index=255)
    features, found = collect_features(Net(), [(X, labels)], num_classes=K, layers="body", ignore_index=-1)
    assert torch.equal(found, Y[kept])
    assert torch.equal(features["body"], hidden[kept])


@pytest.mark.parametrize(
    "batches",
    [
        TensorDataset(X, Y),
        (X, Y),
        (X[0], Y[0]),
        (X[0], 2),
        [(X[0], 2)],
        [{"image": X[0], "label": 2}],
        {"image": X[0], "label": 2},
        {"x": X, "labels": Y},
    ],
    ids=["data set", "pair", "sample", "plain sample", "samples", "samples as mappings", "one mapping", "batch as mapping"],
)
def test_what_is_no_loader_is_told_to_become_one(batches):
    for function in (measure, collect_features):
        with pytest.raises(TypeError, match="one sample, not a batch: wrap it in a DataLoader"):
            function(Net(), batches, num_classes=K)


@pytest.mark.parametrize(
    "batch", [{"image": X, "label": Y}, ({"image": X}, Y), {"image": X, "index": Y, "labels": Y}, ([X, X, X], Y)]
)
def test_inputs_that_the_forward_does_not_take_are_told_of_unpack(batch):
    match = r"The forward of Net takes \(x, shift\), got .*raised TypeError: .* Pass unpack=, such as lambda batch: \(batch\["
    with pytest.raises(TypeError, match=match):
        measure(Net(), [batch], num_classes=K)


def test_errors_inside_of_a_network_keep_their_words():
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        measure(Net(), [({"x": X[:, :2]}, Y)], num_classes=K)


class Encoder(nn.Module):
    """Averages real tokens, told by a mask of any name."""

    def __init__(self, name):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.body, self.head, self.name = nn.Embedding(9, 5), nn.Linear(5, 6), nn.Linear(6, K), name

    def run(self, ids, real):
        hidden = torch.tanh(self.body(self.embed(ids)))
        return self.head((hidden * real[:, :, None]).sum(1) / real.sum(1, keepdim=True))


def encoder(name, padding):
    """An encoder whose forward names its mask so."""
    program = f"def forward(self, ids, {name}=None):\n    return self.run(ids, {name} == 0 if {padding} else {name} != 0)"
    found = {}
    exec(program, found)
    return type("Named", (Encoder,), {"forward": found["forward"]})(name)


@pytest.mark.parametrize(
    ("name", "padding"),
    [
        ("attention_mask", False),
        ("mask", False),
        ("src_key_padding_mask", True),
        ("key_padding_mask", True),
        ("encoder_padding_mask", True),
    ],
)
@pytest.mark.parametrize("form", ["position", "keyword", "nested", "watch"])
def test_masks_are_found_wherever_they_come(name, padding, form):
    model, lengths = encoder(name, padding), torch.arange(12) % 4 + 1
    ids = torch.randint(9, (12, 4), generator=torch.Generator().manual_seed(3))
    real = torch.arange(4) < lengths[:, None]
    mask = ~real if padding else real.long()
    with torch.no_grad():
        tokens = torch.tanh(model.body(model.embed(ids))).double()
        plain = model.body(model.embed(ids)).double()
    pooled = torch.stack([plain[i, : lengths[i]].mean(0) for i in range(12)]).numpy()
    assert tokens.shape == plain.shape
    expected = reference.feature_metrics(pooled, Y.numpy(), K)["pfc1"]
    layer = Tap("body", "mean")
    if form == "watch":
        with watch(model.eval(), num_classes=K, layers=layer, mode="eval") as watched:
            model(ids, mask)
            watched.update(Y)
        found = watched.compute()
    elif form == "nested":
        batches = [{"text": {"ids": ids, name: mask}, "label": Y}]
        found = measure(model, batches, num_classes=K, layers=layer, call=lambda model, inputs: model(**inputs["text"]))
    else:
        batches = [((ids, mask), Y)] if form == "position" else [{"ids": ids, name: mask, "labels": Y}]
        found = measure(model, batches, num_classes=K, layers=layer)
    assert found.value("pfc1", "body:mean") == pytest.approx(expected, rel=1e-5)


def test_a_mask_of_who_sees_whom_is_no_padding():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), 1, enable_nested_tensor=False)
    causal = nn.Transformer.generate_square_subsequent_mask(12)
    x = torch.randn(12, 12, 4)
    assert not list(named_rules((x, causal), encoder))
    assert not list(named_rules((x, torch.ones(12, 12).tril().bool()), encoder))
    padding = torch.arange(12) >= torch.arange(1, 13)[:, None]
    rule, _ = named_rules((x, causal, padding), encoder)
    assert torch.equal(rule.read((x, causal, padding), encoder), ~padding)


def test_an_empty_first_batch_proves_nothing():
    empty = (X[:0], Y[:0])
    assert repr(rows([empty, (X, Y)])) == repr(rows([(X, Y)]))
    assert measure(Net(), [empty, (X, Y)], num_classes=K).chosen == measure(Net(), [(X, Y)], num_classes=K).chosen


def test_fewer_labels_than_inputs_are_counted():
    with pytest.raises(ValueError, match=rf"returns \({len(X)}, \d+\) for 4 labels. Check that every sample has a label"):
        measure(Net(), [(X, Y[:4])], num_classes=K)


class Graph:
    """Has tensors and methods of tensors, as the graphs of PyTorch Geometric."""

    def __init__(self, x, y):
        self.x, self.y = x, y

    def to_dict(self):
        return {"x": self.x, "y": self.y}

    def to(self, device):
        return Graph(self.x.to(device), self.y.to(device))

    def clone(self):
        return Graph(self.x.clone(), self.y.clone())


class Nodes(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, graph):
        return self.head(self.second(self.first(graph.x).tanh()).tanh())


def test_graphs_carry_their_labels_and_are_followed():
    generator = torch.Generator().manual_seed(0)
    graphs = [Graph(torch.randn(12, 4, generator=generator), torch.arange(12) % 3) for _ in range(2)]
    network = Nodes()
    found = measure(network, graphs, num_classes=3)
    expected = measure(network, graphs, num_classes=3, unpack=lambda graph: ((graph,), graph.y), layers=list(found.layers))
    assert [row.value for row in found.rows] == pytest.approx([row.value for row in expected.rows], nan_ok=True)
    assert "could not be followed" not in found.chosen
