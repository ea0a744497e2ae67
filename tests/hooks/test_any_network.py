"""Networks in every state: compiled, frozen, in half precision, with outputs of any form; left as they were, also by errors."""

import itertools
from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import reference
from ncollapse import Tap, collect_features, measure

K, N = 3, 15
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % K
BATCHES = [(X[:8], Y[:8]), (X[8:], Y[8:])]
Pair = namedtuple("Pair", "index hidden")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU(inplace=True))

    def forward(self, x):
        return x + self.branch(x)


def net(last=nn.Identity):
    """Blocks with batch normalization, dropout, an activation in place behind the last one; in training mode."""
    model = nn.Sequential(
        OrderedDict(
            stem=nn.Linear(6, 7), blocks=nn.Sequential(Block(7), Block(7)), act=nn.ReLU(inplace=True), drop=nn.Dropout(0.5),
            last=last(), head=nn.Linear(7, K),
        )
    )  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    for tensor in (*model.parameters(), *(buffer for buffer in model.buffers() if buffer.is_floating_point())):
        tensor.data.copy_(torch.rand(tensor.shape, generator=generator) + 0.1 - 0.6 * tensor.requires_grad)
    return model.train()


LAYERS = ("stem", "blocks.0", "blocks.1", "act")


def oracle(model, metric="pfc1"):
    """The metric at each layer from outputs that plain hooks clone, run in eval mode on all samples at once."""
    found = {}
    for name in LAYERS:
        model.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: found.update({name: reference.rows_of(out.clone())})
        )
    with torch.no_grad():
        model.eval()(X.to(model.head.weight.dtype))
    return [reference.feature_metrics(H, Y.numpy(), K)[metric] for H in found.values()]


def state(model):
    modules = list(model.named_modules())
    return (
        [(name, module.training, len(module._forward_hooks), len(module._forward_pre_hooks)) for name, module in modules],
        {name: tensor.clone() for name, tensor in model.state_dict().items()},
        [parameter.requires_grad for parameter in model.parameters()],
    )  # fmt: skip


def assert_left(model, before):
    now = state(model)
    assert (now[0], now[2]) == (before[0], before[2])
    assert all(torch.equal(now[1][name], tensor) for name, tensor in before[1].items())
    assert all(parameter.grad is None for parameter in model.parameters())


def frozen():
    return net().requires_grad_(False)


def made_in_inference_mode():
    with torch.inference_mode():
        return net()


@pytest.mark.parametrize("make", [net, frozen, made_in_inference_mode, lambda: net().double(), lambda: net().bfloat16()])
@pytest.mark.parametrize("budget", [None, 0])
def test_every_state_gives_the_oracles_table_and_is_left(make, budget):
    model = make()
    before = state(model)
    m = measure(model, [(x.to(model.head.weight.dtype), y) for x, y in BATCHES], num_classes=K, memory_budget=budget)
    assert m.layers == LAYERS
    assert_left(model, before)
    # In bfloat16 batches of other sizes may round otherwise.
    rel = 0.1 if model.head.weight.dtype == torch.bfloat16 else 1e-5
    assert [m.value("pfc1", layer) for layer in LAYERS] == pytest.approx(oracle(make()), rel=rel)


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_callers_gradient_mode_does_not_matter_and_stays(mode):
    with mode():
        before = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        m = measure(net(), BATCHES, num_classes=K)
        assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before
    assert [m.value("pfc1", layer) for layer in LAYERS] == pytest.approx(oracle(net()), rel=1e-5)


@pytest.mark.parametrize("budget", [None, 0])
def test_a_network_that_runs_in_inference_mode_now_and_then(budget):
    model, calls = net(), itertools.count()
    plain = model.forward

    def forward(x):
        with torch.inference_mode(next(calls) % 2 == 1):
            return plain(x)

    model.forward = forward
    m = measure(model, BATCHES, num_classes=K, memory_budget=budget)
    assert [m.value("pfc1", layer) for layer in LAYERS] == pytest.approx(oracle(net()), rel=1e-5)


class OneBuffer(nn.Linear):
    """Writes its output into one buffer again and again."""

    def forward(self, x):
        self.buffer = torch.empty(64, self.out_features) if not hasattr(self, "buffer") else self.buffer
        with torch.no_grad():
            return torch.addmm(self.bias, x, self.weight.T, out=self.buffer[: len(x)])


