"""Normalized features and bounded outputs: printed values, descent, bounds in every dimension, Jensen."""

import math

import pytest
import torch

from ncollapse.surrogates import UFM, BoundedOutputs, NormalizedFeatures, ProjectedGradient, average_by_class, balanced


def etf_gram(num_classes):
    return (num_classes * torch.eye(num_classes, dtype=torch.float64) - 1) / (num_classes - 1)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0, 7.0, 10.0])
def test_riemannian_descent_attains_the_value(temperature):
    model = NormalizedFeatures(balanced(5, 2), 8, temperature=temperature)
    found = model.solve(seed=1)
    assert found.value == pytest.approx(math.log(1 + 4 * math.exp(-1.25 * temperature)), rel=1e-9)
    assert found.certified
    weight, features = found.variables["weight"], found.variables["features"]
    assert torch.allclose(weight @ weight.T, etf_gram(5), atol=1e-4)
    assert torch.allclose(features, weight[model.labels], atol=1e-4)


@pytest.mark.parametrize("num_classes", [3, 4, 5, 6])
def test_the_energy_of_lu_and_steinerberger(num_classes):
    model = NormalizedFeatures(balanced(num_classes, 1), num_classes)
    expected = math.log(1 + (num_classes - 1) * math.exp(-num_classes / (num_classes - 1)))
    assert model.solve(seed=0).value == pytest.approx(expected, abs=1e-11)
    assert model.closed_form().value == pytest.approx(expected, abs=1e-15)


def test_printed_value():
    assert NormalizedFeatures(balanced(4, 1), 3, temperature=2.0).closed_form().value == pytest.approx(0.1893388394, abs=1e-10)
    assert NormalizedFeatures(balanced(4, 1), 3, temperature=2.0).minimum == pytest.approx(
        math.log1p(3 * math.exp(-8 / 3)), rel=1e-15
    )


@pytest.mark.parametrize("dim", [2, 3, 6])
def test_no_point_of_the_sphere_is_below_the_bound(dim):
    model = NormalizedFeatures(balanced(4, 3), dim, temperature=3.0)
    for seed in range(10):
        assert float(model.objective(model.start(seed))) > model.minimum
    found = model.solve(seed=0)
    assert found.certified == (dim >= 3) == (found.certificate.inequality is None)
    assert found.value >= model.minimum * (1 - 1e-12)


def test_in_the_plane_classes_take_the_corners_of_a_polygon():
    """K = 4 on a circle: a square, whose value is known."""
    model = NormalizedFeatures(balanced(4, 1), 2, temperature=5.0)
    best = min(model.solve(seed=seed).value for seed in range(5))
    # Features lie on their corners by symmetry.
    square = math.log(1 + 2 * math.exp(-5) + math.exp(-10))
    assert best == pytest.approx(square, rel=1e-9)


def test_the_riemannian_gradient_is_tangent_and_steepest():
    model = NormalizedFeatures(balanced(4, 2), 5, temperature=2.0)
    point = model.start(3)
    _, gradient = model.value_and_gradient(point)
    slope = model.tangent(point, gradient)
    for name, rows in slope.items():
        assert torch.allclose((rows * point[name]).sum(dim=1), torch.zeros(len(rows), dtype=torch.float64), atol=1e-15)
    step = 1e-6
    ahead = model.retract({name: rows - step * slope[name] for name, rows in point.items()})
    fallen = float(model.objective(point) - model.objective(ahead))
    assert fallen / step == pytest.approx(sum(float(rows.square().sum()) for rows in slope.values()), rel=1e-4)


@pytest.mark.parametrize("num_classes", [2, 3, 5])
@pytest.mark.parametrize("radius", [0.5, 3.0, 8.0])
def test_outputs_in_a_ball(num_classes, radius):
    model = BoundedOutputs((1, *[3] * (num_classes - 1)), radius=radius)
    value = math.log(1 + (num_classes - 1) * math.exp(-radius * math.sqrt(num_classes / (num_classes - 1))))
    closed, found = model.closed_form(), model.solve(seed=0)
    for solution in (closed, found):
        outputs = solution.variables["features"]
        assert solution.value == pytest.approx(value, rel=1e-9)
        assert torch.allclose(torch.linalg.norm(outputs, dim=1), torch.full((len(outputs),), radius, dtype=torch.float64))
        gram = radius**2 * etf_gram(num_classes)[model.labels][:, model.labels]
        assert torch.allclose(outputs @ outputs.T, gram, atol=1e-3 * radius**2)
        assert solution.certified
    # The formula, entry by entry.
    right, wrong = math.sqrt((num_classes - 1) / num_classes), -1 / math.sqrt(num_classes * (num_classes - 1))
    assert float(closed.variables["features"][0, 0]) == pytest.approx(radius * right, rel=1e-12)
    assert float(closed.variables["features"][0, 1]) == pytest.approx(radius * wrong, rel=1e-12)
    for seed in range(10):
        assert float(model.objective(model.start(seed))) > model.minimum


def test_averaging_by_class_never_raises_the_risk():
    model = BoundedOutputs((6, 2, 9), radius=50.0)
    for seed in range(50):
        point = model.start(seed)
        averaged = average_by_class(point["features"], model.labels)
        assert float(model.objective({"features": averaged})) < float(model.objective(point))
        for k in range(3):
            rows = averaged[model.labels == k]
            assert torch.allclose(rows, point["features"][model.labels == k].mean(dim=0).expand_as(rows))
    assert torch.allclose(average_by_class(averaged, model.labels), averaged, atol=1e-15)


def test_a_descent_cut_short_says_so():
    model = NormalizedFeatures(balanced(5, 2), 8, temperature=3.0)
    found = model.solve(ProjectedGradient(max_iterations=3), allow_unconverged=True)
    assert found.status.startswith("Not converged: projected gradient descent, 3 steps")
    assert list(found.history) == sorted(found.history, reverse=True)


def test_projected_descent_refuses_other_problems():
    with pytest.raises(TypeError, match=r"for this UFM, got ProjectedGradient\(\)\. Take one of those"):
        UFM((2, 2), 2, loss="mse", lambda_w=0.1, lambda_h=0.1).solve(ProjectedGradient())


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: NormalizedFeatures(balanced(4, 1), 1), r"dim must be at least 2, got 1"),
        (
            lambda: NormalizedFeatures(balanced(4, 1), 3, temperature=0.0),
            r"temperature must be finite and positive, got 0\.0\.",
        ),
        (lambda: NormalizedFeatures(balanced(1, 1), 3), r"counts must be positive integers"),
        (lambda: NormalizedFeatures(balanced(5, 1), 3).closed_form(), r"a simplex ETF for dim >= 4, got 3\. Solve numerically"),
        (lambda: BoundedOutputs((3, 3), radius=-1.0), r"radius must be finite and positive, got -1\.0\."),
        (lambda: BoundedOutputs((3, 0), radius=1.0), r"counts must be positive integers"),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
