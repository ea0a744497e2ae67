"""The front door: every metric at every layer against the oracle, passes, batches, splits, bad input, nothing left behind."""

import math
import random
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import reference
from cases import CASES
from ncollapse.depth import ClassArcs, GeodesicCurve, PathStatistics, collapsed_optimality
from ncollapse.metrics import METRICS
from ncollapse.models import FCResNet, FCResNetConfig
from ncollapse.probe import collect_features, measure, measure_features, watch
from ncollapse.probe.measure import measure_network
from ncollapse.probe.request import Request
from ncollapse.statistics import PairedMoments

K = 4
ABSOLUTE = {id for id in METRICS if id.startswith(("pfc2", "nc2", "nc3", "gnc2", "unc3", "log_"))} - {"nc3_bias"}
LIGHT = [id for id, metric in METRICS.items() if "scatter" not in metric.needs]


def data(counts=(12, 7, 9, 8), dim=6, seed=1, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=generator)]
    means = torch.randn(len(counts), dim, generator=generator)
    return (means[labels] + 0.8 * torch.randn(len(labels), dim, generator=generator)).to(dtype), labels


X, Y = data()


def batched(x=X, y=Y, size=10):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(y), size)]


def seeded(model, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.6 * torch.randn(parameter.shape, generator=generator))
    return model


def resnet(dtype=torch.float32, normalization="pre"):
    config = FCResNetConfig(width=8, num_blocks=2, normalization=normalization, zero_bias=False)
    return FCResNet(config, 6, K, seed=3).to(dtype)


def mlp(bias=True, outputs=K):
    layers = nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(inplace=True), nn.Linear(7, outputs, bias=bias)
    return seeded(nn.Sequential(*layers))


