"""Modules with several names, and modules in which hooks do not run: scripted, traced, exported."""

import pytest
import torch
from torch import nn

import reference
from hooks.test_designs import normal
from hooks.test_tapped_network import seeded
from ncollapse import collect_features, find_layers, measure, watch

K, N = 3, 12
X, Y = normal(N, 6), torch.arange(N) % K


class Named(nn.Module):
    """Its encoder and its head have a second name."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 7), nn.Tanh(), nn.Linear(7, 5), nn.Tanh())
        self.head = nn.Linear(5, K)
        self.enc, self.fc = self.encoder, self.head
        self.stages = nn.ModuleList([self.encoder[1], self.encoder[3]])

    def forward(self, x):
        return self.fc(self.enc(x))


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ("enc", ["encoder"]),
        ("enc.1", ["encoder.1"]),
        (["enc.1", "encoder.1"], ["encoder.1"]),
        ("stages.*", ["encoder.1", "encoder.3"]),
        ("enc.2.input", ["encoder.2.input"]),
        ("stages.0", ["encoder.1"]),
    ],
)
@pytest.mark.parametrize("head", ["head", "fc"])
def test_every_name_of_a_shared_module_is_known(layers, found, head):
    model = seeded(Named())
    m = measure(model, [(X, Y)], num_classes=K, layers=layers, classifier=head)
    by_first_name = measure(model, [(X, Y)], num_classes=K, layers=found, classifier="head")
    assert m.layers == by_first_name.layers
    assert m.layers[: len(found)] == tuple(found)
    assert m.rows == by_first_name.rows


def test_an_unknown_name_is_still_an_error_that_lists_each_module_once():
    with pytest.raises(ValueError, match=r"got 'encodr'\. Near: .*available here: encoder, encoder\.0") as caught:
        measure(Named(), [(X, Y)], num_classes=K, layers="encodr")
    assert "stages.0" not in str(caught.value)


def traced(module):
    return torch.jit.trace(module.eval(), torch.zeros(2, 6))


@pytest.mark.parametrize("compiled", [torch.jit.script, traced])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_scripted_parts_are_left_out_and_named(compiled, training):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act = nn.Linear(6, 6), nn.Tanh()
            self.fast = compiled(nn.Sequential(nn.Linear(6, 6), nn.Tanh()))
            self.last, self.head = nn.Linear(6, 5), nn.Linear(5, K)

        def forward(self, x):
            return self.head(torch.tanh(self.last(self.fast(self.act(self.first(x))))))

    model = seeded(Partly()).train(training)
    m = measure(model, [(X, Y)], num_classes=K)
    assert m.layers == ("last.input", "head.input")
    assert "fast left out (scripted)" in m.chosen
    assert find_layers(model, X).left_out == {"fast": "scripted"}
    assert all(module.training == training for module in model.modules())
    model.eval()
    with torch.no_grad():
        act = torch.tanh(model.first(X))
        fast = torch.tanh(nn.functional.linear(act, *list(model.fast.parameters())))
        states = [fast, torch.tanh(model.last(fast))]
    for layer, state in zip(m.layers, states, strict=True):
        expected = reference.feature_metrics(state.double().numpy(), Y.numpy(), K)["pfc1"]
        assert m.value("pfc1", layer) == pytest.approx(expected, rel=1e-4)
    features, _ = collect_features(model, [(X, Y)], num_classes=K, layers=["last.input"])
    assert torch.allclose(features["last.input"], fast, atol=1e-6)
    for name in ("fast", "fast.0"):
        with pytest.raises(
            ValueError, match=r"must be eager, but 'fast' is scripted, so that hooks do not run\. Pass the eager module"
        ):
            measure(model, [(X, Y)], num_classes=K, layers=name)


def exported(module):
    return torch.export.export(module.eval(), (torch.zeros(2, 6),), dynamic_shapes=({0: torch.export.Dim("n", min=1)},))


@pytest.mark.parametrize(
    "compiled",
    [torch.jit.script, traced, exported, lambda module: exported(module).module()],
    ids=["script", "trace", "export", "graph"],
)
@pytest.mark.filterwarnings("ignore")  # of deprecated compilers
def test_scripted_networks_are_refused_in_one_sentence(compiled):
    model = compiled(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, K)))
    for function in (
        lambda: measure(model, [(X, Y)], num_classes=K),
        lambda: find_layers(model, X),
        lambda: watch(model, num_classes=K),
        lambda: collect_features(model, [(X, Y)], num_classes=K),
    ):
        with pytest.raises(TypeError, match=r"must be an eager network, got \w+, which is scripted\. Pass the eager module\."):
            function()


def test_a_symbolic_graph_whose_modules_run_is_measured():
    plain = seeded(nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, K)))
    graph = torch.fx.symbolic_trace(plain)
    assert measure(graph, [(X, Y)], num_classes=K).rows == measure(plain, [(X, Y)], num_classes=K).rows
