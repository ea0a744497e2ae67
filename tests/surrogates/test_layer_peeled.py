"""The layer-peeled model: printed numbers, the threshold of minority collapse from both sides, the semidefinite program."""

import math

import pytest
import torch

from ncollapse.surrogates import (
    LBFGS,
    UFM,
    GroupedNewton,
    LayerPeeled,
    NotConverged,
    Proximal,
    minority_cosine,
    minority_threshold,
    solve_sdp,
)


def imbalanced(ratio, num_majority=5, num_classes=10, energy_w=1.0, energy_h=5.0, **options):
    return LayerPeeled.imbalanced(num_classes, num_majority, ratio, energy_w=energy_w, energy_h=energy_h, **options)


def spread(solution, num_majority):
    rows = solution.variables["weight"][num_majority:]
    return float(torch.linalg.norm(rows - rows.mean(dim=0)))


def test_a_start_has_the_shapes_of_a_solution():
    problem = imbalanced(10)
    start, solved = problem.start(0), problem.solve().variables
    assert {name: value.shape for name, value in start.items()} == {name: value.shape for name, value in solved.items()}


def test_the_balanced_optimum():
    closed = imbalanced(1).closed_form()
    assert closed.value == pytest.approx(0.5597815240104, abs=1e-13)
    assert closed.value == pytest.approx(math.log(1 + 9 * math.exp(-math.sqrt(5) * 10 / 9)), rel=1e-14)
    assert closed.gap == pytest.approx(0, abs=1e-14)
    # Both bounds are met, by a frame without a mean.
    weight, features = closed.variables["weight"], closed.variables["features"]
    assert (float(weight.square().sum()), float(features.square().sum())) == pytest.approx((10, 50), rel=1e-12)
    assert float((features @ weight.T).sum(dim=1).abs().max()) < 1e-12
    found = imbalanced(1).solve()
    assert found.value == pytest.approx(closed.value, abs=1e-12)
    assert found.gap < 1e-12
    assert found.metrics(["pfc2", "nc3"]) == pytest.approx({"pfc2": 0, "nc3": 0}, abs=1e-6)


@pytest.mark.parametrize("ratio", [1, 10, 100])
def test_both_bounds_are_reached(ratio):
    variables = imbalanced(ratio).solve().variables
    assert float(variables["weight"].square().sum()) / 10 == pytest.approx(1, rel=1e-9)
    assert float(variables["features"].square().sum()) / 10 == pytest.approx(5, rel=1e-9)


@pytest.mark.parametrize(("ratio", "cosine"), [(1, -0.111), (2, -0.067), (5, 0.073), (10, 0.5175), (20, 1), (100, 1)])
def test_printed_cosines_of_minorities(ratio, cosine):
    solution = imbalanced(ratio).solve()
    assert solution.gap < 1e-12
    assert minority_cosine(solution, 5) == pytest.approx(cosine, abs=5e-4)
    assert solution.certificate.inequality.holds == (cosine == 1)


@pytest.mark.parametrize(
    ("num_classes", "num_majority", "product", "threshold", "digits"),
    [
        (10, 5, 5, 12.19, 0.005),
        (10, 7, 5, 4.00, 0.005),
        (10, 3, 5, 245.5, 0.05),
        (4, 2, 2, 7.618, 0.0005),
        (4, 2, 5, 47.685, 0.0005),
    ],
)
def test_printed_thresholds(num_classes, num_majority, product, threshold, digits):
    found = minority_threshold(num_classes, num_majority, energy_w=1.0, energy_h=product)
    assert found == pytest.approx(threshold, abs=digits)
    below, above = (
        imbalanced(found * factor, num_majority, num_classes, energy_h=product).solve() for factor in (0.9999, 1.0001)
    )
    assert spread(below, num_majority) > 1e-3
    assert spread(above, num_majority) < 1e-6


SHARES = {
    "one group": (0.25,) * 4,
    "two classes": (0.7, 0.3),
    "two groups": (0.2,) * 4 + (0.05,) * 4,
    "groups of one": (0.1, 0.2, 0.3, 0.4),
    "mixed up": (0.05, 0.3, 0.1, 0.3, 0.05, 0.1, 0.1),
    "ten groups": tuple(n / 55 for n in range(1, 11)),
}


@pytest.mark.parametrize("name", SHARES)
@pytest.mark.parametrize("product", [0.01, 5.0, 40.0])
def test_newton_agrees_with_projected_descent(name, product):
    """Through a bound that is taken from all logits, and by a solver that knows nothing of groups."""
    problem = LayerPeeled(SHARES[name], energy_w=0.5, energy_h=2 * product)
    found, expected = problem.solve(), problem.solve(Proximal(tolerance=1e-9))
    assert "Newton" in found.status
    assert len(found.history) < 25
    assert abs(found.gap) <= 2e-12 * found.value + 1e-15
    assert found.value == pytest.approx(expected.value, rel=2e-9)
    logits = [solution.variables["features"] @ solution.variables["weight"].T for solution in (found, expected)]
    assert float(torch.linalg.svdvals(logits[0]).sum()) == pytest.approx(problem.radius, rel=1e-12)
    assert torch.allclose(*logits, atol=2e-3)