class Convolutional(nn.Module):
    """Defined in another order than it runs, reshapes functionally, works in place behind a layer."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, K)
        self.body = nn.ModuleDict({"two": nn.Conv1d(3, 4, 2), "one": nn.Conv1d(1, 3, 2)})
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x):
        h = torch.relu_(self.norm(self.body["one"](x[:, None])))
        h = self.body["two"](h)
        return self.fc(self.drop(torch.nn.functional.max_pool1d(h, 2)).flatten(1))


MODELS = {
    "resnet": (resnet, "auto", None),
    "resnet_post": (lambda: resnet(normalization="post"), ["stem", "blocks.*"], "head"),
    "sequential": (mlp, "auto", None),
    "classifier_without_bias": (lambda: mlp(bias=False), ["0", "2", "3"], "4"),
    "convolutional": (lambda: seeded(Convolutional()), ["body.*", "norm"], None),
    "no_classifier": (lambda: mlp(outputs=5), ["0", "4"], None),
    "bfloat16": (lambda: mlp().bfloat16(), "auto", None),
    "float64": (lambda: resnet(torch.float64), "auto", None),
}


def hooked(model, x, names, head):
    """What plain hooks see that clone at once: outputs of the layers and the input of the classifier, run batch by batch."""
    found, given = {name: [] for name in names}, []
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: found[name].append(out.detach().clone()))
        for name in names
    ]
    if head is not None:
        handles.append(model.get_submodule(head).register_forward_pre_hook(lambda _, args: given.append(args[0].clone())))
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        for part in x.split(10):
            model(part)
    for module, training in modes:
        module.training = training
    for handle in handles:
        handle.remove()
    features = {name: torch.cat(parts) for name, parts in found.items()}
    return features, torch.cat(given) if head is not None else None


@pytest.mark.parametrize("name", MODELS)
def test_every_metric_at_every_layer_equals_the_oracle(name):
    make, layers, classifier = MODELS[name]
    model = make().train()
    x = X.to(next(model.parameters()).dtype)
    m = measure(model, batched(x), num_classes=K, layers=layers, classifier=classifier, metrics="all")
    head = {"no_classifier": None, "convolutional": "fc"}.get(name, "head" if "res" in name or name == "float64" else "4")
    last = m.layers[-1]
    tapped = [layer for layer in m.layers if not layer.endswith(".input")]
    features, given = hooked(model, x, tapped, head)
    if last.endswith(".input"):
        features[last] = given
    assert list(features) == list(m.layers)
    weight = bias = None
    if head is not None:
        assert torch.equal(features[last].flatten(1), given), "the last layer feeds the classifier"
        module = model.get_submodule(head)
        weight = reference.rows_of(module.weight)
        bias = np.zeros(K) if module.bias is None else module.bias.detach().double().numpy()
    for depth, (layer, h) in enumerate(features.items()):
        H, y = reference.rows_of(h), Y.numpy()
        with np.errstate(invalid="ignore"):
            expected = reference.feature_metrics(H, y, K)
        if layer == last and head is not None:
            expected |= reference.classifier_metrics(H, y, K, weight, bias)
        values = {row.metric: row.value for row in m.rows if row.layer == layer and "." not in row.metric}
        assert list(values) == [id for id in LIGHT if id in expected]
        assert {row.depth for row in m.rows if row.layer == layer} == {depth}
        for id, value in values.items():
            tolerance = {"rel": 1e-9, "abs": 1e-12 if id in ABSOLUTE else 0.0, "nan_ok": id.startswith("snc")}
            assert value == pytest.approx(expected[id], **tolerance), (layer, id)


def test_layers_come_in_order_of_execution():
    m = measure(seeded(Convolutional()), batched(), num_classes=K, layers=["norm", "body.*"])
    assert m.layers == ("body.one", "norm", "body.two", "fc.input")
    assert m.statistics["body.one"].moments.dim == 15
    assert m.chosen == "by name: norm, body.*; classifier fc gives the logits; fc.input feeds the classifier"


def test_modules_that_do_not_run_are_dropped_when_found_and_refused_when_named():
    model = seeded(Convolutional())
    model.spare = nn.Linear(2, 2)
    assert "spare" not in measure(model, batched(), num_classes=K).layers
    with pytest.raises(ValueError, match="Layers must run in the forward pass, but spare did not"):
        measure(model, batched(), num_classes=K, layers=["norm", "spare"])


def test_the_layer_that_feeds_the_classifier_has_its_metrics():
    m = measure(mlp(), batched(), num_classes=K)
    assert m.layers == ("1", "3")
    assert m.chosen == "inputs of the layers with weights; classifier 4 gives the logits"
    assert [row.layer for row in m.rows if row.metric == "nc3"] == ["3"]
    apart = measure(mlp(), batched(), num_classes=K, layers=["2", "0"])
    assert apart.layers == ("0", "2", "4.input")
    assert apart.value("nc3") == m.value("nc3")
    none = measure(mlp(outputs=5), batched(), num_classes=K)
    assert not [row for row in none.rows if "classifier" in METRICS[row.metric].needs]
    assert none.chosen == (
        f"inputs of the layers with weights; no classifier found, since the network returns no logits of {K} classes but (N, 5)"
    )


def test_a_metric_of_the_classifier_that_was_asked_for_is_not_left_out_silently():
    with pytest.raises(
        ValueError, match=rf"Metrics nc3, nc4 need a classifier \(.*no logits of {K} classes but \(N, 5\)\)\. Name it with"
    ):
        measure(mlp(outputs=5), batched(), num_classes=K, metrics=["nc3", "nc4", "pfc1"])
    with pytest.raises(ValueError, match=r"Metrics nc3 need a classifier \(no classifier was given\)"):
        measure_features(X, Y, num_classes=K, metrics=["nc3"])


def rows_text(measurement):
    """Rows as text, where nan equals nan and every digit counts."""
    return [repr(row) for row in measurement.rows]


@pytest.mark.parametrize("name", ["resnet", "convolutional", "no_classifier", "bfloat16"])
def test_kept_features_and_a_second_pass_give_identical_rows(name):
    make, layers, classifier = MODELS[name]
    model = make()
    batches = batched(X.to(next(model.parameters()).dtype))
    kept = measure(model, batches, num_classes=K, layers=layers, classifier=classifier)
    again = measure(model, batches, num_classes=K, layers=layers, classifier=classifier, memory_budget=0)
    assert (kept.passes, again.passes) == (1, 2)
    assert kept.kept_bytes > 0
    assert again.kept_bytes == 0
    assert rows_text(kept) == rows_text(again)


def assert_close(m, other, rel=1e-12):
    assert [row[:6] for row in m.rows] == [row[:6] for row in other.rows]
    for row, expected in zip(m.rows, other.rows, strict=True):
        tolerance = {"rel": rel, "abs": 1e-13 if row.metric in ABSOLUTE else 0.0, "nan_ok": True}
        assert row.value == pytest.approx(expected.value, **tolerance), row
        assert row.flags == expected.flags


@pytest.mark.parametrize("limit", [1, 28, 40, 42])
def test_it_does_not_matter_how_many_projected_batches_wait(limit, monkeypatch):
    model, x = resnet(torch.float64), X.double()
    m = measure(model, batched(x, Y, 5), num_classes=K)
    monkeypatch.setattr("ncollapse.probe.decision_sums._PENDING_ELEMENTS", limit)
    assert_close(measure(model, batched(x, Y, 5), num_classes=K), m)


@pytest.mark.parametrize("size", [1, 7, 13, 36, 100])
def test_any_batch_size_gives_the_same_rows(size):
    model, x = resnet(torch.float64), X.double()
    whole = measure(model, [(x, Y)], num_classes=K)
    assert_close(measure(model, batched(x, Y, size), num_classes=K), whole)
    assert_close(measure(model, batched(x, Y, size), num_classes=K, memory_budget=0), whole)


@pytest.mark.parametrize("budget", [None, 0])
def test_a_loader_that_shuffles(budget):
    model, x = resnet(torch.float64), X.double()
    loader = DataLoader(TensorDataset(x, Y), batch_size=10, shuffle=True)
    before = torch.get_rng_state()
    m = measure(model, loader, num_classes=K, memory_budget=budget)
    assert torch.equal(torch.get_rng_state(), before)
    assert_close(m, measure(model, [(x, Y)], num_classes=K), rel=1e-11)


def test_an_iterator_is_enough_for_kept_features_and_refused_for_a_second_pass():
    model = resnet()
    m = measure(model, iter(batched()), num_classes=K)
    assert rows_text(m) == rows_text(measure(model, batched(), num_classes=K))
    with pytest.raises(ValueError, match=r"second pass is needed, but the batches can be iterated only once\. Pass a list"):
        measure(model, iter(batched()), num_classes=K, memory_budget=0)
    streamed = measure(model, iter(batched()), num_classes=K, memory_budget=0, metrics=["pfc1", "cdnv"])
    assert (streamed.passes, streamed.value("pfc1")) == (1, m.value("pfc1"))


class Augmented:
    """Batches that change from pass to pass."""

    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        noise = torch.Generator().manual_seed(self.passes)
        return iter([(x + 0.1 * torch.randn(x.shape, generator=noise), y) for x, y in batched()])


def test_augmentation_is_noticed_in_the_second_pass_and_harmless_in_one():
    with pytest.raises(
        ValueError, match=r"must see the features of the first, but they differ at layer 'stem'\. Turn off random"
    ):
        measure(resnet(), Augmented(), num_classes=K, memory_budget=0)
    assert measure(resnet(), Augmented(), num_classes=K).passes == 1


class Failing(list):
    """Its last batch holds inputs of a wrong width."""

    def __iter__(self):
        yield from super().__iter__()
        yield X[:3, :4], Y[:3]


@pytest.mark.parametrize("fail", [False, True])
def test_the_network_and_the_random_state_are_left_as_they_were(fail):
    model = resnet().train()
    model.blocks[1].eval()
    model.blocks[0].branch[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    loader = Failing(batched()) if fail else batched()
    if fail:
        with pytest.raises(ValueError, match="needs inputs of 6 numbers per sample"):
            measure(model, loader, num_classes=K)
    else:
        measure(model, loader, num_classes=K, memory_budget=0, path=True)
        collect_features(model, loader, num_classes=K)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.blocks[0].branch[0].weight.requires_grad
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_random_draws_of_the_network_do_not_reach_the_caller():
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(6, 4), nn.Linear(4, K)

        def forward(self, x):
            return self.head(self.a(x) + 1e-3 * torch.randn(len(x), 4))

    model = seeded(Noisy())
    before = torch.get_rng_state()
    measure(model, batched(), num_classes=K)
    assert torch.equal(torch.get_rng_state(), before)


def test_progress_is_told_after_every_batch():
    calls = []
    measure(resnet(), batched(), num_classes=K, progress=lambda *call: calls.append(call))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    calls.clear()
    measure(resnet(), iter(batched()), num_classes=K, progress=lambda *call: calls.append(call))
    assert calls == [(1, None), (2, None), (3, None), (4, None)]


def test_a_test_split_is_decided_by_the_means_of_the_training_set():
    model = resnet()
    x, y = data((9, 5, 3, 8), seed=1)
    x = x + 0.7
    train = measure(model, batched(), num_classes=K)
    m = measure(model, batched(x, y), num_classes=K, split="test", reference=train)
    assert {row.split for row in m.rows} == {"test"}
    assert not any("own_means" in row.flags for row in m.rows)
    names = list(train.layers)
    seen, held_out = hooked(model, X, names, "head")[0], hooked(model, x, names, "head")[0]
    weight, bias = reference.rows_of(model.head.weight), model.head.bias.detach().double().numpy()
    changed = False
    for name in names:
        H, own = reference.rows_of(held_out[name]), reference.feature_metrics(reference.rows_of(held_out[name]), y.numpy(), K)
        nearest = reference.nearest(H, reference.means(reference.rows_of(seen[name]), Y.numpy(), K))
        assert m.value("pfc3", name) == pytest.approx(np.mean(nearest == y.numpy()), abs=1e-14)
        assert m.value("pfc3_error", name) == pytest.approx(np.mean(nearest != y.numpy()), abs=1e-14)
        mu, Y_seen = reference.means(reference.rows_of(seen[name]), Y.numpy(), K), Y.numpy()
        trace = reference.between_covariance(reference.rows_of(seen[name]), Y_seen, K).trace()
        for id in ("strong_collapse", "weak_collapse"):
            assert m.value(id, name) == pytest.approx(getattr(reference, id)(H, y.numpy(), K, mu, trace), rel=1e-9)
        changed |= abs(m.value("pfc3", name) - own["pfc3"]) > 1e-3
        for id in ("pfc1", "pfc2", "nc1", "cdnv", "separation", "rank_between"):
            assert m.value(id, name) == pytest.approx(own[id], rel=1e-9), id
    decided = (reference.rows_of(held_out["blocks.1"]) @ weight.T + bias).argmax(axis=1)
    assert m.value("nc4") == pytest.approx(np.mean(decided == nearest), abs=1e-14)
    assert m.value("accuracy") == pytest.approx(np.mean(decided == y.numpy()), abs=1e-14)
    assert changed, "the two kinds of means must differ somewhere"


def test_a_test_split_without_a_reference_is_flagged():
    m = measure(resnet(), batched(), num_classes=K, split="test")
    flagged = {row.metric for row in m.rows if "own_means" in row.flags}
    assert flagged == {"pfc3", "weak_collapse", "nc4", "nc4_mismatch"}
    assert m.curve("strong_collapse") == pytest.approx(m.curve("pfc1"), rel=1e-14)
    train = measure(resnet(), batched(), num_classes=K)
    assert [row.value for row in train.rows if row.metric == "pfc3"] == m.curve("pfc3")
    assert not any("own_means" in row.flags for row in train.rows)


def test_a_reference_of_other_layers_classes_or_widths_is_refused():
    train = measure(resnet(), batched(), num_classes=K, layers=["stem", "blocks.1"])
    with pytest.raises(
        ValueError, match=r"reference must have layer 'blocks\.0', got one with stem, blocks\.1\. Measure both splits"
    ):
        measure(resnet(), batched(), num_classes=K, split="test", reference=train)
    with pytest.raises(
        ValueError, match=r"reference must have 6 features at layer 'features' like the data, got 3\. Measure both splits"
    ):
        measure_features(X, Y, num_classes=K, split="test", reference=measure_features(X[:, :3], Y, num_classes=K))
    with pytest.raises(
        ValueError, match=r"reference must have 4 classes like the data, got 5\. Measure both splits with one num_classes"
    ):
        measure_features(X, Y, num_classes=K, split="test", reference=measure_features(X, Y, num_classes=K + 1))


def test_a_reference_with_an_empty_class_decides_nothing_and_that_is_flagged():
    train = measure_features(X[Y > 0], Y[Y > 0], num_classes=K)
    m = measure_features(X, Y, num_classes=K, split="test", reference=train)
    assert {row.metric for row in m.rows if "own_means" in row.flags} >= {"pfc3", "strong_collapse"}


def test_a_test_split_without_some_class_is_still_decided_by_the_reference():
    train = measure_features(X, Y, num_classes=K)
    part = measure_features(X[Y > 0], Y[Y > 0], num_classes=K, split="test", reference=train)
    nearest = reference.nearest(X[Y > 0].double().numpy(), reference.means(X.double().numpy(), Y.numpy(), K))
    assert part.value("pfc3") == pytest.approx(np.mean(nearest == Y[Y > 0].numpy()), abs=1e-14)
    assert math.isnan(part.value("pfc1"))


def test_metrics_can_be_chosen_also_those_of_the_full_scatter():
    m = measure(resnet(), batched(), num_classes=K, metrics=["rank_total", "pfc1"])
    assert [row.metric for row in m.rows] == ["pfc1", "rank_total"] * 3
    assert m.value("rank_total") == 8
    assert m.statistics["stem"].scatter is not None
    assert m.statistics["stem"].centers is None, "neither metric needs them"
    only = measure(resnet(), batched(), num_classes=K, metrics=["participation_ratio_total"])
    H = reference.rows_of(hooked(resnet(), X, ["stem"], None)[0]["stem"])
    expected = reference.feature_metrics(H, Y.numpy(), K)["participation_ratio_total"]
    assert only.value("participation_ratio_total", "stem") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("convention", ["sample", "papyan", "papyan_notebook", "zhu", "he_su"])
def test_conventions_reach_the_metrics(convention):
    m = measure(resnet(), batched(), num_classes=K, convention=convention)
    assert m.convention == convention
    H = reference.rows_of(hooked(resnet(), X, ["blocks.0"], None)[0]["blocks.0"])
    expected = reference.feature_metrics(H, Y.numpy(), K, convention)
    for id in ("pfc1", "nc1", "pfc2", "nc2_equinorm"):
        assert m.value(id, "blocks.0") == pytest.approx(expected[id], rel=1e-9), id
    assert m.value("pfc1") != measure(resnet(), batched(), num_classes=K).value("pfc1")


@pytest.mark.parametrize("budget", [None, 0])
def test_paths_equal_those_of_the_collected_features(budget):
    model = resnet()
    m = measure(model, batched(), num_classes=K, path=True, memory_budget=budget)
    features, labels = collect_features(model, batched(), num_classes=K)
    layers = list(features.values())
    path = PathStatistics.from_batch(layers)
    for kind in ("index", "arclength", "ratio", "distance", "projection"):
        assert m.path.position(kind) == pytest.approx(path.position(kind), rel=1e-9, abs=1e-12)
    for name in ("energy", "energy_min", "identity_cost", "efficiency", "speed_cov", "chord_deviation", "r_squared"):
        assert getattr(m.path, name) == pytest.approx(getattr(path, name), rel=1e-9)
    assert torch.allclose(m.path.straightness, path.straightness, rtol=1e-9)
    curve = GeodesicCurve(PairedMoments.from_batch(layers[0], layers[-1], labels, K))
    assert m.geodesic.pfc1([0.0, 0.3, 1.0]).tolist() == pytest.approx(curve.pfc1([0.0, 0.3, 1.0]).tolist(), rel=1e-10)
    ends = m.line.pfc3()[[0, -1]].tolist()
    assert ends == [m.value("pfc3", 0), m.value("pfc3", -1)]
    assert int(m.line.num_samples) == len(Y)
    arcs = ClassArcs.from_batch(layers[0], labels, m.geodesic.paired)
    assert torch.allclose(m.arcs.lengths, arcs.lengths, rtol=1e-10)
    assert collapsed_optimality(m.arcs).optimal == collapsed_optimality(arcs).optimal


@pytest.mark.parametrize("convention", ["class", "sample", "papyan", "papyan_notebook", "zhu", "he_su"])
def test_the_straight_line_starts_and_ends_at_the_measured_values(convention):
    m = measure(resnet(), batched(), num_classes=K, path=True, convention=convention)
    for metric in ("pfc1", "pfc2", "cdnv"):
        ends = [m.value(metric, 0), m.value(metric, -1)]
        assert getattr(m.geodesic, metric)([0.0, 1.0]).tolist() == pytest.approx(ends, rel=1e-9), metric


def test_without_path_there_is_none():
    m = measure(resnet(), batched(), num_classes=K)
    assert (m.paths, m.path_layers) == (None, ())
    for name in ("path", "geodesic", "line", "arcs"):
        with pytest.raises(AttributeError, match=rf"{name} needs a measurement .*\. Measure again with path=True\."):
            getattr(m, name)


def test_path_needs_layers_of_one_width():
    with pytest.raises(
        ValueError,
        match=r"A path needs at least two layers of one dimension in a row, got \{'1': 9, '3': 7\}\. Choose layers",
    ):
        measure(mlp(), batched(), num_classes=K, path=True)


class RectifiedBeforeHead(nn.Module):
    """Layers of one width; what the head takes is made by no module."""

    collapse_stages = ("first", "second")

    def __init__(self, pooled):
        super().__init__()
        self.pooled = pooled
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(4 if pooled else 8, K)

    def forward(self, x):
        h = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(h.reshape(-1, 4, 2).mean(dim=2) if self.pooled else h)


@pytest.mark.parametrize("budget", [None, 0])
def test_what_the_classifier_takes_ends_the_path_only_where_it_has_the_same_dimension(budget):
    layers = ("first", "second", "head.input")
    options = {"num_classes": K, "path": True, "memory_budget": budget}
    alike = measure(seeded(RectifiedBeforeHead(pooled=False)), batched(), **options)
    assert (alike.layers, alike.path_layers) == (layers, layers)
    pooled = measure(seeded(RectifiedBeforeHead(pooled=True)), batched(), **options)
    assert (pooled.layers, pooled.path_layers) == (layers, layers[:2])
    for m, last in ((alike, "head.input"), (pooled, "second")):
        ends = [m.value("pfc1", "first"), m.value("pfc1", last)]
        assert m.geodesic.pfc1([0.0, 1.0]).tolist() == pytest.approx(ends, rel=1e-9)
        assert m.line.pfc3()[[0, -1]].tolist() == [m.value("pfc3", "first"), m.value("pfc3", last)]
        assert len(m.path.position("arclength")) == len(m.path_layers)
    assert measure(resnet(), batched(), num_classes=K).path_layers == ()


class PooledByModule(nn.Module):
    """Blocks of one shape, and modules behind them that pool and drop: what feeds the classifier is a module's output."""

    def __init__(self, *behind):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(1, 3, 3, padding=1), nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.behind, self.fc = nn.Sequential(*behind), nn.Linear(3, K)

    def forward(self, x):
        x = self.stem(x.reshape(-1, 1, 2, 3))
        for block in self.blocks:
            x = x + block(x).relu()
        return self.fc(self.behind(x).flatten(1) if len(self.behind) else x.mean(dim=(2, 3)))


