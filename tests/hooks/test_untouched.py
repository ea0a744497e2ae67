"""No trace: what modules do in train, eval and forward, against copies of everything taken before."""

import copy
import random
import threading
import warnings
from collections import defaultdict

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.data import DataLoader, TensorDataset

from ncollapse.hooks import untouched
from ncollapse.hooks.batch_io import Arguments
from ncollapse.probe import collect_features, find_layers, measure, measure_features, watch
from ncollapse.probe.layer_batch import LayerBatch

K, D = 3, 6
X = torch.randn(24, D, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % K
BATCHES = [(X[:8], Y[:8]), (X[8:16], Y[8:16]), (X[16:], Y[16:])]


class Lora(nn.Linear):
    """Merges its update into the weight in eval mode and takes it out again, as loralib does: not to the bit."""

    def __init__(self, width=D):
        super().__init__(width, width)
        self.a, self.b, self.merged = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.randn(width, 2)), False
        self.weight.requires_grad_(False)

    def train(self, mode=True):
        super().train(mode)
        if mode == self.merged:
            self.weight.data += (-1 if mode else 1) * 0.37 * self.b @ self.a
            self.merged = not mode

    def forward(self, x):
        plain = super().forward(x)
        return plain if self.merged else plain + 0.37 * x @ (self.b @ self.a).T


class Counter(nn.Module):
    """Counts and averages in buffers, in eval mode too, and shifts its input by the average."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("average", torch.zeros(D))

    def forward(self, x):
        self.calls += 1
        self.average.mul_(0.9).add_(0.1 * x.detach().mean(0))
        self.last = x.detach()
        return x + self.average


class Resizes(nn.Module):
    """As observers of quantization do: a buffer gets its shape in the first forward; another one is replaced."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.zeros(0))
        self.register_buffer("high", torch.zeros(D))

    def forward(self, x):
        with torch.no_grad():
            self.low.resize_(D).copy_(x.amin(0))
        self.high = x.amax(0).detach()
        return x


class Cache(nn.Linear):
    """Computes its weight once in eval mode, and forgets it in train mode only."""

    cached = None

    def train(self, mode=True):
        if mode:
            self.cached = None
        return super().train(mode)

    def forward(self, x):
        if self.training:
            return x @ self.weight.tanh().T
        if self.cached is None:
            self.cached = self.weight.tanh()
        return x @ self.cached.T


class Engine:
    """What a module turns on for eval mode, such as a fused kernel: no attribute of a module."""

    on = False


class Fused(nn.Linear):
    def __init__(self):
        super().__init__(D, D)
        self.engine = Engine()

    def train(self, mode=True):
        self.engine.on = not mode
        return super().train(mode)

    def forward(self, x):
        assert self.engine.on != self.training
        return super().forward(x)


class Scripted(nn.Module):
    """Counts in a buffer of a scripted module, which is no attribute in Python."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x + 0.01 * self.calls


def scripted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return around(torch.jit.script(Scripted()))


class CachesRows(nn.Module):
    """Keeps the rows of its first call in eval mode, in a dictionary."""

    def __init__(self, memory=dict):
        super().__init__()
        self.memory = memory()

    def forward(self, x):
        if self.training:
            return x
        return x + 0 * self.memory.setdefault(len(x), x).sum()


class Freezes(nn.Sequential):
    """Keeps its first part in eval mode and without gradients, whatever the mode."""

    def train(self, mode=True):
        super().train(mode)
        self[0].eval()
        self[0].requires_grad_(False)
        return self


class Renews(nn.Module):
    """Registers a hook, replaces its own weight's memory, and sets gradients: all of it can be undone."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(D))

    def forward(self, x):
        if not self.training:
            self.register_forward_hook(lambda *_: None)
            self.weight.data = self.weight.data * 2
            self.weight.grad = torch.ones(D)
            self.weight.requires_grad_(False)
        return x * self.weight


