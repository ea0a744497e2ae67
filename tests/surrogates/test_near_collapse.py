"""Near collapse: printed numbers, the first-order formula against the solved model, which decay matters."""

import math

import pytest
import torch

from ncollapse.surrogates import NearCollapse, balanced

MODEL = NearCollapse(balanced(4, 25), scale=1.3, lambda_w=0.05, lambda_h=0.02)


def test_printed_numbers():
    assert MODEL.weight_scale == pytest.approx(0.6738724571, abs=1e-10)
    assert MODEL.feature_scale == pytest.approx(1.3340397714, abs=1e-10)
    assert MODEL.shrink == pytest.approx(0.8149613578, abs=1e-10)


def pfc1(features, num_classes, per_class):
    grouped = features.reshape(num_classes, per_class, -1)
    means = grouped.mean(dim=1, keepdim=True)
    return float((grouped - means).square().sum() / per_class / (means - means.mean(dim=0)).square().sum())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_ratio_is_that_of_the_solved_model(seed):
    # Entries of this size give deviations of norm 0.01 in all.
    inputs, labels = MODEL.inputs(12, 0.01 / math.sqrt(1200), seed)
    solved = MODEL.problem(inputs, labels).solve()
    found = pfc1(solved.variables["features"], 4, 25) / pfc1(inputs, 4, 25)
    assert found == pytest.approx(MODEL.ratio(*MODEL.spread(inputs)), abs=2e-5)
    formula = MODEL.closed_form(inputs, labels)
    assert solved.certified
    assert formula.certified
    assert torch.allclose(formula.variables["features"], solved.variables["features"], atol=1e-5)


def test_the_formula_errs_by_the_square_of_the_spread():
    errors = []
    for noise in (0.04, 0.02, 0.01):
        inputs, labels = MODEL.inputs(12, noise, 0)
        formula, solved = MODEL.closed_form(inputs, labels), MODEL.problem(inputs, labels).solve()
        errors.append(float(torch.linalg.norm(formula.variables["features"] - solved.variables["features"])))
        assert formula.value >= solved.value
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.1)


def test_the_means_move_outwards_to_the_best_scale():
    for scale, lambda_w, lambda_h in [(1.3, 0.05, 0.02), (0.3, 0.05, 0.001), (5.0, 0.5, 1e-4), (0.1, 1e-3, 1e-6)]:
        model = NearCollapse(balanced(4, 25), scale=scale, lambda_w=lambda_w, lambda_h=lambda_h)
        identity, best = torch.eye(4, dtype=torch.float64), model.feature_scale
        problem = model.problem(scale * identity.repeat_interleave(25, dim=0), torch.arange(4).repeat_interleave(25))

        def value(m, problem=problem, lambda_w=lambda_w, identity=identity):
            point = {"weight": m / (m**2 + 4 * lambda_w) * identity, "features": m * identity.repeat_interleave(25, dim=0)}
            return float(problem.objective(point))

        assert best > scale
        assert value(best) <= min(value(scale * (1 + i / 50)) for i in range(-25, 500)) + 1e-14


def test_decays_as_means_are_those_of_the_paper():
    model = NearCollapse.from_means(balanced(4, 25), scale=1.3, lambda_w=0.2, lambda_h=2.0)
    assert (model.lambda_w, model.lambda_h) == (0.05, 0.02)
    inputs, labels = model.inputs(6, 0.1, 3)
    point = model.problem(inputs, labels).start(0)
    errors = point["features"] @ point["weight"].T - torch.eye(4, dtype=torch.float64)[labels]
    moves = point["features"] - inputs
    paper = errors.square().sum() / 200 + 0.2 / 8 * point["weight"].square().sum() + 2.0 / 200 * moves.square().sum()
    assert float(model.problem(inputs, labels).objective(point)) == pytest.approx(float(paper), rel=1e-14)


@pytest.mark.parametrize("lambda_h", [0.002, 0.02, 0.2])
@pytest.mark.parametrize("lambda_w", [0.005, 0.05, 0.1])
def test_the_cost_of_moving_matters_more(lambda_w, lambda_h):
    by_cost, by_decay = NearCollapse(balanced(4, 25), scale=1.3, lambda_w=lambda_w, lambda_h=lambda_h).sensitivities(1.0, 2.0)
    assert by_cost > 0
    # Where moving costs next to nothing, both matter.
    assert abs(by_decay) < (0.15 if lambda_h >= 0.02 else 0.6) * by_cost