POOLED = {
    "own input": (),
    "pool": (nn.AdaptiveAvgPool2d(1),),
    "dropout": (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1)),
}
STAGES = ["stem", "blocks.0", "blocks.1", "blocks.2"]


@pytest.mark.parametrize("behind", POOLED.values(), ids=POOLED)
@pytest.mark.parametrize("layers", ["auto", STAGES, [*STAGES, "behind"]])
def test_the_layer_that_feeds_the_classifier_is_off_the_path_if_it_is_pooled_by_a_module_too(behind, layers):
    if not behind and "behind" in layers:
        pytest.skip("no such module runs")
    model = seeded(PooledByModule(*behind))
    m = measure(model, batched(), num_classes=K, layers=layers, path=True)
    with watch(model.eval(), num_classes=K, layers=layers, mode="eval", path=True) as watched:
        for inputs, labels in batched():
            model(inputs)
            watched.update(labels)
    expected = measure(model, batched(), num_classes=K, layers=list(m.path_layers), path=True)
    assert all(m.statistics[layer].moments.dim == 18 for layer in m.path_layers)
    assert (len(m.path_layers), m.statistics[m.layers[-1]].moments.dim) == (len(m.layers) - 1, 3)
    for found in (m, watched.compute()):
        assert found.path_layers == expected.path_layers
        assert found.path.position() == pytest.approx(expected.path.position(), rel=1e-12)
        assert found.geodesic.pfc1([0.0, 1.0]).tolist() == pytest.approx(
            [m.value("pfc1", 0), m.value("pfc1", m.path_layers[-1])], rel=1e-9
        )