class Sparse(nn.Module):
    """Its weight has no memory of its own."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(D).to_sparse())

    def forward(self, x):
        return torch.sparse.mm(self.weight, x.T).T


class Draws(nn.Module):
    def forward(self, x):
        random.random(), np.random.rand()
        return x + 0.0 * torch.rand_like(x)


def quantized():
    model = nn.Sequential(nn.Linear(D, D), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), nn.Linear(D, K)).train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.qconfig = torch.ao.quantization.get_default_qat_qconfig("fbgemm")
        return torch.ao.quantization.prepare_qat(model)


def old_norm(norm):
    return nn.Sequential(norm(nn.Linear(D, D)), nn.ReLU(), nn.Linear(D, D), nn.ReLU(), norm(nn.Linear(D, K)))


def around(middle):
    return nn.Sequential(nn.Linear(D, D), nn.ReLU(), middle, nn.Linear(D, D), nn.ReLU(), nn.Linear(D, K))


class Words(nn.Module):
    """An embedding that bounds the norms of the rows that it reads, in place."""

    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(9, D, max_norm=0.5), nn.Linear(D, K)

    def forward(self, x):
        return self.head(torch.tanh(self.embed((x[:, 0].abs() * 3).long().clamp(max=8))))


def mixed_modes():
    model = around(Lora())
    model[0].eval()
    return model


def merged_and_frozen():
    model = around(Lora())
    model[2].eval()
    return model


MAKE = {
    "lora": lambda: around(Lora()),
    "lora in eval mode": lambda: around(Lora()).eval(),
    "lora, merged alone": merged_and_frozen,
    "mixed modes": mixed_modes,
    "counter": lambda: around(Counter()),
    "resized": lambda: around(Resizes()),
    "cache": lambda: around(Cache(D, D)),
    "cached rows": lambda: around(CachesRows()),
    "cached rows by default": lambda: around(CachesRows(lambda: defaultdict(list))),
    "frozen part": lambda: Freezes(nn.Sequential(nn.Linear(D, D), Lora()), nn.ReLU(), nn.Linear(D, K)),
    "renewed": lambda: around(Renews()),
    "sparse": lambda: around(Sparse()),
    "fused": lambda: around(Fused()),
    "scripted": scripted,
    "draws": lambda: around(Draws()),
    "quantization": quantized,
    "spectral": lambda: old_norm(parametrizations.spectral_norm),
    "old spectral": lambda: old_norm(nn.utils.spectral_norm),
    "weight norm": lambda: old_norm(parametrizations.weight_norm),
    "bounded embedding": Words,
}


def made(name):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = MAKE[name]()
        # The statistics and gradients of a step that the user took.
        if not isinstance(model, Words) and model.training:
            model(X).sum().backward()
        return model


def everything(model):
    """Copies of all that a network and the random states consist of, without the library's own digests."""
    parameters = dict(model.named_parameters())
    return {
        "values": {name: tensor.detach().clone() for name, tensor in (*parameters.items(), *model.named_buffers())},
        "memory": {name: tensor.data_ptr() for name, tensor in parameters.items() if not tensor.is_sparse},
        "grads": {name: None if p.grad is None else p.grad.clone() for name, p in parameters.items()},
        "flags": {name: p.requires_grad for name, p in parameters.items()},
        "modes": [module.training for module in model.modules()],
        "hooks": [[*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks] for m in model.modules()],
        "merged": [getattr(module, "merged", None) for module in model.modules()],
        "engines": [module.engine.on for module in model.modules() if isinstance(module, Fused)],
        "caches": [copy.copy(getattr(module, "memory", getattr(module, "cached", None))) for module in model.modules()],
        "names": [sorted(vars(module)) for module in model.modules()],
        "random": [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64)), random.getstate()],
    }


def same(a, b):
    if isinstance(a, torch.Tensor) and a.is_sparse:
        return same(a.to_dense(), b.to_dense())
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def watched(model):
    """A look at the network as before the first watched call, and the reading of its classifier."""
    with watch(model, num_classes=K) as found:
        found._plans = found._find_layers(Arguments((X,), {}))
        found._totals.add(LayerBatch({"a": X}, Y))
        found.compute()


