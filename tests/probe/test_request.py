"""The arguments that the ways to measure share: sizes of memory, and what is refused."""

import inspect
from dataclasses import fields

import pytest
import torch

from ncollapse.groups import Processes
from ncollapse.probe import CollapseMetrics, measure, measure_features, watch
from ncollapse.probe.memory import parse_bytes
from ncollapse.probe.request import Request


@pytest.mark.parametrize(("size", "expected"), [
    (0, 0), (123, 123), ("123", 123), ("0B", 0), ("2GiB", 2**31), ("500MB", 500_000_000), ("1.5 gib", 3 * 2**29),
    ("4 KiB", 4096), ("1tb", 10**12), (" 7 MiB ", 7 * 2**20),
])  # fmt: skip
def test_sizes(size, expected):
    assert parse_bytes(size) == expected


@pytest.mark.parametrize("size", [-1, True, 1.5, "", "GiB", "-1GB", "2 GiBs", "2 G", "1e9", None, "٣GB"])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match=r"^memory_budget must be a number of bytes, at least 0, or a size such as '2GiB'"):
        parse_bytes(size)


def test_a_budget_in_words_is_that_in_bytes():
    features = torch.randn(20, 256, dtype=torch.float64)
    labels = torch.arange(20) % 2
    model = torch.nn.Sequential(
        torch.nn.Linear(256, 256, dtype=torch.float64), torch.nn.ReLU(), torch.nn.Linear(256, 2).double()
    )
    size = measure(model, [(features, labels)], num_classes=2).kept_bytes
    assert size == 40 * 1024
    assert measure(model, [(features, labels)], num_classes=2, memory_budget="40KiB").passes == 1
    assert measure(model, [(features, labels)], num_classes=2, memory_budget="40KB").passes == 2


@pytest.mark.parametrize(("changes", "words"), [
    ({"num_classes": 0}, "num_classes must be an integer, at least 1, got 0"),
    ({"num_classes": True}, "num_classes must be an integer, at least 1, got True"),
    ({"metrics": []}, r"metrics must name at least one metric, got \[\]\. Pass ids such as \['pfc1', 'nc3'\]"),
    ({"metrics": "pcf1"}, r"No metric 'pcf1'\. Near ones: pfc1"),
    ({"convention": "own"}, "convention must be one of class, sample"),
    ({"memory_budget": "much"}, r"memory_budget must be .*got 'much'"),
])  # fmt: skip
def test_every_way_to_measure_checks_its_arguments_alike(changes, words):
    network, batches = torch.nn.Sequential(torch.nn.Linear(2, 2)), [(torch.eye(2), torch.tensor([0, 1]))]
    options = {"num_classes": 2, **changes}
    for call in (
        lambda: measure(network, batches, **options),
        lambda: watch(network, **options),
        lambda: CollapseMetrics(**options),
        lambda: Request(**options),
    ):
        with pytest.raises(ValueError, match=words):
            call()


def test_public_signatures_name_what_a_request_holds():
    held = {item.name for item in fields(Request)} - {"where"}
    assert held <= set(inspect.signature(measure).parameters)
    assert held <= set(inspect.signature(watch).parameters)
    assert held - {"layers", "classifier"} <= set(inspect.signature(CollapseMetrics).parameters)
    assert "where" not in inspect.signature(measure).parameters
    assert set(inspect.signature(measure_features).parameters) <= held | {"features", "labels"}


@pytest.mark.parametrize(("sharing", "expected"), [(1, 1000), (4, 250)])
def test_kept_features_may_take_a_quarter_of_the_free_memory(monkeypatch, sharing, expected):
    """Shared between the processes of one machine, on a CPU."""
    monkeypatch.setattr("ncollapse.probe.request.available_memory", lambda device: 4000)
    monkeypatch.setattr(Processes, "num_sharing_memory", sharing)
    assert Request(num_classes=2).budget(torch.device("cpu"), Processes()) == expected
    assert Request(num_classes=2).budget(torch.device("cuda"), Processes()) == 1000
    assert Request(num_classes=2, memory_budget=7).budget(torch.device("cpu"), Processes()) == 7