def test_features_of_another_dimension_that_a_classifier_reads_are_off_the_path():
    features = {"first": X, "second": X.relu(), "pooled": X[:, :2]}
    classifier = (torch.randn(K, 2, generator=torch.Generator().manual_seed(0)), None)
    m = measure_features(features, Y, num_classes=K, classifier=classifier, path=True)
    assert m.path_layers == measure_features(features, Y, num_classes=K, path=True).path_layers == ("first", "second")
    assert m.chosen.endswith("; path through 2 of 3 layers, first to second (dimension 6)")


def test_classes_without_samples_are_named():
    x, y = data((5, 0, 6, 0))
    assert "; without samples: 1, 3" in str(measure(resnet(), batched(x, y), num_classes=K))
    many = str(measure_features(x, y, num_classes=30))
    assert "without samples: 1, 3, 4, 5, 6, 7, 8, 9 and 20 more" in " ".join(many.split())
    assert "without samples" not in str(measure(resnet(), batched(), num_classes=K))


def test_a_class_is_no_network():
    with pytest.raises(TypeError, match=r"model must be a network, got the class Convolutional\. Make one: Convolutional"):
        measure(Convolutional, batched(), num_classes=K)


def test_labels_that_are_missing_are_not_blamed_on_the_layer():
    wanted = r"got 10 rows for 7 labels in batch 1\. Check that every sample has a label and that the layer's first dimension"
    with pytest.raises(ValueError, match=wanted):
        measure(resnet(), [(X[10:], Y[10:]), (X[:10], Y[:7])], num_classes=K)
    with pytest.raises(ValueError, match=r"got 36 rows for 30 labels.* Check that every sample has a label"):
        measure_features(X, Y[:30], num_classes=K)


