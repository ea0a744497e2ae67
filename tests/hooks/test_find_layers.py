"""find_layers: the layers that measure takes, without labels and without a trace; layers and classifiers given as modules."""

import re
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hooks.test_any_network import assert_left, state
from hooks.test_any_network import net as blocks_net
from hooks.test_designs import DESIGNS, Auxiliary, Siamese, normal
from hooks.test_tapped_network import Stages
from ncollapse import Tap, collect_features, find_layers, measure, watch
from ncollapse.models import FCResNet, FCResNetConfig, TransformerConfig, build_model

K, N = 3, 12
X, Y = normal(N, 6), torch.arange(N) % K


def plain(*behind):
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, K), *behind)


class Then(nn.Module):
    """A network whose logits a function changes before they are returned."""

    def __init__(self, change):
        super().__init__()
        self.body, self.change = plain(), change

    def forward(self, x):
        return self.change(self.body(x))


class Keywords(nn.Module):
    """Takes tokens and a mask by keyword, classifies one token of each text, and returns a mapping."""

    def __init__(self, each=False):
        super().__init__()
        self.embed, self.score, self.each = nn.Embedding(9, 4), nn.Linear(4, K), each
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))

    def forward(self, input_ids, attention_mask):
        h = self.embed(input_ids)
        for block in self.blocks:
            h = h + block(h)
        logits = self.score(h)
        return {"logits": logits if self.each else logits[torch.arange(len(h)), attention_mask.sum(1) - 1], "hidden": h}


def resnet():
    return FCResNet(FCResNetConfig(width=4, num_blocks=3), 6, K, seed=0)


def transformer():
    return build_model(TransformerConfig(width=8, num_blocks=2, patch=4), (1, 8, 8), K, 0)


