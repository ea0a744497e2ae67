"""Networks in wrappers and with modules of unusual kinds: measured as they run, or refused in one sentence."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn

import reference
from ncollapse import measure

K, N, D = 3, 15, 6
X = torch.randn(N, D, generator=torch.Generator().manual_seed(0))
Y = torch.arange(N) % K
BATCHES = [(X[:8], Y[:8]), (X[8:], Y[8:])]


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.stem, self.mid, self.head = nn.Linear(D, 7), nn.Linear(7, 5), nn.Linear(5, K)

    def forward(self, x):
        return self.head(torch.tanh(self.mid(torch.tanh(self.stem(x)))))


def assert_equals_oracle(m, net, x):
    """The features of the last layer, and the logits' choices, from the plain network's own layers in float64."""
    with torch.no_grad():
        rows = net.double().mid(torch.tanh(net.stem(x.double()))).tanh().numpy()
    weight, bias = (part.detach().numpy() for part in (net.head.weight, net.head.bias))
    expected = reference.metrics(rows, Y.numpy(), K, weight, bias)
    assert [m.value(id) for id in ("pfc1", "nc3", "accuracy")] == pytest.approx(
        [expected[id] for id in ("pfc1", "nc3", "accuracy")], rel=1e-4
    )


class Shifted(nn.Module):
    """Shifts its inputs, and hands on what it has no attribute for to the network inside."""

    def __init__(self, inner):
        super().__init__()
        self._orig_mod = inner

    def forward(self, x):
        return self._orig_mod((x - 1.5) / 3)

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("_orig_mod"), name)


class ShiftedParallel(nn.DataParallel):
    def forward(self, x):
        return self.module((x - 1.5) / 3)


class Declaring(Net):
    collapse_stages, collapse_classifier = ("stem", "mid"), "head"


@pytest.mark.parametrize("wrap", [Shifted, ShiftedParallel, lambda net: Shifted(torch.compile(net, backend="eager"))])
@pytest.mark.parametrize("make", [Net, Declaring])
def test_wrappers_that_do_more_than_call_the_network_are_not_skipped(wrap, make):
    assert_equals_oracle(measure(wrap(make()), BATCHES, num_classes=K), Net(), (X - 1.5) / 3)


class Raising(Net):
    """Raises errors of other kinds than expected for attributes that it has not."""

    @property
    def config(self):
        raise RuntimeError("not built yet")

    num_prefix_tokens = padding_idx = collapse_stages = config

    def __getattr__(self, name):
        return self._modules[name]


def test_attributes_that_raise_any_error_are_none():
    assert_equals_oracle(measure(Raising(), BATCHES, num_classes=K), Net(), X)


@pytest.mark.filterwarnings("ignore")  # of the exporter
def test_an_exported_part_is_refused_in_one_sentence():
    net = nn.Sequential(torch.export.export(nn.Linear(D, 7).eval(), (X,)).module(), nn.Linear(7, K))
    with pytest.raises(ValueError, match=r"All modules must take eval mode, but one raised NotImplementedError: .* Exported"):
        measure(net, [(X, Y)], num_classes=K)


def test_an_error_names_the_parameters_that_the_network_changed_before():
    class Adapting(Net):
        def forward(self, x):
            with torch.no_grad():
                self.stem.bias += 1
            raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more") as error:
        measure(Adapting(), BATCHES, num_classes=K)
    assert any("changed parameter 'stem.bias'" in note for note in error.value.__notes__)


class Returning(Net):
    """Returns its logits inside of something."""

    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(super().forward(x), x)


@dataclass
class Output:
    logits: torch.Tensor


@pytest.mark.parametrize("wrap", [lambda z, x: ((z, x), {}), lambda z, x: {"x": x, "out": {"z": z}}, lambda z, x: [Output(z)]])
def test_logits_inside_of_nested_outputs_are_found(wrap):
    assert_equals_oracle(measure(Returning(wrap), BATCHES, num_classes=K), Net(), X)


class Block(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.linear, self.wrap = nn.Linear(7, 7), wrap

    def forward(self, x):
        return self.wrap(x, x + torch.tanh(self.linear(x)))


class Blocks(nn.Module):
    def __init__(self, wrap, pick):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            self.stem, self.blocks, self.head = nn.Linear(D, 7), nn.ModuleList([Block(wrap), Block(wrap)]), nn.Linear(7, K)
        self.pick = pick

    def forward(self, x):
        h = self.stem(x)
        for block in self.blocks:
            h = self.pick(block(h))
        return self.head(h)


@pytest.mark.parametrize(
    ("wrap", "pick"),
    [
        (lambda x, h: (torch.sin(5 * h), h), lambda out: out[1]),
        (lambda x, h: (x, h), lambda out: out[1]),
        (lambda x, h: ((h,), x), lambda out: out[0][0]),
    ],
    ids=["aside", "what it took", "nested"],
)
def test_a_block_is_not_measured_by_a_tensor_that_leads_nowhere(wrap, pick):
    net = Blocks(wrap, pick)
    m = measure(net, BATCHES, num_classes=K)
    assert "blocks.0, blocks.1 left out (the network goes on with another tensor than its first)" in m.chosen
    plain = Blocks(lambda x, h: h, lambda out: out)
    assert m.value("pfc1") == measure(plain, BATCHES, num_classes=K).value("pfc1")
    assert "goes on with another" in measure(net, BATCHES, num_classes=K, layers="blocks.*").chosen


def test_a_tensor_that_a_function_takes_at_once_leads_on_too():
    net = Blocks(lambda x, h: (torch.sin(5 * h), h), lambda out: torch.tanh(out[1]))
    assert "blocks.0, blocks.1 left out (the network goes on with another tensor" in measure(net, BATCHES, num_classes=K).chosen


class OfOneSize(Net):
    """Takes batches of one size only, as an exported network."""

    def forward(self, x):
        return super().forward(x.view(5, D))


def test_a_network_for_batches_of_one_size_is_looked_at_with_a_whole_batch():
    batches = list(zip(X.split(5), Y.split(5), strict=True))
    assert_equals_oracle(measure(OfOneSize(), batches, num_classes=K), Net(), X)
    with pytest.raises(RuntimeError, match="is invalid for input of size 48"):
        measure(OfOneSize(), BATCHES, num_classes=K)


class Ensemble(Net):
    """Runs other networks over stacked parameters, so that modules inside see no batch."""

    def __init__(self):
        super().__init__()
        self.others = nn.ModuleList([nn.Linear(5, 5), nn.Linear(5, 5)])

    def forward(self, x):
        h = torch.tanh(self.mid(torch.tanh(self.stem(x))))
        torch.vmap(self.others[0])(h)
        return self.head(h)


def test_modules_inside_of_vmap_are_no_layers():
    assert_equals_oracle(measure(Ensemble(), BATCHES, num_classes=K), Net(), X)


class AsImages(torch.Tensor):
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        plain = all(issubclass(kind, cls) or kind in {torch.Tensor, nn.Parameter} for kind in types)
        return super().__torch_function__(function, types, args, kwargs or {}) if plain else NotImplemented


class AsLabels(AsImages):
    pass


class FromSparse(Net):
    def forward(self, x):
        return super().forward(x if x.layout == torch.strided else x.to_dense())


@pytest.mark.parametrize("kind", ["classes", "coo", "csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_inputs_and_labels_of_other_kinds(kind):
    change = {"classes": lambda x: x.as_subclass(AsImages), "coo": torch.Tensor.to_sparse, "csr": torch.Tensor.to_sparse_csr}
    batches = [(change[kind](x), y.as_subclass(AsLabels) if kind == "classes" else y) for x, y in BATCHES]
    assert_equals_oracle(measure(FromSparse(), batches, num_classes=K), Net(), X)


class Padding(nn.Module):
    """Averages the tokens of nested tensors."""

    def __init__(self):
        super().__init__()
        self.net = Net()

    def forward(self, x):
        return self.net(torch.nested.to_padded_tensor(x, 0.0).mean(dim=1))


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
@pytest.mark.filterwarnings("ignore:.*nested")
def test_nested_inputs(layout):
    samples = [torch.stack([row] * (1 + i % 3)) for i, row in enumerate(X)]
    batches = [
        (torch.nested.nested_tensor(samples[a:b], layout=layout), Y[a:b]) for a, b in [(0, 8), (8, 15)]
    ]  # fmt: skip
    padded = torch.cat([torch.nested.to_padded_tensor(x, 0.0).mean(dim=1) for x, _ in batches])
    assert_equals_oracle(measure(Padding(), batches, num_classes=K), Net(), padded)