def test_samples_and_classes_are_counted():
    m = measure(resnet(), batched(), num_classes=K)
    assert (m.num_samples, m.num_classes, m.split, m.passes) == (36, K, "train", 1)
    assert m.kept_bytes == 36 * 8 * 4 * 3
    assert m.chosen == "stages that FCResNet declares; classifier head gives the logits"


# Bad input: each with an error that says what was needed, what came and what to do, or nan with a flag.


@pytest.mark.parametrize("label", [K, -1])
def test_labels_out_of_range(label):
    y = Y.clone()
    y[25] = label
    with pytest.raises(ValueError, match=rf"^labels must be in \[0, 4\), got {label} at position 5 in batch 2\."):
        measure(resnet(), batched(y=y), num_classes=K)
    with pytest.raises(ValueError, match=r"at position 5 in batch 2 at epoch 9\."):
        measure_network(Request(num_classes=K, where=" at epoch 9"), resnet(), batched(y=y))


@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (Y.float(), TypeError, r"labels must be an integer tensor of class indices, got torch\.float32 in batch 0\."),
        (nn.functional.one_hot(Y), ValueError, r"rows \(10, 4\) of zeros and ones\. Convert one-hot rows with argmax\(1\)"),
        (nn.functional.one_hot(Y).float(), TypeError, r"one-hot rows with argmax"),
    ],
)
def test_labels_of_another_kind(labels, error, message):
    with pytest.raises(error, match=message):
        measure(resnet(), batched(y=labels), num_classes=K)


