"""Networks in wrappers and with modules of unusual kinds: measured as they run, or refused in one sentence."""

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