CALLS = {
    "measure": lambda model: measure(model, BATCHES, num_classes=K),
    "two passes": lambda model: measure(model, BATCHES, num_classes=K, memory_budget=0),
    "collect_features": lambda model: collect_features(model, BATCHES, num_classes=K),
    "find_layers": lambda model: find_layers(model, X),
    "watch": watched,
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("name", MAKE)
def test_everything_is_as_before_to_the_bit(name, call):
    model = made(name)
    before = everything(model)
    CALLS[call](model)
    now = everything(model)
    assert [key for key in before if not same(before[key], now[key])] == []


@pytest.mark.parametrize("name", MAKE)
def test_an_error_leaves_nothing_either(name):
    model = made(name)
    before = everything(model)
    with pytest.raises((RuntimeError, ValueError, IndexError)):
        measure(model, [*BATCHES, (X[:, :2] * torch.nan, Y)], num_classes=K)
    now = everything(model)
    assert [key for key in before if not same(before[key], now[key])] == []


def by_hooks(model, layer, batches=BATCHES):
    """Rows that plain hooks see of a copy in eval mode, batch by batch."""
    model, seen = copy.deepcopy(model), []
    model.eval()
    model.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        for inputs, _ in batches:
            model(inputs)
    return torch.cat(seen)


@pytest.mark.parametrize("budget", [None, 0])
@pytest.mark.parametrize("name", ["lora", "lora, merged alone", "counter", "cache", "cached rows", "quantization", "spectral"])
def test_features_are_those_of_a_copy_in_eval_mode(name, budget):
    """Neither the look nor the first pass is seen in the numbers, though a counter moves with every batch."""
    model = made(name)
    layer = "3" if name != "quantization" else "2"
    m = measure(model, BATCHES, num_classes=K, layers=[layer] if len(model) > 5 else ["2"], memory_budget=budget)
    rows = by_hooks(model, m.layers[0])
    expected = measure_features({m.layers[0]: rows}, Y, num_classes=K)
    for metric in ("pfc1", "pfc2", "nc1", "cdnv", "pfc3"):
        assert m.value(metric, m.layers[0]) == pytest.approx(expected.value(metric), rel=1e-9), metric


def test_caches_are_fresh_at_every_measurement():
    model = made("cache").eval()
    for _ in range(3):
        m = measure(model, BATCHES, num_classes=K, layers=["2"])
        expected = measure_features({"2": by_hooks(model, "2")}, Y, num_classes=K)
        assert m.value("pfc1", "2") == pytest.approx(expected.value("pfc1"), rel=1e-9)
        with torch.no_grad():
            model[2].weight.mul_(0.3).add_(torch.eye(D))


def test_a_lora_training_goes_on_as_without_a_measurement():
    def trained(measured):
        model = made("lora")
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
        for inputs, labels in BATCHES * 2:
            if measured:
                measure(model, BATCHES, num_classes=K)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), labels).backward()
            assert model[2].a.grad is not None
            optimizer.step()
        return everything(model)

    assert same(trained(False)["values"], trained(True)["values"])


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, nn.utils.spectral_norm, parametrizations.weight_norm])
def test_reading_the_classifier_in_watch_moves_nothing(norm):
    def trained(measured):
        torch.manual_seed(0)
        model = old_norm(norm)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        with watch(model, num_classes=K) as found:
            for inputs, labels in BATCHES * 2:
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(inputs), labels).backward()
                found.update(labels)
                if measured:
                    found.compute()
                optimizer.step()
        return everything(model)

    assert same(trained(False)["values"], trained(True)["values"])


class Writes(nn.Module):
    """Writes to its parameter, or to its gradient, in eval mode."""

    def __init__(self, what, silently):
        super().__init__()
        self.weight, self.what, self.silently = nn.Parameter(torch.ones(D)), what, silently
        self.weight.grad = torch.zeros(D)

    def forward(self, x):
        if not self.training:
            tensor = self.weight if self.what == "parameter" else self.weight.grad
            with torch.no_grad():
                (tensor.data if self.silently else tensor).mul_(1.01).add_(1e-3)
        return x * self.weight.detach()


@pytest.mark.parametrize("what", ["parameter", "gradient"])
@pytest.mark.parametrize("call", ["measure", "collect_features", "find_layers", "watch"])
def test_what_cannot_be_restored_is_an_error_that_names_it(what, call, monkeypatch):
    monkeypatch.setattr(untouched, "ALWAYS_CHECKED", False)
    named = "parameter '2.weight'" if what == "parameter" else "the gradient of '2.weight'"
    with pytest.raises(ValueError, match=f"The network must stay as it was, but its forward in eval mode changed {named}"):
        CALLS[call](around(Writes(what, silently=False)))


@pytest.mark.parametrize("what", ["parameter", "gradient"])
def test_a_write_behind_the_counters_is_seen_by_check(what, monkeypatch):
    monkeypatch.setattr(untouched, "ALWAYS_CHECKED", False)
    model = around(Writes(what, silently=True))
    CALLS["measure"](model)
    for function in (measure, collect_features):
        with pytest.raises(ValueError, match=f"changed .*{what}.* (of )?'2.weight'"):
            function(model, BATCHES, num_classes=K, check=True)
    with pytest.raises(ValueError, match=f"changed .*{what}.* (of )?'2.weight'"), watch(model, num_classes=K, check=True):
        model(X)


def test_a_digest_names_random_states_hooks_and_attributes():
    model = around(nn.Identity())
    before = untouched.fingerprint(model)
    torch.rand(1), np.random.rand(), random.random()
    model[2].register_forward_hook(lambda *_: None)
    model[0].eval()
    model[2].extra = object()
    changed = untouched.differing(before, untouched.fingerprint(model))
    assert set(changed) == {
        "PyTorch's random state", "NumPy's random state", "Python's random state", "the mode of module '0'",
        "attribute '_forward_hooks' of module '2'", "attribute 'extra' of module '2'",
    }  # fmt: skip


