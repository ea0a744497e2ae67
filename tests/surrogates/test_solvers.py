"""The solvers on small problems: their steps against plain loops, where they stop, and what they say."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ncollapse.surrogates import (
    LBFGS,
    UFM,
    Certificate,
    EliminatedFeatures,
    GradientDescent,
    GroupedNewton,
    MarginFlow,
    NotConverged,
    Problem,
    ProjectedGradient,
    Proximal,
    SmoothedReLU,
)
from ncollapse.surrogates.solving import solvers
from ncollapse.surrogates.solving.solvers import Constrained, ReLUProblem, largest, rounded_relu, scaled_gradient

TARGET = torch.tensor([[3.0, -1.0], [0.5, 2.0]], dtype=torch.float64)
CURVATURES = torch.tensor([[1.0, 4.0], [2.0, 9.0]], dtype=torch.float64)


class Bowl(Problem):
    """Half a weighted squared distance, plus one."""

    labels, num_classes = torch.tensor([0, 1]), 2
    solvers = (LBFGS, GradientDescent, ProjectedGradient)

    def draw(self, normal):
        return {"features": normal(2, 2)}

    def objective(self, variables):
        return 1 + (CURVATURES * (variables["features"] - TARGET).square()).sum() / 2

    def certificate(self, variables):
        return Certificate(-math.inf)


class BowlInBalls(Bowl, Constrained):
    """Rows of norm at most 1.5."""

    def retract(self, variables):
        rows = variables["features"]
        return {"features": rows * (1.5 / torch.linalg.norm(rows, dim=1, keepdim=True)).clamp(max=1)}


class Banana(Bowl):
    """Rosenbrock's function in four numbers, which takes tens of steps."""

    def objective(self, variables):
        x = variables["features"].flatten()
        return (100 * (x[1:] - x[:-1].square()).square() + (1 - x[:-1]).square()).sum() + 1


def test_the_relative_gradient():
    gradient, variables = {"a": torch.tensor([1.0, -3.0]), "b": torch.tensor([2.0])}, {"a": torch.tensor([-5.0, 4.0])}
    assert (largest(gradient), largest(variables)) == (3, 5)
    assert scaled_gradient(-2.0, gradient, variables) == 7.5
    assert scaled_gradient(0.0, gradient, variables) == 3
    assert scaled_gradient(0.0, {"a": torch.zeros(2)}, variables) == scaled_gradient(2.0, {"a": torch.zeros(2)}, variables) == 0


def plain_descent(start, rate, steps):
    points = [start.numpy()]
    for _ in range(steps):
        points.append(points[-1] - rate * CURVATURES.numpy() * (points[-1] - TARGET.numpy()))
    values = [1 + (CURVATURES.numpy() * (point - TARGET.numpy()) ** 2).sum() / 2 for point in points]
    return points, values


@pytest.mark.parametrize("steps", [0, 1, 7])
def test_gradient_descent_is_the_plain_loop(steps):
    problem, start = Bowl(), Bowl().start(1)
    run = GradientDescent(0.15, max_iterations=steps).run(problem, start)
    points, values = plain_descent(start["features"], 0.15, steps)
    assert run.variables["features"].numpy() == pytest.approx(points[-1], rel=1e-12)
    assert run.history == pytest.approx(values, rel=1e-12)
    assert not run.converged
    slope = np.abs(CURVATURES.numpy() * (points[-1] - TARGET.numpy())).max()
    relative = slope * np.abs(points[-1]).max() / values[-1]
    assert run.description == f"gradient descent, {steps} steps of 0.15, relative gradient {relative:.2g}"


def test_gradient_descent_stops_at_its_tolerance():
    run = GradientDescent(0.15, tolerance=1e-3).run(Bowl(), Bowl().start(1))
    assert run.converged

    def relative(points, values):
        return np.abs(CURVATURES.numpy() * (points[-1] - TARGET.numpy())).max() * np.abs(points[-1]).max() / values[-1]

    steps = len(run.history) - 1
    assert relative(*plain_descent(Bowl().start(1)["features"], 0.15, steps)) <= 1e-3
    assert relative(*plain_descent(Bowl().start(1)["features"], 0.15, steps - 1)) > 1e-3


