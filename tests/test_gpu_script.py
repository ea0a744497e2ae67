"""The script for a GPU runs on a CPU too, and notices values that differ and layers that wait for the device."""

import json
import math
import runpy
from pathlib import Path

import pytest
import torch

import fresh

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return runpy.run_path(str(ROOT / "benchmarks" / "gpu.py"))


def test_values_of_the_device_are_compared_with_those_of_the_cpu(script, monkeypatch):
    setting, correctness = script["Setting"](CPU, True), script["correctness"]
    assert [line["reached"] for line in correctness(setting)] == [True] * 3
    measure_features, number = script["measure_features"], iter(range(10))

    def wrong(features, *args, **options):
        # Every other call measures features that differ by a millionth.
        return measure_features(features * (1 + 1e-6 * torch.rand(features.shape) * (next(number) % 2)), *args, **options)

    monkeypatch.setitem(correctness.__globals__, "measure_features", wrong)
    assert [line["reached"] for line in correctness(setting)] == [False, False, True]


def test_a_missing_value_or_another_flag_is_a_difference(script):
    class Found:
        def __init__(self, value, flags=()):
            self.rows = [type("Row", (), {"metric": "nc1", "layer": "a", "value": value, "flags": flags})]

    def largest(*pair):
        return max(script["_differences"](*pair))[0]

    assert largest(Found(math.nan), Found(math.nan)) == largest(Found(math.inf), Found(math.inf)) == 0
    assert largest(Found(2.0), Found(1.0)) == 1
    assert largest(Found(1.0), Found(math.nan)) == largest(Found(1.0, ("few",)), Found(1.0)) == math.inf


def with_waits(fc):
    def make(*shape):
        model = fc(*shape)
        for block in model.blocks:
            block.register_forward_hook(lambda module, inputs, output: float(output.sum()) and None)
        return model

    return make


def test_what_waits_for_the_device_is_counted(script, monkeypatch):
    setting, waits = script["Setting"](CPU, True), script["_waits"]
    before, _ = waits(setting, 2, 1)
    monkeypatch.setitem(waits.__globals__, "fc", with_waits(script["fc"]))
    assert waits(setting, 2, 1)[0] - before >= 2


@pytest.mark.slow
def test_a_layer_that_waits_in_each_batch_is_counted(script, monkeypatch):
    setting, waiting = script["Setting"](CPU, True), script["waiting"]
    assert next(waiting(setting))["ours"] == 0
    monkeypatch.setitem(waiting.__globals__, "fc", with_waits(script["fc"]))
    (each, _) = waiting(setting)
    assert (each["ours"], each["reached"]) == (1, False)


@pytest.mark.slow
def test_all_checks_run_on_a_cpu():
    found = json.loads(fresh.python(str(ROOT / "benchmarks" / "gpu.py"), "--device", "cpu", "--small"))
    assert set(found["checks"]) == {"correctness", "cost", "waiting", "training"}
    lines = [line for check in found["checks"].values() for line in check]
    assert len(lines) == 10
    for line in lines:
        assert math.isfinite(line["ratio"])
        assert line["goal"].partition(" ")[0] in {"<=", ">=", ""}