def test_a_layer_that_does_not_exist():
    with pytest.raises(ValueError, match=r"'block\.1'\. Near: .*blocks\.1.*Layers available here: stem, blocks, blocks\.0, "):
        measure(resnet(), batched(), num_classes=K, layers=["block.1"])


def test_features_that_are_not_finite():
    x = X.clone()
    x[12, 0] = math.nan
    words = rf"Features must be finite, got NaN or inf at layer 'stem' in batch 1, of class {int(Y[12])}\. Check the"
    with pytest.raises(ValueError, match=words):
        measure(resnet(), batched(x), num_classes=K)


def test_a_class_without_samples():
    m = measure(resnet(), batched(Y[:, None] * 0 + X, Y.clamp(max=2)), num_classes=K)
    assert len(m.rows) > 3 * 15
    for row in m.rows:
        without_classes = row.metric.endswith("_weights") or row.metric in {"accuracy", "nc0"}
        assert math.isnan(row.value) != without_classes
        assert ("empty_class" in row.flags) != without_classes
    assert m.statistics["stem"].moments.counts[3] == 0


def test_a_class_without_samples_on_a_path():
    m = measure(resnet(), batched(y=Y.clamp(max=2)), num_classes=K, path=True)
    assert bool(m.geodesic.pfc1().isnan().all())


def test_paths_do_not_depend_on_an_empty_class():
    m = measure(resnet(), batched(y=Y.clamp(max=2)), num_classes=K, path=True)
    path = PathStatistics.from_batch(list(collect_features(resnet(), batched(), num_classes=K)[0].values()))
    assert m.path.position() == pytest.approx(path.position(), rel=1e-9, abs=1e-12)
    assert m.path.energy == pytest.approx(path.energy, rel=1e-9)
    assert bool(m.line.pfc3().isnan().all())


def test_fewer_features_than_the_simplex_needs():
    model = seeded(nn.Sequential(nn.Linear(6, 2), nn.Linear(2, K)))
    m = measure(model, batched(), num_classes=K)
    for id in ("pfc2", "nc2_equiangularity", "nc2_max_angle", "nc2_etf_weights"):
        (row,) = [row for row in m.rows if row.metric == id]
        assert "low_dimension" in row.flags, id
        assert row.value > 0.1