@pytest.mark.parametrize("path", [False, True])
def test_a_network_and_a_loader_that_write_into_the_same_memory_again(path):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, K))
    model = nn.Sequential(OneBuffer(6, 8), nn.ReLU(), OneBuffer(8, 8), nn.ReLU(), nn.Linear(8, K))
    model.load_state_dict(plain.state_dict())
    x, y = torch.cat([x for x, _ in BATCHES]), torch.cat([y for _, y in BATCHES])
    size = len(y) // 3

    def same_memory():
        inputs, labels = torch.empty(size, x.shape[1]), torch.empty(size, dtype=torch.long)
        for i in range(0, 3 * size, size):
            yield inputs.copy_(x[i : i + size]), labels.copy_(y[i : i + size])

    layers = ["0", "2"]
    m = measure(model, same_memory(), num_classes=K, layers=layers, path=path)
    expected = measure(plain, [(x[: 3 * size], y[: 3 * size])], num_classes=K, layers=layers, path=path)
    assert m.passes == 1
    for row, other in zip(m.rows, expected.rows, strict=True):
        assert row.value == pytest.approx(other.value, rel=1e-4, abs=1e-6, nan_ok=True), row
    if path:
        assert torch.allclose(m.path.step_energy, expected.path.step_energy, rtol=1e-5)


def whole(model, backend):
    return torch.compile(model, backend=backend)


def in_place(model, backend):
    model.compile(backend=backend)
    return model


def one_block(model, backend):
    model.blocks[1].compile(backend=backend)
    return model


@pytest.mark.parametrize("compiled", [whole, in_place, one_block])
@pytest.mark.parametrize("used", [False, True])
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compiled_networks_give_the_same_table_and_are_not_compiled_anew(compiled, used):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    model = compiled(net().eval(), backend)
    if used:  # there is compiled code, without hooks
        with torch.no_grad():
            model(X)
    assert bool(graphs) == used
    num_graphs = len(graphs)
    m = measure(model, BATCHES, num_classes=K)
    assert len(graphs) == num_graphs
    assert m.layers == LAYERS
    assert [m.value("pfc1", layer) for layer in LAYERS] == pytest.approx(oracle(net()), rel=1e-5)


def test_a_network_in_data_parallel_is_measured_itself():
    m = measure(nn.DataParallel(net()), BATCHES, num_classes=K)
    assert m.layers == LAYERS
    assert measure(nn.DataParallel(net()), BATCHES, num_classes=K, layers=["module.stem", "act"]).layers == ("stem", "act")
    assert [m.value("pfc1", layer) for layer in LAYERS] == pytest.approx(oracle(net()), rel=1e-5)


@dataclass
class Record:
    hidden: torch.Tensor


class Returns(nn.Module):
    def __init__(self, wrap, pick):
        super().__init__()
        self.inner, self.head, self.wrap, self.pick = _Wrapping(wrap), nn.Linear(6, K), wrap, pick

    def forward(self, x):
        return self.head(self.pick(self.inner(x)))