def test_sensitivities_are_slopes():
    inside, outside = 1.0, 2.0
    by_cost, by_decay = MODEL.sensitivities(inside, outside)
    ratio = MODEL.ratio(inside, outside)
    costlier = NearCollapse(balanced(4, 25), scale=1.3, lambda_w=0.05, lambda_h=0.02 * 1.001).ratio(inside, outside)
    heavier = NearCollapse(balanced(4, 25), scale=1.3, lambda_w=0.05 * 1.001, lambda_h=0.02).ratio(inside, outside)
    assert math.log(costlier / ratio) / math.log(1.001) == pytest.approx(by_cost, rel=1e-2)
    assert math.log(heavier / ratio) / math.log(1.001) == pytest.approx(by_decay, rel=1e-2)


@pytest.mark.parametrize(("scale", "lambda_w", "lambda_h"), [(1.3, 0.05, 0.02), (0.4, 0.1, 3.0), (2.0, 2.5, 1e-4)])
def test_scales_solve_their_equations(scale, lambda_w, lambda_h):
    model = NearCollapse((7, 7, 7), scale=scale, lambda_w=lambda_w, lambda_h=lambda_h)
    m, w = model.feature_scale, model.weight_scale
    assert lambda_h * 21 * (m - scale) == pytest.approx(3 * lambda_w * m / (m**2 + 3 * lambda_w) ** 2, rel=1e-10)
    assert w == pytest.approx(m / (m**2 + 3 * lambda_w), rel=1e-14)
    assert model.shrink == pytest.approx(lambda_h / (w**2 / 21 + lambda_h), rel=1e-14)
    assert model.ratio(2.0, 3.0) == pytest.approx((scale / m) ** 2 * (model.shrink**2 * 2 + 3) / 5, rel=1e-14)
    assert model.ratio(0.0, 3.0) == pytest.approx((scale / m) ** 2)


def test_data_are_means_on_axes_and_noise_without_a_mean():
    model = NearCollapse((40, 40, 40), scale=0.9, lambda_w=0.05, lambda_h=0.02)
    inputs, labels = model.inputs(5, 0.2, 3)
    assert labels.tolist() == [0] * 40 + [1] * 40 + [2] * 40
    groups = inputs.reshape(3, 40, 5)
    assert torch.allclose(groups.mean(dim=1), 0.9 * torch.eye(3, 5, dtype=torch.float64), atol=1e-14)
    deviations = groups - groups.mean(dim=1, keepdim=True)
    assert float(deviations.std()) == pytest.approx(0.2, rel=0.1)
    squares = deviations.square().sum(dim=(0, 1))
    assert model.spread(inputs) == pytest.approx((float(squares[:3].sum()), float(squares[3:].sum())), rel=1e-12)
    assert not torch.equal(inputs, model.inputs(5, 0.2, 4)[0])
    point = model.closed_form(inputs, labels).variables
    shrunk = torch.cat([model.shrink * deviations[..., :3], deviations[..., 3:]], dim=2).reshape(120, 5)
    means = torch.eye(3, 5, dtype=torch.float64)
    assert torch.allclose(point["features"], model.feature_scale * means[labels] + shrunk, atol=1e-13)
    assert torch.allclose(point["weight"], model.weight_scale * means, atol=1e-15)


def test_the_least_scale_is_allowed():
    assert NearCollapse((2,) * 3, scale=0.5, lambda_w=0.25, lambda_h=1.0).feature_scale > 0.5


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: NearCollapse(balanced(4, 25), scale=1.3, lambda_w=-0.05, lambda_h=0.02),
            r"lambda_w must be finite and positive, got -0\.05\.",
        ),
        (lambda: NearCollapse(balanced(1, 25), scale=1.3, lambda_w=0.05, lambda_h=0.02), r"counts must be positive integers"),
        (
            lambda: NearCollapse(balanced(4, 25), scale=0.2, lambda_w=0.05, lambda_h=0.02),
            r"needs scale >= √\(K λ_W / 3\) = 0\.258199, got 0\.2\.",
        ),
        (lambda: NearCollapse((2, 3), scale=1.3, lambda_w=0.05, lambda_h=0.02), r"NearCollapse needs balanced classes"),
        (lambda: NearCollapse((2, 2), scale=-1.3, lambda_w=0.05, lambda_h=0.02), r"scale must be finite and positive"),
        (lambda: NearCollapse((2, 2), scale=1.3, lambda_w=0.05, lambda_h=0.0), r"lambda_h must be finite and positive"),
        (lambda: MODEL.inputs(3, 0.1, 0), r"Orthogonal class means need dim >= 4, got 3\."),
        (lambda: MODEL.ratio(-1, 2), r"must be at least 0 and not both 0, got -1 and 2\."),
        (lambda: MODEL.ratio(0, 0), r"must be at least 0 and not both 0, got 0 and 0\."),
    ],
)
def test_errors_name_the_condition(call, words):
    with pytest.raises(ValueError, match=words):
        call()
