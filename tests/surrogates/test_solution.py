"""Solutions: what counts as proven, at which distance, in which words, and the numbers of flows and of data problems."""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from ncollapse.surrogates import (
    LBFGS,
    MUFM,
    UFM,
    Certificate,
    GradientDescent,
    Inequality,
    NotConverged,
    Problem,
    Solution,
    UnregularizedUFM,
    balanced,
    critical_point,
)
from ncollapse.surrogates.solving.flows import descend, follow, runge_kutta
from ncollapse.surrogates.solving.solution import unless_it_holds

LABELS = torch.tensor([0, 0, 1, 1, 2])
FEATURES = torch.tensor([[2.0, 0.1], [1.5, -0.2], [-1.0, 0.9], [-1.2, 1.4], [-0.8, -1.0]], dtype=torch.float64)


def solution(value=1.0, bound=1.0, **options):
    weak = options.pop("weak", "")
    parts = {"converged": True, "history": (value,), "source": "by hand", **options}
    return Solution(value, {"features": FEATURES}, LABELS, Certificate(bound, weak=weak), **parts)


@pytest.mark.parametrize(
    ("left", "right", "holds", "equal"),
    [
        (1 + 0.9e-6, 1.0, True, True),
        (1 + 1.1e-6, 1.0, False, False),
        (1 - 1.1e-6, 1.0, True, False),
        (-2 - 1.8e-6, -2.0, True, True),
        (-2 + 1.8e-6, -2.0, True, True),
        (0.0, 0.0, True, True),
    ],
)
def test_both_sides_agree_to_a_millionth(left, right, holds, equal):
    found = Inequality("a <= b", left, right)
    assert (found.holds, found.equal) == (holds, equal)
    assert (unless_it_holds(found) is None) == holds
    assert str(found).startswith("a <= b holds with equality" if equal else f"a <= b {'holds' if holds else 'does not hold'}: ")


def test_sides_that_agree_to_rounding_are_equal_and_both_are_shown():
    found = Inequality("a <= b", 1.5e-16, 1e-16, rounding=1e-16)
    assert (found.equal, found.holds) == (True, True)
    assert str(found) == "a <= b holds with equality to rounding: 1.5e-16 against 1e-16"
    assert not Inequality("a <= b", 2.1e-16, 1e-16, rounding=1e-16).holds


@pytest.mark.parametrize("decay", [1e-8, 1e-11, 1e-12, 1e-13])
@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize("dim", [4, 20])
def test_at_the_minimum_the_gradient_has_the_norm_of_the_theorem_to_rounding(decay, bias, dim):
    model = UFM(balanced(4, 5), dim, loss="mse", lambda_w=decay, lambda_h=decay, bias=bias)
    found = model.solve()
    assert found.certified
    assert found.certificate.inequality.equal
    assert critical_point(model, found.variables).inequality.equal


def test_the_allowance_for_rounding_is_no_more_than_some_roundings():
    model = UFM(balanced(4, 5), 4, loss="mse", lambda_w=1e-12, lambda_h=1e-12)
    variables = model.solve().variables
    moved = {**variables, "weight": variables["weight"] * (1 + 1e-13)}
    assert not model.certificate(moved).inequality.equal