def test_two_classes():
    model = seeded(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 2)))
    m = measure(model, batched(y=Y % 2), num_classes=2)
    for id in ("pfc2", "nc2_equiangularity", "nc2_max_angle"):
        (row,) = [row for row in m.rows if row.metric == id]
        assert (row.value, row.flags) == (pytest.approx(0.0, abs=1e-14), ("two_classes",)), id


@pytest.mark.parametrize("empty", [[], iter([]), DataLoader(TensorDataset(X[:3], Y[:3]), batch_size=4, drop_last=True)])
def test_an_empty_loader(empty):
    with pytest.raises(ValueError, match=r"There is no data: the loader yielded no batch with a label that counts\. Check"):
        measure(resnet(), empty, num_classes=K)


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (X[:4], "Tensor"),
        ({"x": X[:4], "y": Y[:4]}, "a mapping with the keys x, y"),
        ((X[:4], Y[:4], Y[:4]), "a tuple of length 3"),
        ([X[:4]], "a list of length 1"),
    ],
)
def test_batches_that_are_not_pairs(batch, got):
    for function in (measure, collect_features):
        with pytest.raises(
            TypeError, match=rf"Batch 1: batches must yield \(inputs, labels\) .*, got {got}\. Pass a function .*unpack="
        ):
            function(resnet(), [(X, Y), batch], num_classes=K)


def test_batches_may_be_lists():
    m = measure(resnet(), [list(batch) for batch in batched()], num_classes=K)
    assert rows_text(m) == rows_text(measure(resnet(), batched(), num_classes=K))


class Middle(nn.Module):
    """What a layer in the middle returns, and how often it runs."""

    def __init__(self, wrap=None, twice=False):
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.middle = _Returns(wrap)
        self.head = nn.Linear(6, K)
        self.twice = twice

    def forward(self, x):
        self.middle(x)
        return self.head(self.first(self.first(x)) if self.twice else self.first(x))


