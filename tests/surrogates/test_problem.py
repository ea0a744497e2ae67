"""The pattern on a toy model whose minimum is known: solvers, statuses, the exception, the metrics of a solution."""

import math
from dataclasses import dataclass, replace

import pytest
import torch

from ncollapse.etf import simplex_etf
from ncollapse.probe import measure_features
from ncollapse.surrogates import LBFGS, MUFM, Certificate, GradientDescent, Inequality, NotConverged, Problem, Proximal

LABELS = torch.arange(4).repeat(3)


@dataclass(frozen=True)
class Toy(Problem):
    """Least squares to a simplex ETF, plus one: curvatures 1 and 10."""

    bound: float = 1.0

    labels = LABELS
    num_classes = 4
    solvers = (LBFGS, GradientDescent)

    def draw(self, normal):
        return {"features": normal(12, 5), "weight": normal(4, 5)}

    def complete(self, variables):
        return variables

    def objective(self, variables):
        frame = simplex_etf(4, 5)
        features, weight = variables["features"] - frame[LABELS], variables["weight"] - 2 * frame
        return 1 + features.square().sum() / 2 + 5 * weight.square().sum()

    def certificate(self, variables):
        return Certificate(self.bound, Inequality("1 <= 2", 1.0, 2.0))


@pytest.mark.parametrize("solver", [None, LBFGS(), GradientDescent(learning_rate=0.15)])
def test_solvers_reach_the_minimum(solver):
    solution = Toy().solve(solver, seed=3)
    assert solution.value == pytest.approx(1, abs=1e-14)
    assert solution.converged
    assert solution.certified
    assert solution.history[0] > solution.history[-1] == pytest.approx(1, abs=1e-12)
    assert torch.allclose(solution.variables["features"], simplex_etf(4, 5)[LABELS], atol=1e-8)
    assert solution.status.startswith("Global minimum: ")
    assert solution.status.endswith("to the lower bound is 0.")


def test_the_first_entry_of_the_history_is_the_start():
    start = Toy().start(5)
    for solver in (LBFGS(), GradientDescent()):
        assert Toy().solve(solver, start=start).history[0] == float(Toy().objective(start))


def test_starts_are_drawn_by_the_seed_alone():
    first, again, other = (Toy().start(seed)["weight"] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("solver", [LBFGS(max_iterations=1), GradientDescent(learning_rate=0.01, max_iterations=3)])
def test_stopping_early_is_an_exception_unless_allowed(solver):
    with pytest.raises(
        NotConverged,
        match=r"^Not converged: .*\(a\) too few steps .* give \w+ more steps or .*\(b\) no step lowers .* solve with \w+\(\)\.",
    ) as caught:
        Toy().solve(solver)
    allowed = Toy().solve(solver, allow_unconverged=True)
    assert not allowed.converged
    assert allowed.status.startswith("Not converged: ")
    assert caught.value.solution.value == allowed.value > 1.001


def test_a_step_too_large_is_named():
    with pytest.raises(
        ValueError, match=r"learning_rate must be below 2 over the largest curvature, got 0\.5: the objective is"
    ):
        Toy().solve(GradientDescent(learning_rate=0.5))


def test_statuses_follow_the_gap():
    solution = Toy().solve()
    assert replace(solution, certificate=Certificate(0.9, solution.certificate.inequality)).status.startswith(
        "Critical point, not certified: "
    )
    unknown = replace(solution, certificate=Certificate(-math.inf, solution.certificate.inequality))
    assert not unknown.certified
    assert unknown.status.endswith("; no lower bound is known.")


def test_an_inequality_says_whether_it_holds():
    assert str(Inequality("c < 1", 0.25, 1.0)) == "c < 1 holds: 0.25 against 1"
    assert str(Inequality("c < 1", 2.0, 1.0)) == "c < 1 does not hold: 2 against 1"
    assert [Inequality("c < 1", left, 1.0).holds for left in (1 + 1e-7, 1 + 1e-5)] == [True, False]
    assert str(Inequality("c < 1", 1.0, 1.0)) == "c < 1 is an equality: both sides are 1"
    assert str(Inequality("a <= b", 2 - 1e-9, 2.0)) == "a <= b holds with equality: both sides are 2"


def test_a_zero_minimum_is_found_and_told():
    @dataclass(frozen=True)
    class Zero(Toy):
        def objective(self, variables):
            return Toy.objective(self, variables) - 1

    for solver in (LBFGS(), GradientDescent(learning_rate=0.15)):
        solution = Zero(bound=0.0).solve(solver)
        assert solution.certified
        assert "objective zero to rounding" in solution.status


def test_a_solution_prints_in_a_few_lines():
    solution = Toy().solve()
    assert repr(solution).startswith("<Solution 1. Global minimum: L-BFGS, ")
    assert "\n" not in repr(solution)
    assert str(solution).splitlines()[0] == solution.status
    assert len(str(solution).splitlines()) <= 6
    assert "features (12, 5), weight (4, 5)" in str(solution)


def test_metrics_are_those_of_measured_features():
    solution = Toy().solve(GradientDescent(learning_rate=0.01, max_iterations=30), allow_unconverged=True)
    found = solution.metrics()
    features, weight = solution.variables["features"], solution.variables["weight"]
    measured = measure_features(features, LABELS, num_classes=4, classifier=(weight, None))
    assert found == {row.metric: pytest.approx(row.value, rel=1e-12, nan_ok=True) for row in measured.rows}
    assert set(solution.metrics(["pfc1", "nc3"])) == {"pfc1", "nc3"}


def test_a_solution_gives_a_measurement():
    solution = Toy().solve()
    measured = solution.measurement()
    assert measured.layers == ("features",)
    assert (measured.num_samples, measured.num_classes) == (12, 4)
    assert measured.value("pfc1") == solution.metrics(["pfc1"])["pfc1"]
    assert "pfc1" in str(measured)
    assert solution.measurement("nc3").shown == ("nc3",)


@pytest.mark.parametrize(("given", "got"), [("lbfgs", "'lbfgs'"), (LBFGS, "<class '.*LBFGS'>"), (Proximal(), r"Proximal\(\)")])
def test_what_is_no_solver_of_a_model_is_shown_as_it_came(given, got):
    model = MUFM(torch.eye(3), torch.arange(3), lambda_w=0.1, lambda_h=0.1)
    with pytest.raises(TypeError, match=rf"or GradientDescent\(\) for this MUFM, got {got}\. Take one of those\."):
        model.solve(given)