@pytest.mark.parametrize(
    ("value", "bound", "certified"),
    [
        (2.0, 2 - 1.9e-6, True),
        (2.0, 2 - 2.1e-6, False),
        (-2.0, -2 - 1.9e-6, True),
        (2.0, 2 + 1.9e-6, True),
        (2.0, 2 + 2.1e-6, False),
        (2.0, 2.5, False),
        (0.9e-11, 0.0, True),
        (1.1e-11, 0.0, False),
        (1e-12, -1e-12, False),
        (math.inf, 1.0, False),
        (1.0, -math.inf, False),
    ],
)
def test_a_gap_of_a_millionth_is_a_proof_and_a_bound_above_the_value_is_none(value, bound, certified):
    found = solution(value, bound)
    assert found.certified == certified
    assert found.gap == value - bound


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Global minimum: by hand; the gap to the lower bound is 0."),
        ({"converged": False}, "Not converged: by hand; the gap to the lower bound is 0."),
        ({"bound": -math.inf}, "Critical point: by hand; no lower bound is known."),
        ({"bound": 0.5}, "Critical point, not certified: by hand; the gap to the lower bound is 0.5."),
        ({"bound": 0.5, "weak": "d < K"}, "Critical point: by hand; no useful bound: d < K."),
        ({"weak": "d < K"}, "Global minimum: by hand; the gap to the lower bound is 0."),
        (
            {"value": -2.0, "bound": -2.5, "criterion": "gap"},
            "Within 25 % of the global minimum: by hand; the gap to the lower bo",
        ),
    ],
)
def test_statuses(options, words):
    assert solution(**options).status.startswith(words)


def test_a_solution_in_words():
    found = solution(1.0, 0.5)
    assert repr(found) == f"<Solution 1. {found.status}>"
    found = replace(found, certificate=Certificate(0.5, Inequality("c < 1", 0.5, 1.0)))
    first, second, third, fourth, fifth = str(found).splitlines()
    assert (first, second) == (found.status, "objective 1, lower bound 0.5")
    assert (third, fourth) == ("c < 1 holds: 0.5 against 1", "variables: features (5, 2)")
    assert fifth.startswith("collapse of the features: pfc1 ")
    assert len(str(solution()).splitlines()) == 4


def test_metrics_of_a_classifier_with_a_bias():
    weight, bias = torch.tensor([[1.0, 0.0], [-1.0, 0.5], [-0.5, -1.0]]).double(), torch.tensor([0.0, -3.0, 0.0]).double()
    plain = solution()
    with_head = replace(plain, variables={"features": FEATURES, "weight": weight, "bias": bias})
    right = (FEATURES @ weight.T + bias).argmax(dim=1) == LABELS
    assert with_head.metrics(["accuracy"])["accuracy"] == float(right.double().mean()) == 0.6
    assert replace(plain, variables={"features": FEATURES, "weight": weight}).metrics(["accuracy"])["accuracy"] == 1
    # Without a classifier what needs one is left out.
    assert "accuracy" not in plain.metrics()
    assert "nc3" in with_head.metrics()
    measured = plain.measurement()
    assert (measured.num_classes, measured.split) == (3, "train")
    assert "by hand" in str(measured)
    assert plain.measurement(["pfc2", "pfc1"]).shown == tuple(row.metric for row in plain.measurement(["pfc2", "pfc1"]).rows)


@dataclass(frozen=True)
class Well(Problem):
    """The squared length of the features, with a bound of zero."""

    labels, num_classes = LABELS, 3
    solvers = (GradientDescent,)

    def draw(self, normal):
        return {"features": normal(5, 2)}

    def objective(self, variables):
        return variables["features"].square().sum() / 2

    def certificate(self, variables):
        return Certificate(0.0)


def test_a_proof_makes_up_for_a_descent_that_stopped():
    small = {"features": 1e-7 * FEATURES}
    found = Well().solve(GradientDescent(1e-3, max_iterations=1), start=small)
    assert found.certified
    assert found.converged
    assert found.status.startswith("Global minimum: gradient descent, 1 steps")
    described = Well().solution({"features": FEATURES}, "drawn")
    assert described.history == (described.value,)
    assert described.status.startswith("Critical point, not certified: drawn")
    assert Well().solution({"features": FEATURES}, "drawn", (9.0, 8.0), converged=False).history == (9.0, 8.0)


def test_a_solver_that_stops_names_the_others():
    with pytest.raises(NotConverged) as alone:
        Well().solve(GradientDescent(1e-3, max_iterations=1))
    assert str(alone.value).endswith("judge the point by its gap.")
    assert "give GradientDescent more steps" in str(alone.value)
    with pytest.raises(NotConverged) as caught:
        UFM((2, 2), 2, lambda_w=0.1, lambda_h=0.1).solve(LBFGS(max_iterations=1))
    assert str(caught.value).endswith("by its gap, or solve with GradientDescent() or Proximal().")
    assert caught.value.solution.value > 0