class _Returns(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return x if self.wrap is None else self.wrap(x)


def test_a_module_that_runs_twice():
    with pytest.raises(ValueError, match=r"Layers must run once per forward pass, but 'first' ran 2 times\. Tap"):
        measure(Middle(twice=True), batched(), num_classes=K, layers=["first"])
    assert measure(Middle(twice=True), batched(), num_classes=K).layers == ("head.input",)


def test_a_module_that_returns_a_tuple_gives_its_first_features():
    m = measure(Middle(lambda x: (Y, 2 * x)), batched(), num_classes=K, layers=["middle"])
    assert m.layers == ("middle", "head.input")
    expected = measure_features(2 * X, Y, num_classes=K).statistics["features"].moments.means
    assert torch.allclose(m.statistics["middle"].moments.means, expected, rtol=1e-12)
    with pytest.raises(
        TypeError, match=r"Layer 'middle' must return a floating-point tensor .*got tuple\. Tap a module inside it"
    ):
        measure(Middle(lambda x: (Y, None)), batched(), num_classes=K, layers=["middle"])


def test_widths_that_change_between_batches():
    model = nn.Sequential(nn.Conv1d(1, 2, 1), nn.AdaptiveAvgPool1d(3), nn.Flatten(), nn.Linear(6, K))
    batches = [(torch.ones(4, 1, 5), Y[:4]), (torch.ones(4, 1, 7), Y[:4])]
    with pytest.raises(
        ValueError, match=r"Layer '0' must have 10 features as before, got 14 in batch 1\. Feed inputs of one size"
    ):
        measure(model, batches, num_classes=K, layers=["0"])
    assert measure(model, batches, num_classes=K, layers=["1"]).num_samples == 8


class Unread:
    """Batches that nobody may ask for."""

    def __iter__(self):
        raise AssertionError("the mistake was to be found before the data were read")


def test_an_unknown_metric_names_near_ones():
    with pytest.raises(ValueError, match=r"No metric 'nc3_eft'\. Near ones: nc3_etf.*list\(ncollapse\.METRICS\) has all"):
        measure(resnet(), Unread(), num_classes=K, metrics=["pfc1", "nc3_eft"])
    with pytest.raises(ValueError, match="No metric 'pfc4'"):
        measure_features(X, Y, num_classes=K, metrics=["pfc4"])


def test_an_unknown_convention():
    for function in (lambda **k: measure(resnet(), Unread(), **k), lambda **k: measure_features(X, Y, **k)):
        with pytest.raises(ValueError, match=r"convention must be one of class, sample, papyan, .*, he_su, got 'balanced'"):
            function(num_classes=K, convention="balanced")


def test_a_wrong_classifier_name():
    with pytest.raises(ValueError, match=r"classifier 'fc' must be a module of the network, got no such module\. .*head"):
        measure(resnet(), batched(), num_classes=K, classifier="fc")
    words = r"Classifier 'head' must give the network's logits .* the network returns no logits of 5 classes but \(N, 4\)"
    with pytest.raises(ValueError, match=words):
        measure(resnet(), batched(), num_classes=5, classifier="head")


def test_no_class_at_all():
    for function in (lambda k: measure(resnet(), batched(), num_classes=k), lambda k: measure_features(X, Y, num_classes=k)):
        with pytest.raises(ValueError, match="num_classes must be an integer, at least 1, got 0"):
            function(0)


def test_one_class_has_no_geometry():
    m = measure_features(X, Y * 0, num_classes=1)
    assert all(math.isnan(row.value) for row in m.rows if row.metric in ("pfc1", "pfc2", "cdnv"))
    assert {flag for row in m.rows for flag in row.flags} == {"one_class"}


# Features in memory.


def test_features_in_memory_equal_those_of_the_network():
    model = resnet()
    features, labels = collect_features(model, batched(), num_classes=K)
    head = model.head.weight.detach(), model.head.bias.detach()
    m = measure_features(features, labels, num_classes=K, classifier=head, path=True)
    assert_close(m, measure(model, batched(), num_classes=K), rel=1e-10)
    assert (m.layers, m.passes, m.chosen) == (("stem", "blocks.0", "blocks.1"), 1, "features in memory")
    assert m.path is not None
    no_bias = measure_features(features, labels, num_classes=K, classifier=(head[0], None))
    zero_bias = measure_features(features, labels, num_classes=K, classifier=(head[0], torch.zeros(K)))
    assert rows_text(no_bias) == rows_text(zero_bias)


def test_a_tensor_is_one_layer_of_flattened_features():
    m = measure_features(X.reshape(-1, 2, 3), Y, num_classes=K)
    assert m.layers == ("features",)
    assert rows_text(m) == rows_text(measure_features({"features": X}, Y, num_classes=K))
    assert m.value("pfc1") == pytest.approx(reference.feature_metrics(reference.rows_of(X), Y.numpy(), K)["pfc1"], rel=1e-10)
    assert not [row for row in m.rows if "classifier" in METRICS[row.metric].needs]


def test_features_of_a_test_split_are_decided_by_the_reference():
    case, other = CASES["balanced"], CASES["imbalanced"]
    train = measure_features(0.4 * case.features + 1, case.labels, num_classes=K)
    m = measure_features(other.features, other.labels, num_classes=K, split="test", reference=train, convention="sample")
    mu = reference.means(0.4 * case.features.numpy() + 1, case.labels.numpy(), K)
    assert m.value("pfc3") == np.mean(reference.nearest(other.features.numpy(), mu) == other.labels.numpy())
    assert m.convention == "sample"
    assert {row.split for row in m.rows} == {"test"}
    own = measure_features(other.features, other.labels, num_classes=K, split="test")
    assert own.value("pfc3") != m.value("pfc3")
    assert "own_means" in next(row.flags for row in own.rows if row.metric == "pfc3")


def test_bad_features_are_refused():
    with pytest.raises(ValueError, match="features must contain at least one layer, got an empty mapping"):
        measure_features({}, Y, num_classes=K)
    with pytest.raises(TypeError, match=r"features must be a floating-point tensor, got torch\.int64"):
        measure_features(Y[:, None], Y, num_classes=K)
    with pytest.raises(ValueError, match=r"features must have shape \(N, d\), got \(36,\)"):
        measure_features(X[:, 0], Y, num_classes=K)
    with pytest.raises(ValueError, match=r"weight must have shape \(4, 6\) for layer 'features', got \(6, 4\)"):
        measure_features(X, Y, num_classes=K, classifier=(torch.zeros(6, 4), None))
    with pytest.raises(ValueError, match=r"Layer 'features' must have one row per label, got 36 rows for 35 labels\. Check"):
        measure_features(X, Y[1:], num_classes=K)
    with pytest.raises(
        ValueError, match=r"^labels must be in \[0, 3\), got 3 at position \d+\. Pass num_classes of \d+ or more"
    ):
        measure_features(X, Y, num_classes=3)


def test_collected_features_are_those_that_hooks_see():
    model = seeded(Convolutional())
    features, labels = collect_features(model, batched(), num_classes=K, layers=["body.*", "norm"], classifier="fc")
    expected, given = hooked(model, X, ["body.one", "norm", "body.two"], "fc")
    assert list(features) == [*expected, "fc.input"]
    assert all(torch.equal(features[name], expected[name].flatten(1)) for name in expected)
    assert torch.equal(features["fc.input"], given)
    assert torch.equal(labels, Y)
    assert not any(h.requires_grad for h in features.values())
    with pytest.raises(ValueError, match="There is no data: the loader yielded no batch"):
        collect_features(model, [], num_classes=K)


def test_a_hundred_thousand_classes_stream_in_seconds():
    num_classes, dim = 100_000, 16
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(2 * num_classes) % num_classes
    x = torch.randn(len(labels), dim, generator=generator)
    started = time.process_time()
    batches = ((x[i : i + 4000], labels[i : i + 4000]) for i in range(0, len(labels), 4000))
    m = measure(nn.Sequential(nn.Identity()), batches, num_classes=num_classes, metrics=["pfc1", "nc2_equinorm", "nc1_total"])
    assert time.process_time() - started < 10
    means = (x[:num_classes].double() + x[num_classes:].double()) / 2
    within = (x[:num_classes].double() - means).square().sum() / num_classes
    between = (means - means.mean(dim=0)).square().sum() / num_classes
    assert m.value("pfc1") == pytest.approx(float(within / between), rel=1e-10)
    assert m.num_samples == 200_000