def test_gradient_descent_names_the_step_at_which_it_diverges():
    words = r"learning_rate must be below 2 over the largest curvature, got 3: the objective is inf after (\d+) steps\."
    with pytest.raises(ValueError, match=words) as caught:
        Bowl().solve(GradientDescent(3.0), seed=1)
    with np.errstate(over="ignore", invalid="ignore"):
        values = plain_descent(Bowl().start(1)["features"], 3.0, 130)[1]
    first = next(step for step, value in enumerate(values) if not math.isfinite(value))
    assert f"after {first} steps" in str(caught.value)


def test_a_descent_that_is_cut_short_is_not_polished():
    problem = UFM((2, 2), 2, lambda_w=0.05, lambda_h=0.05)
    start = problem.start(0)
    run = GradientDescent(0.5, max_iterations=3).run(problem, start)
    for _ in range(3):
        gradient = problem.value_and_gradient(start)[1]
        start = {name: part - 0.5 * gradient[name] for name, part in start.items()}
    assert len(run.history) == 4
    assert all(torch.allclose(run.variables[name], start[name], atol=1e-14) for name in start)
    # One that has converged is, by one step more.
    whole = GradientDescent(0.5, tolerance=1e-4).run(problem, start)
    assert whole.history[-1] == float(problem.objective(whole.variables)) < whole.history[-2]


@pytest.mark.parametrize("steps", [1, 5])
def test_lbfgs_takes_no_more_steps_than_allowed(steps):
    run = LBFGS(max_iterations=steps).run(Banana(), Banana().start(0))
    assert len(run.history) == steps + 1
    assert not run.converged
    value, gradient = Banana().value_and_gradient(run.variables)
    assert run.history[-1] == value
    assert run.history[0] == float(Banana().objective(Banana().start(0)))
    relative = scaled_gradient(value, gradient, run.variables)
    assert run.description == f"L-BFGS, {steps} iterations, relative gradient {relative:.2g}"


def test_lbfgs_goes_on_below_its_tolerance_where_rounding_allows():
    lengths = []
    for tolerance in (10.0, 0.1, 1e-3):
        run = LBFGS(tolerance=tolerance).run(Banana(), Banana().start(0))
        assert run.converged
        assert scaled_gradient(*Banana().value_and_gradient(run.variables), run.variables) <= 1.01e-4 * tolerance
        before = LBFGS(tolerance=tolerance, max_iterations=len(run.history) - 2).run(Banana(), Banana().start(0))
        assert scaled_gradient(*Banana().value_and_gradient(before.variables), before.variables) > 1e-4 * tolerance
        lengths.append(len(run.history))
    assert lengths == sorted(set(lengths))


def test_lbfgs_goes_on_from_a_history():
    former = (9e3, 8e3, 7e3)
    run = LBFGS(max_iterations=4).minimize(Banana().value_and_gradient, Banana().start(0), former)
    # Two steps were taken before, two are left.
    assert run.history[:3] == former
    assert len(run.history) == 5
    assert run.description.startswith("L-BFGS, 4 iterations")


def test_an_objective_that_vanishes_ends_a_descent():
    class Zero(Bowl):
        def objective(self, variables):
            return Bowl.objective(self, variables) - 1

    for solver in (LBFGS(tolerance=0.0), GradientDescent(0.15, tolerance=0.0)):
        run = solver.run(Zero(), Zero().start(1))
        assert run.converged
        assert run.description.endswith("objective zero to rounding")
        assert 0 <= run.history[-1] <= 1e-16 * run.history[0]
        assert run.history[-2] > 1e-16 * run.history[0]


@pytest.mark.parametrize("size", [1e6, 1e-6])
def test_zero_is_relative_to_the_first_value(size):
    """The fourth power of the distance, along which the descent has no sudden end."""

    class Flat(Bowl):
        def objective(self, variables):
            return size * (variables["features"] - TARGET).square().square().sum()

    run = LBFGS(tolerance=0.0).run(Flat(), Flat().start(1))
    assert run.converged
    assert run.history[-1] <= 1e-16 * run.history[0] < run.history[-2]


