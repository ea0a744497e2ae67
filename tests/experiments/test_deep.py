"""Collapse against depth as experiments: decades gained by deeper networks, and by the control with their λ."""

import math
from types import SimpleNamespace

import pytest
from torch import nn

from ncollapse.claims.quantities import BY_KEY
from ncollapse.experiments import EXPERIMENTS, Work, deep
from ncollapse.experiments.deep import _Row, _Sweep, mean_decades
from ncollapse.experiments.experiment import Panel
from ncollapse.models.layernorm_resnet import LayerNormResNet
from ncollapse.recipes.networks import LayerNormResNetConfig

TINY = ("train.epochs=2", "data.per_class=2", "model.width=12", "measure.epochs=0")


def test_decades_are_those_below_the_first():
    assert mean_decades([1.0, 0.1, 0.001]) == pytest.approx(2.0)
    assert mean_decades([0.1, 1.0]) == pytest.approx(-1.0)


def test_the_control_has_the_decay_of_the_deeper_network(tmp_path):
    work = Work(0, False, tmp_path, lambda words: None)
    sweep = _Sweep(work, "deep_rn2_small", TINY, (1, 2), falling=True)
    decays = [[run.last_objective.weight_decay for run in arm.values()] for arm in (sweep.deep, sweep.control)]
    assert decays == [[0.005, 0.0025]] * 2
    assert [run.recipe_entries["model"]["num_blocks"] for run in sweep.control.values()] == [1, 1]
    row = _Row("deep:x", "", "", "", "deep_rn2_small", TINY, (1, 2), falling=True)
    for key, name in (("pfc1", "NC1"), ("nc2_etf_weights", "NC2")):
        found = row.measure(work, key, Panel(name, "blocks L"))
        values = {(point.line, point.x): point.y for point in found.points}
        lines = ("networks", "one block with the λ of that depth")
        deep, control = (math.log10(values[line, 1] / values[line, 2]) for line in lines)
        assert found.value == pytest.approx(deep - control)
        read = BY_KEY[key].read
        first, *others = (read(run, 0) for run in (sweep.deep[1], sweep.deep[2], sweep.control[2]))
        assert found.before == pytest.approx(math.log10(first / others[0]) - math.log10(first / others[1]))
        assert found.before != pytest.approx(found.value)
        assert {point.panel for point in found.points} == {name}
    # With one λ the network of one block is the control, and gains nothing.
    for sign in (1, -1):
        row = _Row("deep:x", "", "", "", "deep_rn2_constant_small", TINY, (1, 2), sign=sign)
        constant = row.measure(work, "pfc1", Panel("NC1", "blocks L"))
        values = {point.x: point.y for point in constant.points}
        assert constant.value == pytest.approx(sign * math.log10(values[1] / values[2]))
        # Of the negative control nothing is expected of depth, before training either.
        assert (constant.before is None) == (sign < 0)
    # A number that is not there leaves nothing to test.
    assert sweep.gain(sweep.deep, "depth_floor", None) is None
    assert row.measure(work, "depth_floor", Panel("", "")).value is None


@pytest.mark.parametrize(("values", "expected"), [((1.0, 0.1, 0.01), 1.5), ((1.0, 0.1, None), None), ((1.0, 0.0, 0.1), None)])
def test_a_gain_needs_a_number_at_every_depth(monkeypatch, values, expected):
    monkeypatch.setattr(deep, "BY_KEY", {"x": SimpleNamespace(read=lambda run, epoch: run)})
    sweep = object.__new__(_Sweep)
    sweep.deep = dict(zip((1, 2, 4), values, strict=True))
    assert sweep.gain(sweep.deep, "x", None) == (None if expected is None else pytest.approx(expected))


def test_kinks_are_shown_by_the_same_weights_with_another_activation(tmp_path, monkeypatch):
    """One decade less than the smaller gain, with every rounded ReLU of the network replaced."""
    built = {
        depth: LayerNormResNet(LayerNormResNetConfig(width=4, num_blocks=depth, rounding=0.1), 4, 2, 0) for depth in (1, 4)
    }
    rounded = {1: 1e-4, 4: 1e-3}

    def run(name, *settings):
        depth = int(settings[-1].partition("=")[2])
        return SimpleNamespace(depth=depth, last_objective=SimpleNamespace(relative_gradient=rounded[depth]))

    def gradient(model, data, recipe):
        assert [type(block.branch[1]) for block in model.blocks] == [nn.ReLU] * len(model.blocks)
        return 0.1

    work = Work(0, False, tmp_path, print)
    for name, stub in {"run": run, "network": lambda run: built[run.depth], "samples": lambda run: None}.items():
        monkeypatch.setattr(work, name, stub)
    monkeypatch.setattr(deep, "recipe_of", lambda run: None)
    monkeypatch.setattr(deep, "relative_gradient", gradient)
    assert deep._stands_on_kinks(work).value == pytest.approx(math.log10(0.1 / 1e-3) - 1)


def test_rows_say_that_they_are_about_training_in_equal_steps_and_have_one_metric():
    named = [name for name in EXPERIMENTS if name.startswith(("deep:fig", "deep:thm4.1"))]
    assert len(named) == 3 * 8 + 2
    for name in named:
        assert "the row is about training in these steps, not about optima" in EXPERIMENTS[name].tested
        assert "after equal steps" in EXPERIMENTS[name].title
        assert len(EXPERIMENTS[name].panels) == 1
        assert not EXPERIMENTS[name].takes_least
    of_control = [name for name in named if "minus those of one block with the λ of each L" in EXPERIMENTS[name].tested]
    assert of_control == [f"deep:fig1-rn2-control-nc{index}" for index in (1, 2, 3)]
    of_no_gain = [name for name in named if EXPERIMENTS[name].tested.startswith("Minus the decades")]
    assert of_no_gain == [f"deep:fig2-rn2-nc{index}" for index in (1, 2, 3)]
