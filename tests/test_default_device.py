"""With another default device this library makes its tensors on the CPU, and the user's network and loader theirs elsewhere."""

import tempfile
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import ncollapse as nc

K = 3
INPUTS, LABELS = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)), torch.arange(60) % K
SEEN: set[str] = set()
BATCHES = [(INPUTS[:35], LABELS[:35]), (INPUTS[35:], LABELS[35:])]


class Net(nn.Module):
    """Notes where its own tensors would be made; what it noted on itself would be undone."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
        self.head = nn.Linear(8, K)

    def forward(self, x: Tensor) -> Tensor:
        SEEN.add(torch.empty(0).device.type)
        return self.head(self.body(x))


def with_measure(net: Net) -> nc.Measurement:
    return nc.measure(net, BATCHES, num_classes=K, path=True, check=True)


def with_a_second_pass(net: Net) -> nc.Measurement:
    return nc.measure(net, BATCHES, num_classes=K, memory_budget=0)


def with_watch(net: Net) -> nc.Measurement:
    with nc.watch(net, num_classes=K) as watched, torch.no_grad():
        for inputs, labels in BATCHES:
            net(inputs)
            watched.update(labels)
        return watched.compute()


def with_features(net: Net) -> nc.Measurement:
    features, labels = nc.collect_features(net, BATCHES, num_classes=K)
    return nc.measure_features(features, labels, num_classes=K, path=True)


def with_batches_of_features(net: Net) -> nc.Measurement:
    metrics = nc.CollapseMetrics(num_classes=K)
    for inputs, labels in BATCHES:
        metrics.update(inputs, labels)
    return metrics.compute()


def with_a_recorder(net: Net) -> nc.Measurement:
    with tempfile.TemporaryDirectory() as folder:
        recorder = nc.Recorder(f"{folder}/run", net, num_classes=K)
        recorder.epoch(1, BATCHES, loss=0.5, accuracy=0.9)
        return recorder.last


@pytest.fixture
def elsewhere() -> Iterator[None]:
    """A default device on which nothing can be computed."""
    torch.set_default_device("meta")
    yield
    torch.set_default_device(None)


WAYS = [with_measure, with_a_second_pass, with_watch, with_features, with_batches_of_features, with_a_recorder]


@pytest.mark.parametrize("measured", WAYS)
def test_the_default_device_changes_nothing(measured, request):
    expected = measured(Net())
    net = Net()
    SEEN.clear()
    request.getfixturevalue("elsewhere")
    found = measured(net)
    torch.set_default_device(None)
    assert [row.value for row in found.rows] == pytest.approx([row.value for row in expected.rows], nan_ok=True, rel=0, abs=0)
    assert found.chosen == expected.chosen
    assert SEEN <= {"meta"}


def test_layers_are_found_and_diagnosed(elsewhere):
    assert nc.find_layers(_on_cpu(), INPUTS).taps
    assert nc.diagnose(_on_cpu(), BATCHES, num_classes=K).value("ncc", "body.3", "train") > 0
    assert nc.analysis.truncate(_on_cpu(), "body.1", BATCHES, num_classes=K)(INPUTS).shape == (60, K)


def test_loaders_and_functions_of_the_user_keep_their_device(elsewhere):
    seen = []

    def batches():
        seen.append(torch.empty(0).device.type)
        yield from BATCHES

    def unpack(batch):
        seen.append(torch.empty(0).device.type)
        return batch

    SEEN.clear()
    nc.measure(_on_cpu(), batches(), num_classes=K, unpack=unpack)
    assert set(seen) == SEEN == {"meta"}
    assert torch.empty(0).device.type == "meta"


def _on_cpu() -> Net:
    with torch.device("cpu"):
        return Net()


def test_a_measurement_that_is_kept_says_the_same(elsewhere, tmp_path):
    kept, other = (nc.measure(_on_cpu(), [(INPUTS + shift, LABELS)], num_classes=K, path=True) for shift in (0, 1))
    kept.save(tmp_path / "kept.safetensors")

    def said(measured):
        compared = nc.compare(measured, other, names=["kept", "other"])
        kept.plot("class_distances"), kept.plot()
        return (
            measured.depth_results,
            measured.summary(),
            measured.geodesic.pfc1([0.3]),
            str(compared),
            kept.path.position("index"),
        )

    found = said(nc.Measurement.load(tmp_path / "kept.safetensors"))
    torch.set_default_device(None)
    # Compared in print, since some numbers are nan.
    assert str(found) == str(said(nc.Measurement.load(tmp_path / "kept.safetensors")))


DEPTH = {
    "linear_cka": lambda first, last, labels: nc.depth.linear_cka(first, last),
    "cka_matrix": lambda first, last, labels: nc.depth.cka_matrix({"first": first, "last": last}),
    "sliced_wasserstein2": lambda first, last, labels: nc.depth.sliced_wasserstein2(first, last),
    "swap_bound": lambda first, last, labels: nc.depth.swap_bound(first, last),
    "pair_violations": lambda first, last, labels: nc.depth.pair_violations(first, last),
    "transport_score": lambda first, last, labels: nc.depth.transport_score(first, last, labels),
    "separation_law": lambda first, last, labels: nc.depth.separation_law([0.5, 0.3, 0.1, 0.02]),
    "stratified_sample": lambda first, last, labels: nc.depth.stratified_sample(labels, 8, torch.Generator().manual_seed(0)),
}


@pytest.mark.parametrize("name", DEPTH)
def test_functions_of_depth_give_the_same(name, elsewhere):
    with torch.device("cpu"):
        first, last = INPUTS.flatten(1).double(), INPUTS.flatten(1).double().roll(1, 0)
    found = str(DEPTH[name](first, last, LABELS.flatten()))
    torch.set_default_device(None)
    assert found == str(DEPTH[name](first, last, LABELS.flatten()))