def test_a_start_is_taken_as_it_is():
    start = {"features": FEATURES}
    run = GradientDescent(0.1, max_iterations=0)
    assert Well().solve(run, start=start, allow_unconverged=True).value == float(FEATURES.square().sum()) / 2
    drawn = Well().solve(run, seed=4, allow_unconverged=True)
    assert torch.equal(drawn.variables["features"], Well().start(4)["features"])
    assert torch.equal(Well().start()["features"], Well().start(0)["features"])
    by_default = Well().solve(run, allow_unconverged=True).variables["features"]
    assert torch.equal(by_default, Well().start(0)["features"])


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int64])
def test_data_are_kept_in_double_precision(kind):
    problem = MUFM(FEATURES.float().requires_grad_(), LABELS.to(kind), lambda_w=0.1, lambda_h=0.1)
    assert (problem.inputs.dtype, problem.inputs.requires_grad, problem.labels.dtype) == (torch.float64, False, torch.int64)
    assert (problem.num_classes, problem.counts) == (3, (2, 2, 1))
    assert MUFM(FEATURES, LABELS.clamp(max=1).to(kind), lambda_w=0.1, lambda_h=0.1).counts == (2, 3)
    expected = MUFM(FEATURES.float().double(), LABELS, lambda_w=0.1, lambda_h=0.1)
    assert float(problem.objective(problem.start(0))) == float(expected.objective(expected.start(0)))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (LABELS.double() + 0.5, "integer"),
        (LABELS[:4], "labels"),
        (LABELS - 1, "labels"),
        (torch.zeros(5, dtype=torch.int64), r"labels must hold two or more classes, each with a sample, got counts \(5,\)\."),
        (torch.tensor([0, 0, 2, 2, 2]), r"each with a sample, got counts \(2, 0, 3\)\. Number the classes"),
    ],
)
def test_labels_that_do_not_fit_are_refused(labels, words):
    with pytest.raises((ValueError, TypeError), match=words):
        MUFM(FEATURES, labels, lambda_w=0.1, lambda_h=0.1)


def test_data_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"MUFM needs finite features, got nan or inf in row 3\. Clean the data\."):
        MUFM(FEATURES.where(FEATURES != 1.4, math.inf), LABELS, lambda_w=0.1, lambda_h=0.1)


def test_labels_of_counts_are_sorted():
    problem = UFM((3, 1, 2), 2, lambda_w=0.1, lambda_h=0.1)
    assert problem.labels.tolist() == [0, 0, 0, 1, 2, 2]
    assert (problem.num_classes, problem.num_samples) == (3, 6)


