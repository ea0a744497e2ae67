"""Batch and weight normalization: closed forms reached from above, bounds at random points, equal margins."""

import math

import pytest
import torch

from ncollapse.surrogates import LBFGS, BatchNormNet, GradientDescent, WeightNormalizedNet, best_norm, margin_variation
from ncollapse.surrogates.batch_norm_net import normalize_batch
from ncollapse.surrogates.solving.solvers import rounded_relu

LABELS = torch.arange(4).repeat_interleave(5)
TWO = torch.arange(2).repeat_interleave(10)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def two_classes(seed=0, noise=0.3):
    means = torch.tensor([[-1.0], [1.0]], dtype=torch.float64) * torch.eye(1, 10, dtype=torch.float64)
    return means[TWO] + noise * normal(seed, 20, 10)


@pytest.mark.parametrize("counts", [(5, 5, 5, 5), (7, 4, 2)])
def test_batch_normalization_reaches_the_indicators(counts):
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    model = BatchNormNet(normal(0, len(labels), 40), labels, lambda_w=0.5)
    point = model.closed_form().variables
    indicators = torch.eye(len(counts), dtype=torch.float64)[labels]
    reached = normalize_batch(model.inputs @ point["hidden"].T)
    # Before the decay's scale: γ² + α² = 1.
    gamma, alpha = point["gamma"] / model.sizes.sqrt(), point["alpha"] / model.sizes.sqrt()
    assert torch.allclose(gamma.square() + alpha.square(), torch.ones_like(gamma), atol=1e-15)
    units = reached * gamma + alpha / math.sqrt(len(labels))
    assert torch.allclose(units, indicators / torch.linalg.norm(indicators, dim=0), atol=1e-14)
    if counts == (5, 5, 5, 5):
        assert gamma.tolist() == pytest.approx([0.8660254038] * 4, abs=1e-10)
        assert alpha.tolist() == pytest.approx([0.5] * 4, abs=1e-14)


def test_the_closed_form_has_the_printed_objective_and_geometry():
    model = BatchNormNet(normal(0, 20, 40), LABELS, lambda_w=0.5, width=9)
    closed = model.closed_form()
    size = math.sqrt(5) - 0.5
    assert closed.value == pytest.approx(4 * (0.5 * 0.5**2 + 0.5 * size), rel=1e-13)
    assert closed.certified
    features, weight = closed.variables["features"], closed.variables["weight"]
    assert torch.allclose(features @ weight.T, size / math.sqrt(5) * torch.eye(4, dtype=torch.float64)[LABELS], atol=1e-13)
    assert float(features.min()) > -1e-13
    metrics = closed.metrics(["pfc1", "pfc2"])
    assert metrics == pytest.approx({"pfc1": 0, "pfc2": 0}, abs=1e-7)


@pytest.mark.parametrize("beta", [0.2, 0.5])
def test_descent_reaches_the_batch_norm_value_from_above(beta):
    model = BatchNormNet(normal(0, 20, 40), LABELS, lambda_w=beta, width=20)
    found = model.solve(LBFGS(max_iterations=500), seed=1, allow_unconverged=True)
    assert min(found.history) >= model.minimum * (1 - 1e-12)
    assert found.value == pytest.approx(model.minimum, rel=1e-4)


def test_random_points_are_above_the_batch_norm_bound():
    for seed in range(20):
        model = BatchNormNet(normal(seed, 20, 30), LABELS, lambda_w=1.5, width=6)
        assert float(model.objective(model.start(seed))) > model.minimum
    # Beyond √n classes are given up one by one.
    labels = torch.arange(2).repeat_interleave(torch.tensor([1, 9]))
    closed = BatchNormNet(normal(0, 10, 12), labels, lambda_w=2.0).closed_form()
    assert closed.value == pytest.approx(0.5 + 0.5 * 4 + 2 * 1, rel=1e-13)
    assert not closed.certificate.inequality.holds