def test_generators_of_a_loader_stay():
    generator = torch.Generator().manual_seed(5)
    loader = DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True, generator=generator)
    before = generator.get_state()
    measure(made("counter"), loader, num_classes=K)
    assert torch.equal(generator.get_state(), before)


def test_lazy_modules_are_run_first():
    model = nn.Sequential(nn.LazyLinear(4), nn.ReLU(), nn.Linear(4, K))
    with pytest.raises(ValueError, match=r"got 2 of lazy modules, the first '0\.weight'\. Run the network on one batch first"):
        measure(model, BATCHES, num_classes=K)
    model(X)
    assert measure(model, BATCHES, num_classes=K).layers == ("1",)


def test_a_network_is_measured_once_at_a_time():
    """Also a part of it, and by the same thread: refused with a reason, and neither measurement leaves a trace."""
    model, refused = made("counter"), []
    before, expected = untouched.fingerprint(model), measure(made("counter"), BATCHES, num_classes=K)

    def batches(measured, start):
        for index, batch in enumerate(BATCHES):
            if index == 1:
                start(lambda: refused.append(attempt(measured)))
            yield batch

    def attempt(measured):
        with pytest.raises(ValueError, match="A network must be measured once at a time") as caught:
            measure(measured, BATCHES, num_classes=K)
        return str(caught.value)

    def in_thread(act):
        thread = threading.Thread(target=act)
        thread.start()
        thread.join()

    for measured in (model, nn.Sequential(model[0])):
        for start in (in_thread, lambda act: act()):
            found = measure(model, Batches(batches, measured, start), num_classes=K)
            assert [row.value for row in found.rows] == pytest.approx([row.value for row in expected.rows], nan_ok=True)
    assert untouched.differing(before, untouched.fingerprint(model)) == []
    assert ["another thread (MainThread)" in words for words in refused[:2]] == [True, False]
    assert "this thread is measuring this one or a part of it. Wait for its end, or measure a copy" in refused[-1]
    measure(model, BATCHES, num_classes=K)


class Batches:
    """Batches that can be read again."""

    def __init__(self, make, *arguments):
        self.make, self.arguments = make, arguments

    def __iter__(self):
        return self.make(*self.arguments)


class OwnNoise(nn.Module):
    """Adds noise from a generator of its own, in eval mode too, or an average that it keeps in a NumPy array."""

    def __init__(self, source):
        super().__init__()
        self.body, self.head, self.held = nn.Linear(D, D), nn.Linear(D, K), {"sources": [source]}

    def forward(self, x):
        h, source = self.body(x), self.held["sources"][0]
        if isinstance(source, np.ndarray):
            source *= 0.9
            source += h.detach().mean(dim=0).numpy()
            noise = torch.as_tensor(source).float()
        elif isinstance(source, torch.Generator):
            noise = torch.randn(h.shape, generator=source)
        else:
            noise = torch.tensor([source.normalvariate(0, 1) if isinstance(source, random.Random) else source.normal()])
        return self.head(torch.relu(h + 0.1 * noise))


def state_of_source(source):
    if isinstance(source, np.ndarray):
        return source.tolist()
    if isinstance(source, torch.Generator):
        return source.get_state().tolist()
    if isinstance(source, random.Random):
        return source.getstate()
    return repr(source.get_state(legacy=False) if isinstance(source, np.random.RandomState) else source.bit_generator.state)


SOURCES = {
    "torch": lambda: torch.Generator().manual_seed(4),
    "numpy": lambda: np.random.default_rng(4),
    "old numpy": lambda: np.random.RandomState(4),
    "python": lambda: random.Random(4),
    "array": lambda: np.ones(D),
}


@pytest.mark.parametrize("source", SOURCES)
def test_generators_and_arrays_of_the_networks_own(source):
    net, plain = OwnNoise(SOURCES[source]()), OwnNoise(SOURCES[source]())
    plain.load_state_dict(net.state_dict())
    before = state_of_source(net.held["sources"][0])
    first = measure(net, BATCHES, num_classes=K, check=True)
    assert state_of_source(net.held["sources"][0]) == before
    assert repr(measure(net, BATCHES, num_classes=K, memory_budget=0).rows[0]) == repr(first.rows[0])
    with watch(net, num_classes=K) as watching:
        for x, y in BATCHES:
            assert torch.equal(net(x), plain(x))
            watching.update(y)
    assert state_of_source(net.held["sources"][0]) == state_of_source(plain.held["sources"][0])