def test_a_runge_kutta_step_is_the_exponential_to_the_fourth_order():
    matrix = torch.tensor([[0.0, 1.0], [-2.0, 0.3]], dtype=torch.float64)
    state = torch.tensor([1.0, -0.5], dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    found = runge_kutta(lambda parts: (matrix @ parts[0], -3 * parts[1]), state, 0.2)
    terms = [torch.matrix_power(0.2 * matrix, n) / math.factorial(n) for n in range(5)]
    assert torch.allclose(found[0], sum(terms) @ state[0], atol=1e-15)
    assert float(found[1]) == pytest.approx(2 * sum((-0.6) ** n / math.factorial(n) for n in range(5)), rel=1e-14)


def falling(point):
    return {"features": -point["features"]}


def test_a_flow_keeps_every_point():
    start = {"features": FEATURES}
    end = follow(Well(), falling, start, 2.0, 40)
    assert end.times == pytest.approx([0.05 * n for n in range(41)])
    assert torch.equal(end.path[0]["features"], FEATURES)
    for number in (1, 20, 40):
        assert torch.allclose(end.path[number]["features"], math.exp(-0.05 * number) * FEATURES, atol=1e-6)
        assert end.history[number] == float(Well().objective(end.path[number]))
    assert len(end.path) == len(end.history) == 41
    assert end.status.startswith("End of a flow: 40 steps up to t = 2; the gap")
    assert torch.equal(end.variables["features"], end.path[-1]["features"])
    # Every point may be brought back to a set.
    shifted = follow(Well(), falling, start, 2.0, 4, lambda point: {"features": point["features"].round(decimals=1)})
    assert torch.equal(shifted.path[2]["features"], shifted.path[2]["features"].round(decimals=1))


def test_an_objective_that_rises_along_a_flow_is_told_with_its_time():
    calls = itertools.count()

    def turning(point):
        # Seven steps of four calls fall.
        return {"features": point["features"] * (-1 if next(calls) < 28 else 1)}

    first = float(FEATURES.square().sum()) / 2
    values = f"from {first * math.exp(-1.4):.3g} to {first * math.exp(-1.2):.3g} with steps of 0.1"
    with pytest.raises(ValueError, match=rf"must fall along the flow, but at t = 0\.8 it went {values}\. Take more steps"):
        follow(Well(), turning, {"features": FEATURES}, 2.0, 20)
    assert follow(Well(), falling, {"features": 0 * FEATURES}, 1.0, 3).value == 0
    # What rounding adds is no rise.
    still = follow(Well(), lambda point: {"features": 1e-12 * point["features"]}, {"features": 100 * FEATURES}, 1.0, 3)
    assert len(still.path) == 4
    with pytest.raises(ValueError, match=r"must fall along the flow"):
        follow(Well(), lambda point: {"features": 1e-8 * point["features"]}, {"features": FEATURES}, 1.0, 3)


def test_descent_keeps_about_a_hundred_points():
    end = descend(Well(), {"features": FEATURES}, 0.01, 2000)
    assert end.times == tuple(sorted({0.0} | {float(round(2000 ** (i / 100))) for i in range(101)}))
    assert (end.times[:4], end.times[-1]) == ((0.0, 1.0, 2.0, 3.0), 2000.0)
    for time, point, value in zip(end.times, end.path, end.history, strict=True):
        assert torch.allclose(point["features"], 0.99**time * FEATURES, atol=1e-12)
        assert value == pytest.approx(0.99 ** (2 * time) * float(FEATURES.square().sum()) / 2, rel=1e-9)
    assert end.source == "2000 steps of gradient descent of 0.01"
    assert end.value == end.history[-1]
    with pytest.raises(ValueError, match=r"got 4: the objective is inf after (\d+) steps\. Take") as caught:
        descend(Well(), {"features": FEATURES}, 4.0, 1000)
    with np.errstate(over="ignore"):
        first = next(n for n in range(1000) if not np.isfinite(((FEATURES.numpy() * 3.0**n) ** 2).sum()))
    assert f"after {first} steps" in str(caught.value)
    for options in ({"learning_rate": 0.0, "num_steps": 3}, {"learning_rate": 0.1, "num_steps": 0}):
        with pytest.raises(ValueError, match="must be finite and positive"):
            descend(Well(), {"features": FEATURES}, **options)


def test_the_drift_is_the_largest_change_between_both_ends():
    problem = UnregularizedUFM(balanced(2, 2), 2)
    end = problem.flow({name: 0.5 * part for name, part in problem.start(1).items()}, duration=3.0, num_steps=12)
    first, last = end.path[0], end.path[-1]
    changes = [last["weight"].T @ last["weight"] - first["weight"].T @ first["weight"],
               last["features"].T @ last["features"] - first["features"].T @ first["features"]]  # fmt: skip
    assert problem.conserved_drift(end) == pytest.approx(float((changes[0] - changes[1]).abs().max()), rel=1e-9)
    assert problem.conserved_drift(end) > 1e-9