class _Wrapping(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(2 * x)


@pytest.mark.parametrize(
    ("wrap", "pick"),
    [
        (lambda h: (h, None), lambda out: out[0]),
        (lambda h: [h.argmax(1), h], lambda out: out[1]),
        (lambda h: Pair(h.argmax(1), h), lambda out: out.hidden),
        (lambda h: {"loss": h.sum(), "last_hidden_state": h, "pooled": h[:, :2]}, lambda out: out["last_hidden_state"]),
        (lambda h: OrderedDict(hidden=h[:, :2], logits=h), lambda out: out["logits"]),
        (Record, lambda out: out.hidden),
        (lambda h: [{"deep": (h,)}], lambda out: out[0]["deep"][0]),
    ],
)
def test_features_are_taken_out_of_what_a_module_returns(wrap, pick):
    m = measure(Returns(wrap, pick), BATCHES, num_classes=K, layers=["inner"])
    expected = reference.means(2 * reference.rows_of(X), Y.numpy(), K)
    assert m.statistics["inner"].moments.means.numpy() == pytest.approx(expected, rel=1e-12)
    assert m.layers == ("inner",), "and it is known that they feed the head"


def test_a_module_that_returns_an_object_is_named():
    with pytest.raises(
        TypeError, match=r"Layer 'inner' must return a floating-point tensor .* got SimpleNamespace\. Tap a module inside"
    ):
        measure(Returns(lambda h: SimpleNamespace(hidden=h), lambda out: out.hidden), BATCHES, num_classes=K, layers="inner")


class Fails(nn.Module):
    def __init__(self, error, at):
        super().__init__()
        self.error, self.left = error, at

    def forward(self, x):
        self.left -= 1
        if self.left < 0:
            raise self.error
        return x


@pytest.mark.parametrize("error", [RuntimeError("out of memory"), KeyboardInterrupt(), GeneratorExit()])
@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("function", [measure, collect_features])
def test_an_error_in_the_network_leaves_it_as_it_was(error, at, function):
    model = net(lambda: Fails(error, at))
    before = state(model)
    with pytest.raises(type(error)):
        function(model, BATCHES, num_classes=K)
    assert model.last.left <= -1, "it failed where it should"
    assert_left(model, before)


@pytest.mark.parametrize("bad", [(X[:3], Y[:3] + K), (X[:3, :2], Y[:3]), "batch", (X[:3] * torch.nan, Y[:3])])
def test_a_bad_batch_leaves_the_network_as_it_was(bad):
    model = net()
    before = state(model)
    with pytest.raises((ValueError, TypeError, RuntimeError)):
        measure(model, [*BATCHES, bad], num_classes=K)
    assert_left(model, before)


def test_a_consumer_that_stops_in_the_middle_leaves_the_network_as_it_was():
    model = net()
    before = state(model)

    def stop(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure(model, BATCHES, num_classes=K, progress=stop)
    assert_left(model, before)


@pytest.mark.parametrize(
    ("part", "first"),
    [("blocks", r"blocks\.0\.branch\.0\.weight"), ("head", r"head\.weight"), ("buffer", r"blocks\.0\.branch\.1\.running_mean")],
)
def test_parameters_and_buffers_without_values_are_named(part, first):
    model = net()
    if part == "buffer":
        model.blocks[0].branch[1].running_mean = torch.zeros(7, device="meta")
    else:
        model.get_submodule(part).to("meta")
    with pytest.raises(
        ValueError, match=rf"must have values, got \d+ on the meta device, the first '{first}'\. Load the weights"
    ):
        measure(model, BATCHES, num_classes=K)


def test_a_tap_that_pools_pixels_is_a_layer_of_that_width():
    maps = torch.randn(N, 2, 3, 4, generator=torch.Generator().manual_seed(5))
    model = nn.Sequential(nn.Conv2d(2, 5, 1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(60, K))
    m = measure(model, [(maps, Y)], num_classes=K, layers=[Tap("0", "mean"), Tap("1", "mean")])
    with torch.no_grad():
        H = model[0](maps).double().numpy().mean(axis=(2, 3))
    assert m.value("pfc1", "0:mean") == pytest.approx(reference.feature_metrics(H, Y.numpy(), K)["pfc1"], rel=1e-5)
    assert m.layers == ("0:mean", "1:mean", "3.input")


class Normed(nn.Module):
    """Normalizes by the batch in eval mode too."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(7, track_running_stats=False)

    def forward(self, h):
        return self.norm(h)


class Centered(nn.Module):
    def forward(self, h):
        return h - h.mean(dim=0)


class AcrossSamples(nn.Module):
    """Attention over the samples of a batch."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(7, 1)

    def forward(self, h):
        return h + self.attention(h, h, h)[0]


class Experts(nn.Module):
    """Each expert gets samples of its own: those that a gate sends there, or half of the batch in order of a score."""

    def __init__(self, by_gate):
        super().__init__()
        self.gate, self.by_gate = nn.Linear(7, 2), by_gate
        self.experts = nn.ModuleList([nn.Linear(7, 7), nn.Linear(7, 7)])

    def forward(self, h):
        scores = self.gate(h)
        chosen = scores.argmax(dim=1) if self.by_gate else (scores[:, 0].argsort().argsort() >= len(h) // 2).long()
        out = torch.zeros_like(h)
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().flatten()
            if len(rows):
                out = out.index_add(0, rows, expert(h[rows]))
        return out


class Mixing(nn.Module):
    def __init__(self, mix):
        super().__init__()
        self.body, self.mix, self.head = nn.Sequential(nn.Linear(6, 7), nn.Tanh()), mix, nn.Linear(7, K)

    def forward(self, x):
        return self.head(torch.tanh(self.mix(self.body(x))))


MIXING = {
    "normed by the batch": Normed,
    "centered by the batch": Centered,
    "attention over samples": AcrossSamples,
    "experts by a gate": lambda: Experts(True),
    "experts of half a batch": lambda: Experts(False),
}


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("kind", MIXING)
def test_samples_that_depend_on_their_batch_are_those_of_the_users_batches(kind, budget):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = Mixing(MIXING[kind]()).double()
    batches = [(x.double(), y) for x, y in BATCHES]
    m = measure(model, batches, num_classes=K, memory_budget=budget)
    assert m.layers[-1] == "head.input"
    assert not any("experts" in layer for layer in m.layers)
    with torch.no_grad():
        rows = torch.cat([torch.tanh(model.mix(model.body(x))) for x, _ in batches])
        decided = model.head(rows).argmax(dim=1)
    weight, bias = (part.detach().numpy() for part in (model.head.weight, model.head.bias))
    expected = reference.metrics(rows.numpy(), Y.numpy(), K, weight, bias)
    for metric in ("pfc1", "pfc2", "nc3", "nc4"):
        assert m.value(metric) == pytest.approx(expected[metric], rel=1e-9), metric
    assert m.value("accuracy") == float((decided == Y).double().mean())
