"""Which rows have labels: nodes of a graph, pixels, patches behind a class token, tokens in watch; one-hot rows are refused."""

import numpy as np
import pytest
import torch
from torch import nn

import reference
from ncollapse import collect_features, measure, watch

K = 3


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def check(m, layer, rows, labels):
    expected = reference.feature_metrics(np.asarray(rows, dtype=np.float64), np.asarray(labels), K)
    for metric in ("pfc1", "pfc2", "cdnv", "pfc3"):
        assert m.value(metric, layer) == pytest.approx(expected[metric], rel=1e-5), (layer, metric)


class GraphNet(nn.Module):
    """Two steps of messages along the edges of one graph."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Linear(4, 5), nn.Linear(5, 5), nn.Linear(5, K)

    def forward(self, x, edge_index):
        for layer in (self.first, self.second):
            h = layer(x)
            x = torch.tanh(h.index_add(0, edge_index[1], h[edge_index[0]]))
        return self.head(x)


NODES, EDGES = torch.randn(40, 4, generator=generator()), torch.randint(40, (2, 90), generator=generator(1))
NODE_LABELS = torch.arange(40) % K
TRAIN = torch.rand(40, generator=generator(2)) < 0.6


@pytest.mark.parametrize("form", ["all", "mask", "function", "labels of the mask", "graph object"])
def test_nodes_of_a_graph(form):
    model, rows, labels = GraphNet(), TRAIN, NODE_LABELS
    batch, options = ((NODES, EDGES), NODE_LABELS), {"rows": TRAIN}
    if form == "all":
        rows, options = torch.ones(40, dtype=torch.bool), {}
    if form == "function":
        batch = {"graph": (NODES, EDGES), "y": NODE_LABELS, "train": TRAIN}
        options = {"rows": lambda batch: batch["train"], "unpack": lambda batch: (batch["graph"], batch["y"])}
    if form == "labels of the mask":
        batch = ((NODES, EDGES), NODE_LABELS[TRAIN])
    if form == "graph object":
        options |= {"call": lambda model, graph: model(graph.x, graph.edges)}
        batch = (Graph(NODES, EDGES), NODE_LABELS)
    m = measure(model, [batch], num_classes=K, layers=["first", "head.input"], **options)
    with torch.no_grad():
        seen = []
        model.head.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        logits = model(NODES, EDGES)
    check(m, "first", model.first(NODES).detach()[rows], labels[rows])
    check(m, "head.input", seen[0][rows], labels[rows])
    assert m.value("accuracy") == pytest.approx(float((logits.argmax(1) == labels)[rows].double().mean()))
    assert m.num_samples == int(rows.sum())
    features, found = collect_features(GraphNet(), [batch], num_classes=K, layers="first", **options)
    assert torch.equal(found, labels[rows])
    assert torch.equal(features["first"], model.first(NODES).detach()[rows])


class Graph:
    """As of a graph library: an object with methods of tensors."""

    def __init__(self, x, edges):
        self.x, self.edges = x, edges

    def to(self, device):
        return Graph(self.x.to(device), self.edges.to(device))

    def clone(self):
        return Graph(self.x.clone(), self.edges.clone())


class Segments(nn.Module):
    """A network that classifies pixels, with a stage of half the resolution."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.down = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 6, 3, 2, 1)
        self.up, self.last, self.head = nn.Upsample(scale_factor=2), nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, K, 1)

    def forward(self, x):
        return self.head(torch.relu(self.last(self.up(torch.relu(self.down(torch.relu(self.stem(x))))))))


IMAGES = torch.randn(6, 2, 8, 8, generator=generator(3))
PIXELS = torch.randint(K, (6, 8, 8), generator=generator(4))