def test_many_groups_are_left_to_projected_descent():
    problem = LayerPeeled(tuple(n / 66 for n in range(1, 12)), energy_w=1, energy_h=1)
    assert problem.solvers == (Proximal,)
    with pytest.raises(TypeError, match=r"solver must be Proximal\(\) for this LayerPeeled, got GroupedNewton\(\)"):
        problem.solve(GroupedNewton())


def test_newton_names_what_it_solves():
    with pytest.raises(TypeError, match=r"solver must be LBFGS\(\) or .* for this UFM, got GroupedNewton\(\)\. Take one"):
        UFM((2, 2), 2, loss="cross_entropy", lambda_w=0.1, lambda_h=0.1).solve(GroupedNewton())


@pytest.mark.parametrize("solver", [GroupedNewton(max_iterations=3), Proximal(max_iterations=5)])
def test_stopping_early_is_an_exception_unless_allowed(solver):
    with pytest.raises(NotConverged, match=r"^Not converged: "):
        imbalanced(10).solve(solver)
    stopped = imbalanced(10).solve(solver, allow_unconverged=True)
    assert not stopped.converged
    assert stopped.value > imbalanced(10).solve().value + 1e-6 > stopped.certificate.lower_bound


def test_oversampling_restores_balance():
    remedied = imbalanced(100, oversampling=100).solve()
    assert remedied.value == pytest.approx(imbalanced(1).closed_form().value, abs=1e-12)
    assert minority_cosine(remedied, 5) == pytest.approx(-1 / 9, abs=1e-6)


def test_the_threshold_depends_on_the_product_of_the_bounds_alone():
    first, second = (imbalanced(7, 2, 4, energy_w=bound, energy_h=2 / bound).solve() for bound in (0.5, 4.0))
    assert first.value == pytest.approx(second.value, abs=1e-12)
    assert float(second.variables["weight"].square().sum()) == pytest.approx(16, rel=1e-9)


@pytest.mark.parametrize(("num_classes", "num_majority", "ratio", "product"), [(10, 5, 10, 5), (4, 2, 20, 2), (3, 1, 5, 4)])
def test_the_semidefinite_program_agrees(num_classes, num_majority, ratio, product):
    pytest.importorskip("cvxpy", reason="the extra sdp is not installed")
    problem = imbalanced(ratio, num_majority, num_classes, energy_h=product)
    assert problem.solve().value == pytest.approx(solve_sdp(problem), abs=1e-7)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: LayerPeeled((1.5, -0.5), energy_w=1, energy_h=1), r"counts must be positive, .* got \(1\.5, -0\.5\)\."),
        (lambda: LayerPeeled((1.0,), energy_w=1, energy_h=1), r"two or more classes"),
        (lambda: imbalanced(2, energy_w=-1), r"energy_w must be finite and positive, got -1\."),
        (lambda: imbalanced(2, energy_h=math.nan), r"energy_h must be finite and positive, got nan\."),
        (lambda: imbalanced(0.5), r"ratio must be at least 1, got 0\.5\. The majority classes are those with more samples\."),
        (lambda: imbalanced(math.inf), r"ratio must be finite and positive, got inf\."),
        (lambda: imbalanced(2, num_majority=10), r"num_majority must be from 1 to num_classes - 1, got 10 of 10 classes\."),
        (lambda: imbalanced(2, oversampling=0), r"oversampling must be finite and positive, got 0\."),
        (lambda: imbalanced(2).closed_form(), r"The closed form needs balanced classes, got shares"),
        (lambda: LayerPeeled((1,) * 4, 2, energy_w=1, energy_h=1).solve(), r"have rank 3, which needs dim >= 3, got 2\."),
        (lambda: minority_threshold(4, 3, energy_w=1, energy_h=1), r"needs two or more minority classes, got 1\."),
    ],
)  # fmt: skip
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_other_solvers_are_refused():
    with pytest.raises(
        TypeError, match=r"solver must be GroupedNewton\(\) or Proximal\(\) for this LayerPeeled, got LBFGS\(\)\."
    ):
        imbalanced(2).solve(LBFGS())


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cvxpy", None)
    with pytest.raises(ImportError, match=r'solve_sdp needs cvxpy, .*pip install -e "\.\[sdp\]"'):
        solve_sdp(imbalanced(2))