IDS = torch.arange(N * 4).reshape(N, 4) * 5 % 9
TEXTS = {"input_ids": IDS, "attention_mask": (torch.arange(4) < torch.tensor([4, 3] * 6)[:, None]).long()}
# Networks whose classifier shows in what they return, and what they take.
NETWORKS = {name: (make, x) for name, (make, x, _, _) in DESIGNS.items()} | {
    "plain": (plain, X),
    "log-softmax module": (lambda: plain(nn.LogSoftmax(dim=1)), X),
    "softmax": (lambda: Then(lambda logits: logits.softmax(dim=1)), X),
    "temperature": (lambda: Then(lambda logits: logits / 0.07), X),
    "blocks": (lambda: blocks_net(), X),
    "blocks in stages": (Stages, normal(N, 3)),
    "declared stages": (resnet, X),
    "our transformer": (transformer, normal(N, 64)),
    "logits of one token": (Keywords, TEXTS),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_finds_the_layers_and_the_classifier_that_measure_takes(name):
    make, x = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    num_classes = 2 if name == "blocks in stages" else K
    batch = {**x, "labels": Y} if isinstance(x, dict) else (x, Y % num_classes)
    m = measure(model, [batch], num_classes=num_classes)
    found = find_layers(model, x)
    assert found.names == m.layers
    assert found == find_layers(model, x, num_classes=num_classes)
    assert found.why == m.chosen
    feeding = [layer for layer, statistics in m.statistics.items() if statistics.classifier is not None]
    assert [found.classifier_input] == feeding
    weight = model.get_submodule(found.classifier).weight
    found_weight = m.statistics[feeding[0]].classifier.weight
    scale = 0.07 if name == "temperature" else 1.0
    assert torch.allclose(scale * found_weight, weight.detach().double(), rtol=0, atol=0 if scale == 1.0 else 1e-6)
    pools = [layer.partition(":")[2] or "flatten" for layer in m.layers if not layer.endswith(".input")]
    assert list(found.pools)[: len(pools)] == pools
    # What was found may be handed over.
    if found.taps:
        assert measure(model, [batch], num_classes=num_classes, layers=found.taps).layers == m.layers


def test_every_token_is_a_row_where_the_network_returns_logits_for_each():
    model = Keywords(each=True)
    m = measure(model, [{**TEXTS, "labels": IDS % K}], num_classes=K)
    found = find_layers(model, TEXTS)
    assert found.names == m.layers == ("embed", "blocks.1.0.input", "score.input")
    assert set(found.pools) == {"flatten"}
    assert found.classifier == "score"


class TimeFirst(nn.Module):
    def __init__(self, steps):
        super().__init__()
        self.places = nn.Parameter(torch.zeros(steps, 1, 8))
        self.embed, self.mix, self.head = nn.Linear(6, 8), nn.GRU(8, 8), nn.Linear(8, K)

    def forward(self, x):
        return self.head(self.mix(self.embed(x) + self.places)[0][-1])


@pytest.mark.parametrize("steps", [2, 5, len(X)])
def test_time_may_come_first(steps):
    x = normal(steps, len(X), 6)
    with torch.random.fork_rng(devices=[]):
        model = TimeFirst(steps)
    m = measure(model, [(x, Y)], num_classes=K)
    assert find_layers(model, x).names == find_layers(model, x, num_classes=K).names == m.layers


def test_without_a_classifier_there_is_none_unless_the_number_of_classes_says_so():
    backbone = plain()[:4]
    assert find_layers(backbone, X).classifier is None
    assert find_layers(backbone, X).names == measure(backbone, [(X, Y)], num_classes=K).layers == ("1", "3")
    # The output of a residual network is as wide as the last layer of its last branch, which is no classifier of it.
    residual = nn.Sequential(*blocks_net().children())[:2]
    assert find_layers(residual, X).classifier is None

    hidden = Then(lambda logits: {"loss": logits.sum()})
    assert find_layers(hidden, X).classifier is None
    assert find_layers(hidden, X, num_classes=K).classifier is None, "it returns no logits"


def test_the_inputs_are_what_the_forward_takes():
    expected = ("embed:last_token", "blocks.1.0.input:last_token", "score.input:last_token")
    assert find_layers(Keywords(), TEXTS).names == expected
    siamese = find_layers(Siamese(), (normal(2, 5), normal(2, 5)))
    assert siamese.left_out == {"trunk": "runs more than once"}
    side = find_layers(Auxiliary(False, lambda main, side: (main, side)), normal(1, 5))
    assert side.left_out == {"auxiliary": "another head"}
    for nothing in ("text", {}, torch.zeros(0, 6), torch.tensor(1.0), [None]):
        with pytest.raises(
            TypeError, match=r"inputs must contain a tensor with at least one sample, got .*Pass the arguments of the network's"
        ):
            find_layers(plain(), nothing)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got function"):
        find_layers(lambda x: x, X)


class Counting(nn.Module):
    """Counts its calls in a buffer, in eval mode too, and draws random numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("last", torch.zeros(N))

    def forward(self, x):
        self.calls += 1
        self.last = x[:, 0].detach()
        return x + 0 * torch.rand_like(x)


@pytest.mark.parametrize("fails", [False, True])
def test_it_leaves_no_trace(fails):
    model = blocks_net(Counting)
    before, buffers, generator = state(model), list(model.buffers()), torch.get_rng_state()
    x = normal(N, 7 if fails else 6)
    copy = x.clone()
    if fails:
        with pytest.raises(RuntimeError):
            find_layers(model, x)
    else:
        find_layers(model, x)
    assert_left(model, before)
    assert all(now is then for now, then in zip(model.buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.equal(x, copy)
    assert torch.is_grad_enabled()


def test_a_network_is_looked_at_below_its_wrappers():
    compiled = torch.compile(blocks_net(), backend=lambda graph, inputs: pytest.fail("it was compiled"))
    assert find_layers(compiled, X) == find_layers(nn.DataParallel(blocks_net()), X) == find_layers(blocks_net(), X)


def test_it_prints_in_a_few_lines():
    assert repr(find_layers(resnet(), X)).splitlines() == [
        "4 layers of FCResNet: stem, blocks.0, blocks.1, blocks.2",
        "classifier: head, fed by blocks.2",
        "why: stages that FCResNet declares; classifier head gives the logits",
    ]
    deep = nn.Sequential(*(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(300)))
    lines = repr(find_layers(deep, X)).splitlines()
    assert len(lines) <= 6
    assert max(map(len, lines)) <= 100
    assert "4.1, … (292 more) …, 297.1" in lines[0] + lines[1]
    assert "classifier: none found" in lines

    class Named(nn.Sequential):
        """A class whose name a page must escape."""

    Named.__name__ = "<b>"
    page = find_layers(Named(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, K)), X)._repr_html_()
    assert re.findall(r"<td><code>(.*?)</code></td><td>(.*?)</td>", page) == [("1", "flatten")]
    assert "classifier: 2, fed by 1" in page
    assert "<b>" not in page


COMMON = {"num_classes": K, "metrics": ["pfc1", "nc3"]}


@pytest.mark.parametrize("function", [measure, collect_features])
def test_modules_stand_for_their_names(function):
    model = blocks_net()
    options = {} if function is collect_features else {"metrics": COMMON["metrics"]}
    take = partial(function, model, [(X, Y)], num_classes=K, **options)
    by_name = take(layers=["stem", "blocks.1", Tap("act")], classifier="head")
    by_module = take(layers=[model.stem, model.blocks[1], Tap("act")], classifier=model.head)
    if function is measure:
        assert by_module.rows == by_name.rows
        assert by_module.chosen == by_name.chosen
        assert by_module.layers == ("stem", "blocks.1", "act")
        assert take(layers=model.stem).layers == take(layers="stem").layers == ("stem", "head.input")
        assert take(layers=nn.ModuleList(model.blocks)).layers == ("blocks.0", "blocks.1", "head.input")
        assert take(layers=model.blocks).layers == ("blocks", "head.input"), "a container that runs is a layer"
    else:
        assert list(by_module[0]) == list(by_name[0]) == ["stem", "blocks.1", "act"]


def test_watch_takes_modules():
    model = blocks_net()
    with watch(model, layers=[model.blocks[0]], classifier=model.head, **COMMON) as watched:
        model(X)
        watched.update(Y)
    assert watched.compute().layers == ("blocks.0", "head.input")


@pytest.mark.parametrize("argument", ["layers", "classifier"])
def test_a_module_of_another_network_is_refused(argument):
    model, wanted = blocks_net(), "a module" if argument == "classifier" else "modules"
    with pytest.raises(
        ValueError,
        match=rf"{argument} must be {wanted} inside the network, got a Linear from elsewhere\. Pass a module of "
        r"the same network object, or its name\. Layers available here: stem",
    ):
        measure(model, [(X, Y)], num_classes=K, **{argument: blocks_net().head})
    with pytest.raises(ValueError, match=rf"{argument} must be {wanted} inside the network, got a Sequential"):
        measure(model, [(X, Y)], num_classes=K, **{argument: model})
    with pytest.raises(TypeError, match=rf"{argument} must be given by name or module, got int"):
        measure(model, [(X, Y)], num_classes=K, **{argument: [3] if argument == "layers" else 3})
    with pytest.raises(
        ValueError, match=r"Classifier 'blocks' must give the network's logits as W h \+ b, but blocks is no linear"
    ):
        measure(model, [(X, Y)], num_classes=K, classifier=model.blocks)


def test_a_shared_module_has_one_name():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, K))
    model.alias = model[0]
    model.forward = lambda x: F.softmax(model[2](model[1](model[0](x))), dim=1)
    assert find_layers(model, X).names == ("1",)
    assert measure(model, [(X, Y)], num_classes=K, layers=[model.alias]).layers == ("0", "2.input")


def test_of_several_layers_that_hold_the_classifiers_input_the_last_feeds_it():
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Dropout(), nn.Linear(6, K))
    m = measure(model, [(X, Y)], num_classes=K, layers=["1", "2"])
    assert [layer for layer, statistics in m.statistics.items() if statistics.classifier is not None] == ["2"]
    assert m.layers == ("1", "2")