@pytest.mark.parametrize("case", ["plain", "ignored", "masked", "one channel", "watch"])
def test_pixels(case):
    model, labels, options, kept = Segments(), PIXELS.clone(), {}, torch.ones(6, 8, 8, dtype=torch.bool)
    if case == "ignored":
        kept = PIXELS != 1
        kept[:, :4] = True
        labels[~kept], options = 255, {"ignore_index": 255}
    if case == "masked":
        kept = torch.zeros(6, 8, 8, dtype=torch.bool)
        kept[:, 2:7, 1:6] = True
        options = {"rows": kept[0]}
    given = labels[:, None] if case == "one channel" else labels
    if case == "watch":
        with watch(model.eval(), num_classes=K, layers=["stem", "last"], mode="eval") as watched:
            for i in (0, 4):
                model(IMAGES[i : i + 4])
                watched.update(given[i : i + 4])
        m = watched.compute()
    else:
        batches = [(IMAGES[i : i + 4], given[i : i + 4]) for i in (0, 4)]
        if "rows" in options:
            options["rows"] = kept[0]
        m = measure(model, batches, num_classes=K, layers=["stem", "last"], **options)
    seen = {}
    for name in ("stem", "last"):
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out}))
    with torch.no_grad():
        logits = model(IMAGES)
    places = [(n, i, j) for n in range(6) for i in range(8) for j in range(8) if kept[n, i, j]]
    for name, output in seen.items():
        check(m, name, np.stack([output[n, :, i, j].numpy() for n, i, j in places]), [int(PIXELS[p]) for p in places])
    assert m.value("accuracy") == pytest.approx(
        np.mean([int(logits[n, :, i, j].argmax()) == PIXELS[n, i, j] for n, i, j in places])
    )


def test_layers_of_another_resolution_are_left_out_or_refused():
    m = measure(Segments(), [(IMAGES, PIXELS)], num_classes=K, layers="all")
    assert {"stem", "last", "up"} <= set(m.layers)
    assert "down" not in m.layers
    assert "4×4 positions, the labels have 8×8" in m.chosen
    with pytest.raises(ValueError, match=r"down.*4×4 positions, the labels have 8×8"):
        measure(Segments(), [(IMAGES, PIXELS)], num_classes=K, layers=["stem", "down"])


class Patches(nn.Module):
    """Adds a class token in front of its patches, or registers behind them, and classifies patches."""

    def __init__(self, front=1, behind=0):
        super().__init__()
        torch.manual_seed(2)
        self.embed, self.extra = nn.Linear(3, 5), nn.Parameter(torch.randn(1, front + behind, 5))
        self.block, self.head, self.front, self.behind = nn.Linear(5, 5), nn.Linear(5, K), front, behind

    def forward(self, x):
        extra = self.extra.expand(len(x), -1, -1)
        x = torch.cat([extra[:, : self.front], self.embed(x), extra[:, self.front :]], dim=1)
        x = torch.tanh(self.block(x) + x.mean(1, keepdim=True))
        return self.head(x)


PATCHES = torch.randn(10, 6, 3, generator=generator(5))
PATCH_LABELS = torch.randint(K, (10, 6), generator=generator(6))


@pytest.mark.parametrize(
    ("front", "behind", "rows"),
    [
        (1, 0, slice(1, None)),
        (2, 0, torch.tensor([0, 0, 1, 1, 1, 1, 1, 1]).bool()),
        (0, 2, slice(0, -2)),
        (1, 1, slice(1, -1)),
        (1, 0, lambda batch: (torch.arange(7) > 0).expand(len(batch[1]), 7)),
    ],
)
def test_patches_among_other_tokens(front, behind, rows):
    model = Patches(front, behind)
    batches = [(PATCHES[:4], PATCH_LABELS[:4]), (PATCHES[4:], PATCH_LABELS[4:])]
    m = measure(model, batches, num_classes=K, layers=["embed", "block"], rows=rows)
    seen = []
    model.block.register_forward_hook(lambda _, __, out: seen.append(out))
    with torch.no_grad():
        logits = model(PATCHES)
    check(m, "embed", model.embed(PATCHES).detach().flatten(0, 1), PATCH_LABELS.flatten())
    check(m, "block", seen[0][:, front : front + 6].flatten(0, 1), PATCH_LABELS.flatten())
    right = logits[:, front : front + 6].argmax(2) == PATCH_LABELS
    assert m.value("accuracy") == pytest.approx(float(right.double().mean()))