def test_a_convex_program_is_polished_on_the_way(monkeypatch):
    """With tiny decays descent alone creeps; a proximal step every few steps brings it to the end."""
    problem = UFM((4, 2, 1), 3, loss="mse", lambda_w=1e-5, lambda_h=1e-5)
    start = {name: 0.1 * part for name, part in problem.start(0).items()}
    monkeypatch.setattr(solvers, "_BETWEEN", 4)
    run = LBFGS().run(problem, start)
    assert run.converged
    assert run.history[-1] == pytest.approx(problem.closed_form().value, rel=1e-9)
    assert len(run.history) < 15
    alone = LBFGS().minimize(problem.value_and_gradient, start)
    assert len(alone.history) > 40
    short = LBFGS(max_iterations=3).run(problem, start)
    # Three steps and the proximal one.
    assert len(short.history) == 5
    assert "3 iterations" in short.description
    assert not short.converged


def plain_projection(rows):
    return rows * np.minimum(1, 1.5 / np.linalg.norm(rows, axis=1, keepdims=True))


def projected_loop(point, steps):
    """Armijo's rule as documented: twice the last step, halved until the objective falls by a share of what is promised."""

    def value(rows):
        return 1 + (CURVATURES.numpy() * (rows - TARGET.numpy()) ** 2).sum() / 2

    point, step, values = plain_projection(point), 1.0, []
    for _ in range(steps):
        values.append(value(point))
        slope, step = CURVATURES.numpy() * (point - TARGET.numpy()), 2 * step
        while True:
            moved = plain_projection(point - step * slope)
            if value(moved) <= values[-1] - 1e-4 * ((moved - point) ** 2).sum() / step:
                break
            step /= 2
        point = moved
    return point, [*values, value(point)]


@pytest.mark.parametrize("steps", [0, 1, 2, 6])
def test_projected_descent_is_the_documented_loop(steps):
    start = {"features": 4 * BowlInBalls().start(2)["features"]}
    run = ProjectedGradient(max_iterations=steps).run(BowlInBalls(), start)
    point, values = projected_loop(start["features"].numpy(), steps)
    assert run.variables["features"].numpy() == pytest.approx(point, rel=1e-12)
    assert run.history == pytest.approx(values, rel=1e-12)
    assert not run.converged
    assert run.description.startswith(f"projected gradient descent, {steps} steps, largest move of a unit step ")


def test_projected_descent_stops_where_a_unit_step_moves_no_more():
    run = ProjectedGradient(tolerance=1e-6).run(BowlInBalls(), BowlInBalls().start(2))
    assert run.converged
    found = run.variables["features"]
    _, gradient = BowlInBalls().value_and_gradient(run.variables)
    move = plain_projection((found - gradient["features"]).numpy()) - found.numpy()
    assert np.abs(move).max() <= 1e-6 * run.history[-1]
    assert run.description.endswith(f"largest move of a unit step {np.abs(move).max():.2g}")
    short = ProjectedGradient(tolerance=1e-6, max_iterations=len(run.history) - 2).run(BowlInBalls(), BowlInBalls().start(2))
    assert not short.converged
    assert list(run.history) == sorted(run.history, reverse=True)
    # Both rows end on their spheres, where the weighted pull is along the row.
    assert torch.linalg.norm(found, dim=1).tolist() == pytest.approx([1.5, 1.5])
    pull = CURVATURES * (TARGET - found)
    assert (pull[:, 0] * found[:, 1]).tolist() == pytest.approx((pull[:, 1] * found[:, 0]).tolist(), abs=1e-4)


def test_projected_descent_ends_where_no_step_lowers_the_objective():
    class Uphill(BowlInBalls):
        """Its gradient points the wrong way."""

        def tangent(self, variables, gradient):
            return {name: -part for name, part in gradient.items()}

    start = Uphill().start(0)
    run = ProjectedGradient(max_iterations=2).run(Uphill(), start)
    assert not run.converged
    assert torch.allclose(run.variables["features"], Uphill().retract(start)["features"], atol=1e-14)


@dataclass
class Kink(ReLUProblem):
    """A pit at 1 with sides of slopes 2 and 1, which no gradient tells."""

    labels, num_classes = torch.tensor([0, 1]), 2
    solvers = (SmoothedReLU, LBFGS)

    def draw(self, normal):
        return {"features": normal(2, 2)}

    def rounded_objective(self, variables, width):
        away = variables["features"] - 1
        return 1 + (2 * rounded_relu(away, width) + rounded_relu(-away, width)).sum()

    def certificate(self, variables):
        return Certificate(-math.inf)


