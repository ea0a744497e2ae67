"""The panels of the multilayer model, each number against solutions of the models that it is drawn from."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ncollapse.surrogates import MUFM, UFM, alignment, mufm_curves
from ncollapse.surrogates.curves import solution_panels
from ncollapse.surrogates.extras import DrawnMUFM
from ncollapse.surrogates.solving.flows import descend

LABELS = torch.arange(3).repeat_interleave(3)
MEASURES = {
    "pfc1": "PFC1, within over between",
    "pfc2": "PFC2, distance to an ETF",
    "pfc3": "PFC3, accuracy of the nearest center",
}


def data(seed):
    means = torch.eye(3, 4, dtype=torch.float64)
    noise = torch.randn(9, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return means[LABELS] + 0.6 * noise, LABELS


def drawn(draws, **options):
    problem = MUFM(*data(0), lambda_w=0.1, lambda_h=0.02, **options)
    return DrawnMUFM.on(problem, data, draws) if draws else problem


def free_model(problem):
    return UFM((3, 3, 3), 4, loss=problem.loss, bias=problem.bias, lambda_w=0.1, lambda_h=0.02)


def measured(features):
    """PFC1 to PFC3 of three classes of three samples, plainly."""
    groups = features.reshape(3, 3, -1)
    means = groups.mean(dim=1)
    centered = means - means.mean(dim=0)
    within = float((groups - means.unsqueeze(1)).square().sum() / 3)
    gram, frame = centered @ centered.T, (torch.eye(3, dtype=torch.float64) - 1 / 3) / math.sqrt(2)
    nearest = torch.cdist(features, means).argmin(dim=1)
    return {
        "pfc1": within / float(gram.trace()),
        "pfc2": float((gram / gram.norm() - frame).norm()),
        "pfc3": float((nearest == LABELS).double().mean()),
    }


def test_the_costs_are_a_quarter_of_a_decade_apart():
    assert pytest.approx(np.logspace(-6, 0, 25), rel=1e-12) == mufm_curves._COSTS


def test_pfc1_of_every_layer():
    problem = drawn(0)
    solution = problem.solve()
    times, values = mufm_curves.pfc1_over_layers(problem, solution).curves[""]
    assert times == pytest.approx(np.linspace(0, 1, 101))
    layers = [(1 - t) * problem.inputs + t * solution.variables["features"] for t in times]
    assert values == pytest.approx([measured(layer)["pfc1"] for layer in layers], rel=1e-9)


@pytest.mark.parametrize("draws", [0, 2])
def test_the_tradeoff_over_the_cost_of_moving(monkeypatch, draws):
    costs = (1e-4, 2e-2, 5.0)
    monkeypatch.setattr(mufm_curves, "_COSTS", costs)
    problem = drawn(draws)
    layers, *panels = solution_panels(problem, problem.solve())
    assert layers.title.startswith("PFC1 over the layers")
    problems = [MUFM(*data(seed), lambda_w=0.1, lambda_h=0.02) for seed in range(draws or 1)]
    name = "multilayer model, mean and range of 2 data sets" if draws else "multilayer model"
    found = [[replace(one, lambda_h=cost).solve() for cost in costs] for one in problems]
    titles = [*MEASURES.values(), "Cosine of features and data", "Distance of both, scaled to norm one"]
    assert [panel.title for panel in panels] == titles
    for number, panel in enumerate(panels):
        if number < 3:
            metric = list(MEASURES)[number]
            values = np.array([[measured(point.variables["features"])[metric] for point in row] for row in found])
            level = np.mean([measured(one.inputs)[metric] for one in problems])
            free = measured(free_model(problem).closed_form().variables["features"])[metric]
            ends = (1e-4, 5.0)
            assert panel.theory == {
                "data": (ends, pytest.approx([level] * 2)), "without data": (ends, pytest.approx([free] * 2, abs=1e-6))
            }  # fmt: skip
        else:
            values = np.array(
                [[alignment(point.variables["features"], one.inputs)[number - 3] for point in row]
                 for one, row in zip(problems, found, strict=True)]
            )  # fmt: skip
            assert panel.theory == {}
        x, mean = panel.curves[name]
        assert x == costs
        assert mean == pytest.approx(values.mean(axis=0), rel=1e-9)
        x, low, high = panel.bands[name]
        assert x == costs
        assert (low, high) == (pytest.approx(values.min(axis=0)), pytest.approx(values.max(axis=0)))
        assert (panel.marks, panel.log) == ({"this solution": 0.02}, "x")


@pytest.mark.parametrize(("draws", "bias"), [(0, "none"), (2, "free")])
def test_collapse_along_gradient_descent(draws, bias):
    problem = drawn(draws, bias=bias)
    end = descend(problem, problem.start(7), 0.25, 12)
    panels = solution_panels(problem, end)
    assert [panel.title for panel in panels] == list(MEASURES.values())
    problems = [MUFM(*data(seed), lambda_w=0.1, lambda_h=0.02, bias=bias) for seed in range(draws or 1)]
    free = free_model(problem)
    suffix = ", mean and range of 2 data sets" if draws else ""
    # The first path is the one that was followed; the others start at their own seeds.
    paths = {
        "multilayer model": [end, *(descend(one, one.start(seed), 0.25, 12) for seed, one in enumerate(problems) if seed)],
        "without data": [descend(free, free.start(seed), 0.25, 12) for seed in range(draws or 1)],
    }
    for metric, panel in zip(MEASURES, panels, strict=True):
        assert panel.log == ("x" if metric == "pfc3" else "xy")
        assert set(panel.curves) == {name + suffix for name in paths}
        for name, followed in paths.items():
            steps, mean = panel.curves[name + suffix]
            assert steps == end.times[1:]
            values = np.array([[measured(point["features"])[metric] for point in path.path[1:]] for path in followed])
            assert mean == pytest.approx(values.mean(axis=0), rel=1e-9)
            _, low, high = panel.bands[name + suffix]
            assert (low, high) == (pytest.approx(values.min(axis=0)), pytest.approx(values.max(axis=0)))
        level = np.mean([measured(one.inputs)[metric] for one in problems])
        assert panel.theory == {"data": ((1.0, 12.0), pytest.approx([level] * 2))}