@pytest.mark.parametrize(
    ("rows", "error", "match"),
    [
        (torch.ones(7).bool(), ValueError, r"rows must have the shape of the labels, \(10, 6\), or mark one position for each"),
        (torch.ones(6), TypeError, "rows must be a mask of booleans, got torch.float32"),
        (torch.rand(10, 7) < 0.5, ValueError, "got a mask of shape"),
    ],
)
def test_masks_that_do_not_fit_are_refused(rows, error, match):
    with pytest.raises(error, match=match):
        measure(Patches(), [(PATCHES, PATCH_LABELS)], num_classes=K, layers="block", rows=rows)


class Tokens(nn.Module):
    """Returns logits of every token, of their mean, or both."""

    def __init__(self, returns):
        super().__init__()
        torch.manual_seed(3)
        self.embed, self.body, self.head, self.returns = nn.Embedding(9, 5), nn.Linear(5, 6), nn.Linear(6, K), returns

    def forward(self, ids):
        hidden = torch.tanh(self.body(self.embed(ids)))
        return self.head(hidden) if self.returns == "tokens" else self.head(hidden.mean(1))


IDS = torch.randint(9, (12, 5), generator=generator(7))


@pytest.mark.parametrize("ignore", [-100, -1])
def test_token_labels_in_watch_are_as_in_measure(ignore):
    labels = IDS % K
    labels[:, 3:] = ignore
    options = {} if ignore == -100 else {"ignore_index": ignore}
    model, batches = Tokens("tokens").eval(), [(IDS[:7], labels[:7]), (IDS[7:], labels[7:])]
    with watch(model, num_classes=K, mode="eval", **options) as watched:
        for inputs, targets in batches:
            model(inputs)
            watched.update(targets)
    found, expected = watched.compute(), measure(model, batches, num_classes=K, **options)
    assert found.layers == expected.layers
    assert [row.value for row in found.rows] == pytest.approx([row.value for row in expected.rows], rel=1e-9, nan_ok=True)
    check(
        found, "head.input", torch.tanh(model.body(model.embed(IDS)))[:, :3].flatten(0, 1).detach(), (IDS % K)[:, :3].flatten()
    )


def test_labels_of_samples_in_watch_stay_so_for_networks_over_tokens():
    model, labels = Tokens("mean").eval(), torch.arange(12) % K
    with watch(model, num_classes=K, mode="eval") as watched:
        model(IDS)
        watched.update(labels)
    expected = measure(model, [(IDS, labels)], num_classes=K)
    assert [row.value for row in watched.compute().rows] == pytest.approx([row.value for row in expected.rows], nan_ok=True)


ONE_HOT = torch.eye(K, dtype=torch.long)[torch.arange(12) % K]
MULTI_HOT = ((torch.arange(12)[:, None] >> torch.arange(K)) & 1).long()


def watched(model, batches, num_classes):
    with watch(model, num_classes=num_classes, mode="eval") as found:
        for inputs, labels in batches:
            model(inputs)
            found.update(labels)


@pytest.mark.parametrize("labels", [ONE_HOT, MULTI_HOT], ids=["one-hot", "multi-hot"])
@pytest.mark.parametrize("length", [K, 5, 2])
@pytest.mark.parametrize("returns", ["mean", "tokens"])
@pytest.mark.parametrize("function", [measure, collect_features, watched])
def test_one_hot_rows_are_no_labels_of_tokens(labels, length, returns, function):
    if (returns, length) == ("tokens", K) and labels is MULTI_HOT:
        pytest.skip("as many logits as zeros and ones: labels of tokens")
    model, ids = Tokens(returns).eval(), torch.randint(9, (12, length), generator=generator(8))
    with pytest.raises(ValueError, match=r"[Cc]onvert one-hot (rows|labels) with argmax\(1\)"):
        function(model, [(ids, labels)], num_classes=K)