def test_rounding_finds_a_minimum_at_a_kink():
    run = SmoothedReLU(widths=(0.5, 0.03)).run(Kink(), Kink().start(0))
    assert run.converged
    assert run.description.startswith("ReLU rounded off within 0.03, L-BFGS, ")
    # Where the rounded slopes balance: 2 (x + w)/2w = (w - x)/2w at x = -w/3.
    assert torch.allclose(run.variables["features"], torch.full((2, 2), 0.99, dtype=torch.float64), atol=1e-7)
    assert run.history[-1] == pytest.approx(1 + 4 * 0.01)
    # The entry before belongs to the rounded objective, of two parabolas.
    assert run.history[-2] == pytest.approx(1 + 4 * (2 * 0.02**2 + 0.04**2) / 0.12)
    assert Kink().objective(Kink().start(0)) == Kink().rounded_objective(Kink().start(0), 0.0)


def test_every_width_goes_on_from_the_one_before():
    run = SmoothedReLU(widths=(0.5, 0.03)).run(Kink(), Kink().start(0))
    first = SmoothedReLU(widths=(0.5,)).run(Kink(), Kink().start(0))
    second = SmoothedReLU(widths=(0.03,)).run(Kink(), first.variables)
    assert run.history == first.history[:-1] + second.history
    assert run.history[0] == float(Kink().rounded_objective(Kink().start(0), 0.5))
    # A descent that stops early has not converged.
    short = SmoothedReLU(descent=LBFGS(max_iterations=1)).run(Kink(), Kink().start(0))
    assert not short.converged
    with pytest.raises(NotConverged, match=r"^Not converged: ReLU rounded off within 0\.0001"):
        Kink().solve(SmoothedReLU(descent=LBFGS(max_iterations=1)))


def test_each_descent_goes_on_to_a_tenth_of_the_tolerance():
    for tolerance in (1e-2, 1e-5):
        run = SmoothedReLU(widths=(0.5,), tolerance=tolerance).run(Kink(), Kink().start(0))
        leaf = run.variables["features"].requires_grad_()
        value = Kink().rounded_objective({"features": leaf}, 0.5)
        (gradient,) = torch.autograd.grad(value, leaf)
        assert run.converged
        assert scaled_gradient(float(value.detach()), {"a": gradient}, {"a": leaf.detach()}) <= 0.1 * tolerance


def test_defaults_are_those_of_the_help():
    """What a user leaves out is what ``ncollapse solve`` prints."""
    assert LBFGS() == LBFGS(tolerance=1e-6, max_iterations=20_000, memory=30)
    assert GradientDescent() == GradientDescent(learning_rate=0.1, tolerance=1e-9, max_iterations=100_000)
    assert ProjectedGradient() == ProjectedGradient(tolerance=1e-7, max_iterations=20_000)
    assert SmoothedReLU() == SmoothedReLU(widths=(0.1, 0.01, 0.001, 0.0001), tolerance=1e-4, descent=LBFGS())
    assert Proximal() == Proximal(tolerance=1e-12, max_iterations=100_000)
    assert GroupedNewton() == GroupedNewton(tolerance=1e-12, max_iterations=200)
    assert MarginFlow() == MarginFlow(learning_rate=1.5, num_steps=50_000, tolerance=1e-2)
    assert EliminatedFeatures() == EliminatedFeatures(starts=6, descent=LBFGS())


@pytest.mark.parametrize(
    "solver",
    [LBFGS(tolerance=0.0), GradientDescent(0.1, tolerance=0.0), ProjectedGradient(tolerance=0.0)],
    ids=lambda s: type(s).__name__,
)
def test_a_start_without_a_slope_has_converged_at_any_tolerance(solver):
    problem = BowlInBalls() if isinstance(solver, ProjectedGradient) else Bowl()
    start = {"features": TARGET.clone()}
    if isinstance(solver, ProjectedGradient):
        start = {"features": torch.zeros(2, 2, dtype=torch.float64)}
        problem.objective = lambda variables: 2 + (CURVATURES * variables["features"].square()).sum()
    run = solver.run(problem, start)
    assert run.converged
    assert len(run.history) == 1
    assert torch.equal(run.variables["features"], start["features"])