def test_stationary_norm():
    margins, decay = normal(0, 30) * 0.1 + 0.5, 0.02
    best = best_norm(margins, lambda_w=decay)

    def loss(rho):
        return float((1 - rho * margins).square().mean() + decay * rho**2)

    assert (loss(best + 1e-5) - loss(best - 1e-5)) / 2e-5 == pytest.approx(0, abs=1e-9)
    assert loss(best) < min(loss(best + 0.1), loss(best - 0.1))
    assert best_norm(torch.full((7,), 0.25), lambda_w=1e-12) == pytest.approx(4, rel=1e-9)
    # At any point of the model its slope in ρ says how far that is.
    model = WeightNormalizedNet(two_classes(), TWO, lambda_w=decay)
    for seed in range(5):
        point = model.start(seed)
        margins = model.margins(point)
        slope = float(model.value_and_gradient(point)[1]["rho"])
        away = 1.0 - best_norm(margins, lambda_w=decay)
        assert slope == pytest.approx(2 * (decay + float(margins.square().mean())) * away, rel=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_trained_margins_become_equal(seed):
    model = WeightNormalizedNet(two_classes(10 * seed), TWO, lambda_w=1e-4)
    start = model.start(seed)
    found = model.solve(LBFGS(max_iterations=500), start=start, allow_unconverged=True)
    margins = model.margins(found.variables)
    assert margin_variation(margins) < 0.05 < margin_variation(model.margins(start))
    # As near to stationary as the kinks let descent come.
    assert float(found.variables["rho"]) == pytest.approx(best_norm(margins, lambda_w=1e-4), rel=1e-3)
    assert found.value >= model.minimum
    assert found.metrics(["accuracy"])["accuracy"] == 1


def test_descent_converges_at_the_kinks():
    """Plain L-BFGS stops there with a gradient that is not zero; every minimum of this network lies at kinks."""
    model = WeightNormalizedNet(two_classes(), TWO, lambda_w=1e-3, width=8)
    assert not model.solve(LBFGS(), seed=0, allow_unconverged=True).converged
    found = model.solve(seed=0)
    assert found.status.startswith("Critical point, not certified: ReLU rounded off within 0.0001")
    assert found.value == pytest.approx(found.history[-1], rel=1e-12)
    hidden, outer, rho = (found.variables[name] for name in ("hidden", "outer", "rho"))
    reached = model.inputs @ (hidden / torch.linalg.norm(hidden)).T
    assert int((reached.abs() < 1e-4).sum()) > 0
    # No small step lowers the objective.
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        step = {name: part + 1e-2 * part.abs().max() * torch.randn(part.shape, generator=generator, dtype=torch.float64)
                for name, part in {"hidden": hidden, "outer": outer, "rho": rho}.items()}  # fmt: skip
        assert float(model.objective(step)) > found.value


def test_rounding_off_is_a_mean_over_shifts():
    inputs = torch.linspace(-0.3, 0.3, 13, dtype=torch.float64)
    shifts = torch.linspace(-0.1, 0.1, 20_001, dtype=torch.float64)
    expected = torch.relu(inputs.unsqueeze(1) + shifts).mean(dim=1)
    assert torch.allclose(rounded_relu(inputs, 0.1), expected, atol=1e-5)
    wide = torch.tensor([-1.0, -0.5, 0.0, 0.5, 1.0, 2.0], dtype=torch.float64)
    assert rounded_relu(wide, 1.0).tolist() == [0, 0.0625, 0.25, 0.5625, 1, 2]
    leaf = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    assert torch.equal(rounded_relu(leaf, 0.0), torch.relu(leaf))
    assert torch.autograd.grad(rounded_relu(leaf, 0.0).sum(), leaf)[0].tolist() == [0, 0, 1]


def test_margins_get_more_alike_along_plain_descent():
    model = WeightNormalizedNet(two_classes(), TWO, lambda_w=1e-3)
    start, seen = model.start(0), []
    for _ in range(4):
        seen.append(margin_variation(model.margins(start)))
        found = model.solve(GradientDescent(0.05, max_iterations=500), start=start, allow_unconverged=True).variables
        start = {name: found[name] for name in ("hidden", "outer", "rho")}
    assert seen == sorted(seen, reverse=True)


@pytest.mark.parametrize(("counts", "decay"), [((10, 10), 1e-3), ((4, 9), 0.05)])
def test_two_points_have_a_closed_form(counts, decay):
    labels = torch.arange(2).repeat_interleave(torch.tensor(counts))
    points = torch.tensor([[2.0, 0.0, 0.0], [-0.5, 1.0, 0.0]], dtype=torch.float64)
    model = WeightNormalizedNet(points[labels], labels, lambda_w=decay, width=8)
    closed = model.closed_form()
    assert closed.value == pytest.approx(model.minimum, rel=1e-13)
    assert closed.certified
    assert float(closed.variables["rho"]) == pytest.approx(
        best_norm(model.margins(closed.variables), lambda_w=decay), rel=1e-12
    )
    found = [model.solve(seed=seed, allow_unconverged=True).value for seed in range(4)]
    assert min(found) == pytest.approx(model.minimum, rel=1e-8)


def test_random_points_are_above_the_weight_norm_bound():
    for seed in range(20):
        model = WeightNormalizedNet(two_classes(seed, noise=1.0), TWO, lambda_w=10.0 ** -(seed % 4))
        point = model.start(seed)
        best = {**point, "rho": torch.tensor([best_norm(model.margins(point), lambda_w=model.lambda_w)], dtype=torch.float64)}
        assert float(model.objective(best)) > model.minimum


def test_variation_of_margins():
    assert margin_variation(torch.tensor([-1.0, -3.0])) == pytest.approx(0.5)
    assert math.isnan(margin_variation(torch.tensor([-1.0, 1.0])))
    assert margin_variation(torch.full((4,), 0.3)) == 0


def points(first, second, counts=(2, 3), **options):
    labels = torch.arange(2).repeat_interleave(torch.tensor(counts))
    return WeightNormalizedNet(torch.tensor([first, second])[labels], labels, **{"lambda_w": 0.05, "width": 2, **options})


def test_where_two_points_have_no_closed_form():
    # A right angle is not acute; two units are enough.
    right = points([1.0, 0.0], [0.0, 2.0]).closed_form()
    assert right.certified
    assert right.value == pytest.approx(points([1.0, 0.0], [0.0, 2.0]).minimum, rel=1e-12)
    outputs = points([1.0, 0.0], [0.0, 2.0]).margins(right.variables) * right.variables["rho"]
    # The outputs of both classes stay below one, by the decay.
    assert 0 < float(outputs.min()) < float(outputs.max()) < 1
    assert right.value == pytest.approx(float((1 - outputs).square().mean()) + 0.05 * float(right.variables["rho"]) ** 2)
    assert points([1.0, 0.0], [-1.0, 2.0], counts=(1, 3)).closed_form().certified
    words = "needs one point per class, at an angle that is not acute, and a decay that keeps both classes"
    given_up = points([1.0, 0.0], [0.0, 9.0], lambda_w=8.0)
    assert not given_up.certificate(given_up.start(0)).inequality.holds
    for problem in (points([1.0, 0.0], [0.1, 2.0]), given_up):
        with pytest.raises(ValueError, match=words):
            problem.closed_form()
    inputs = torch.tensor([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.0], [-1.0, 0.0]])
    with pytest.raises(ValueError, match=words):
        WeightNormalizedNet(inputs, torch.tensor([0, 0, 1, 1]), lambda_w=0.05, width=2).closed_form()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: BatchNormNet(normal(0, 20, 40), LABELS, lambda_w=0), r"lambda_w must be finite and positive, got 0\."),
        (lambda: BatchNormNet(normal(0, 20, 10), LABELS, lambda_w=1), r"full row rank 20 .* got rank 10 of \(20, 10\)\."),
        (lambda: BatchNormNet(normal(0, 20, 40), LABELS, lambda_w=1, width=3), r"width >= 4, one unit per class, got 3\."),
        (
            lambda: BatchNormNet(normal(0, 20, 40), 2 * TWO, lambda_w=1),
            r"each with a sample, got counts \(10, 0, 10\)\.",
        ),
        (
            lambda: WeightNormalizedNet(normal(0, 20, 5), LABELS, lambda_w=1),
            r"two classes, 0 and 1, got counts \(5, 5, 5, 5\)\.",
        ),
        (lambda: WeightNormalizedNet(normal(0, 20, 5), TWO, lambda_w=-1), r"lambda_w must be finite and positive, got -1\."),
        (lambda: WeightNormalizedNet(normal(0, 20, 5), TWO, lambda_w=1, width=1), r"width must be at least 2"),
        (lambda: WeightNormalizedNet(normal(0, 20), TWO, lambda_w=1), r"inputs must have shape \(N, d\), got \(20,\)\."),
        (lambda: WeightNormalizedNet(TWO[:, None].double(), TWO, lambda_w=1), r"The inputs of a class are all zero"),
        (lambda: WeightNormalizedNet(normal(0, 20, 5), TWO, lambda_w=1).closed_form(), r"needs one point per class, at an"),
        (lambda: best_norm(torch.ones(3), lambda_w=0.0), r"lambda_w must be finite and positive, got 0\.0\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
