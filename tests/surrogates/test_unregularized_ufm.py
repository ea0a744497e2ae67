"""The flow to strong collapse: closed forms on the invariant set, the conserved matrix, orders in the size of the start."""

import itertools

import pytest
import torch

from ncollapse.surrogates import GradientDescent, UnregularizedUFM, balanced, collapsed_bias, collapsed_eigenvalue

MODEL = UnregularizedUFM(balanced(3, 4), 5)


def small(size, seed=0):
    return {name: size * part for name, part in MODEL.start(seed).items()}


def conserved(point):
    return point["weight"].T @ point["weight"] - point["features"].T @ point["features"]


@pytest.mark.parametrize("eigenvalue", [0.01, 0.7, 9.0])
def test_closed_forms_on_the_invariant_set(eigenvalue):
    end = MODEL.flow(MODEL.collapsed_start(eigenvalue, 0.2), duration=1.0, num_steps=400)
    for time, point in list(zip(end.times, end.path, strict=True))[::40]:
        weight = point["weight"]
        sizes = torch.linalg.eigvalsh(weight @ weight.T)
        expected = collapsed_eigenvalue(eigenvalue, time, counts=((4),))
        assert sizes.tolist() == pytest.approx([0, expected, expected], abs=1e-6)
        assert point["bias"].tolist() == pytest.approx([collapsed_bias(0.2, time, counts=balanced(3, 4))] * 3, abs=1e-6)
        assert torch.allclose(point["features"], (weight / 2)[MODEL.labels], atol=1e-14)


def test_plain_descent_with_small_steps_follows_the_closed_form():
    start = MODEL.collapsed_start(0.3)
    found = MODEL.solve(GradientDescent(1e-4, max_iterations=10_000), start=start, allow_unconverged=True).variables
    sizes = torch.linalg.eigvalsh(found["weight"] @ found["weight"].T)
    assert sizes[1:].tolist() == pytest.approx([collapsed_eigenvalue(0.3, 1.0, counts=((4),))] * 2, abs=1e-4)
    assert found["bias"].tolist() == pytest.approx([collapsed_bias(0.0, 1.0, counts=balanced(3, 4))] * 3, abs=1e-4)
    assert torch.allclose(found["features"], (found["weight"] / 2)[MODEL.labels], atol=1e-14)


def test_steps_of_descent_break_the_conserved_matrix_in_proportion():
    start, drifts = small(1.0), []
    for halvings in range(3):
        solver = GradientDescent(0.004 / 2**halvings, max_iterations=250 * 2**halvings)
        found = MODEL.solve(solver, start=start, allow_unconverged=True).variables
        drifts.append(float((conserved(found) - conserved(start)).abs().max()))
    assert drifts[0] / drifts[1] == pytest.approx(2, rel=0.1)
    assert drifts[1] / drifts[2] == pytest.approx(2, rel=0.1)
    ends = [MODEL.flow(start, duration=1.0, num_steps=steps) for steps in (500, 1000)]
    coarse, fine = map(MODEL.conserved_drift, ends)
    # Runge-Kutta breaks it at order four.
    assert coarse / fine == pytest.approx(16, rel=0.2)
    assert fine < 1e-6
    end = ends[1]
    assert MODEL.conserved_drift(end) == float((conserved(end.variables) - conserved(start)).abs().max())


def test_strong_collapse_to_the_order_of_the_start():
    ids, errors = ["snc1", "snc2", "snc3"], []
    for size in (1e-2, 1e-3, 1e-4):
        end = MODEL.flow(small(size), duration=25.0, num_steps=1000)
        # What is left dies out at a rate of the square of the size.
        assert end.value < 10 * size**4
        errors.append([end.metrics(ids)[name] for name in ids])
    for before, after in itertools.pairwise(errors):
        # The weights are collapsed to second order, features and bias to first.
        assert before[0] / after[0] == pytest.approx(100, rel=0.5)
        assert before[1] / after[1] == pytest.approx(10, rel=0.1)
        assert before[2] / after[2] == pytest.approx(10, rel=0.2)
    assert errors[1][0] < 1e-4
    assert 1e-3 < errors[1][1] < 1e-2
    assert errors[1][2] < 2e-3


def test_large_starts_reach_loss_zero_and_no_strong_collapse():
    end = MODEL.flow(small(1.0), duration=25.0, num_steps=2500)
    assert end.value < 1e-14
    assert end.metrics(["snc1"])["snc1"] > 0.3
    assert end.status.startswith("End of a flow: 2500 steps up to t = 25; the gap to the lower bound is ")
    assert list(end.history) == sorted(end.history, reverse=True)


def test_strong_collapse_itself():
    closed = MODEL.closed_form()
    assert closed.value < 1e-28
    assert (closed.certified, closed.certificate.lower_bound) == (True, 0)
    assert closed.metrics(["snc1", "snc2", "snc3"]) == pytest.approx({"snc1": 0, "snc2": 0, "snc3": 0}, abs=1e-14)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: UnregularizedUFM(balanced(4, 5), 2), r"Loss zero needs dim >= K - 1 = 3, got 2\."),
        (lambda: UnregularizedUFM(balanced(1, 5), 2), r"counts must be positive integers"),
        (lambda: MODEL.flow(small(1.0), duration=-1), r"duration must be finite and positive, got -1\."),
        (
            lambda: MODEL.flow(small(1.0), duration=100, num_steps=20),
            r"must fall along the flow, but at t = .* Take more steps",
        ),
        (lambda: collapsed_eigenvalue(0.0, 1.0, counts=((4),)), r"start must be finite and positive, got 0\.0\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
