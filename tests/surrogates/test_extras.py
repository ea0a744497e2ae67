"""The numbers that only one model has: each against its definition, and where they are left out."""

import math
from dataclasses import replace

import pytest
import torch

from ncollapse import surrogates as models
from ncollapse.surrogates import MUFM, FixedETF, LayerPeeled, NearCollapse, balanced
from ncollapse.surrogates.extras import DrawnMUFM, NearlyCollapsed, extra_numbers, extra_sentence, num_majority

LABELS = torch.arange(3).repeat_interleave(4)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


INPUTS = torch.eye(3, 4, dtype=torch.float64)[LABELS] + 0.4 * normal(0, 12, 4)


def pfc1(features, num_classes):
    groups = features.reshape(num_classes, -1, features.shape[1])
    means = groups.mean(dim=1, keepdim=True)
    return float((groups - means).square().sum() / groups.shape[1] / (means - means.mean(dim=0)).square().sum())


def test_a_model_without_numbers_or_sentence():
    problem = models.NormalizedFeatures(balanced(3, 1), 2)
    solution = problem.closed_form()
    assert (extra_numbers(problem, solution), extra_sentence(problem, solution)) == ({}, None)


def test_one_number_of_a_model():
    ufm = models.UFM((9, 4), 2, lambda_w=0.01, lambda_h=0.04)
    assert extra_numbers(ufm, ufm.solve()) == {"largest_collapse_number": pytest.approx(13 * 0.02 / 2)}
    frame = FixedETF((3, 2), 2, energy_w=2.0, energy_h=8.0)
    assert extra_numbers(frame, frame.closed_form()) == {"scale": pytest.approx(4.0)}
    margin = models.MaxMargin((4, 4, 4), 3)
    found = extra_numbers(margin, margin.closed_form())
    assert found == {"normalized_margin": pytest.approx(0.125), "largest_margin": pytest.approx(0.125)}
    free = models.UnregularizedUFM(balanced(2, 3), 2)
    end = free.flow(free.start(0), duration=1.0, num_steps=30)
    assert extra_numbers(free, end) == {"conserved_drift": free.conserved_drift(end)}


def test_the_distance_of_a_sphere_model_is_left_out_in_too_few_dimensions():
    problem = models.GUFM(balanced(3, 2), 5, lambda_w=0.05)
    solution = problem.solution(problem.start(0), "start")
    distance = problem.distance(solution.variables["weight"], solution.variables["features"])
    assert extra_numbers(problem, solution) == {"scale": problem.scale, "distance_to_optima": distance}
    flat = replace(problem, dim=2)
    assert list(extra_numbers(flat, flat.solution(flat.start(0), "start"))) == ["scale"]


@pytest.mark.parametrize(("loss", "bias"), [("mse", "none"), ("mse", "free"), ("cross_entropy", "none")])
def test_the_data_beside_the_multilayer_model(loss, bias):
    problem = MUFM(INPUTS, LABELS, lambda_w=0.05, lambda_h=0.02, loss=loss, bias=bias)
    solution = problem.solve()
    found = extra_numbers(problem, solution)
    features = solution.variables["features"]
    cosine = float((features * INPUTS).sum() / features.norm() / INPUTS.norm())
    assert found["data_pfc1"] == pytest.approx(pfc1(INPUTS, 3), rel=1e-12)
    assert 0 < found["data_pfc2"] < 1
    assert 0.5 < found["data_pfc3"] <= 1
    assert (found["alignment"], found["alignment_distance"]) == pytest.approx((cosine, math.sqrt(2 - 2 * cosine)))
    # Theorem 4 is for the squared loss without bias.
    assert ("lambda_critical" in found) == ("lambda_bound" in found) == ((loss, bias) == ("mse", "none"))
    if "lambda_bound" in found:
        assert found["lambda_bound"] == pytest.approx(1 / (2 * 12 * 3 * 0.05))
        assert found["lambda_critical"] == models.growth_threshold(problem, solution.variables).inequality.left
    assert extra_sentence(problem, solution) == str(models.collapse_progress(problem, solution.variables))


def test_a_drawn_model_is_the_model_with_more_data():
    problem = MUFM(INPUTS, LABELS, lambda_w=0.05, lambda_h=0.02, loss="cross_entropy", bias="free")
    several = DrawnMUFM.on(problem, lambda seed: (INPUTS + seed, LABELS), 3)
    assert several.solve(seed=1).value == problem.solve(seed=1).value
    for seed, one in enumerate(several.all_draws()):
        assert torch.equal(one.inputs, INPUTS + seed)
        assert (one.lambda_w, one.lambda_h, one.loss, one.bias) == (0.05, 0.02, "cross_entropy", "free")
    assert seed == 2


def test_the_ratio_near_collapse_beside_its_formula():
    model = NearCollapse(balanced(3, 4), scale=1.2, lambda_w=0.05, lambda_h=0.02)
    problem = NearlyCollapsed(*model.inputs(5, 1e-3, 0), lambda_w=0.05, lambda_h=0.02, model=model)
    solution = problem.closed_form()
    found = extra_numbers(problem, solution)
    before, after = (pfc1(rows, 3) for rows in (problem.inputs, solution.variables["features"]))
    assert found["data_pfc1"] == pytest.approx(before, rel=1e-12)
    assert found["pfc1_ratio"] == pytest.approx(after / before, rel=1e-9) == pytest.approx(found["predicted_ratio"], rel=1e-5)
    spread = model.spread(problem.inputs)
    slopes = (found["sensitivity_lambda_h"], found["sensitivity_lambda_w"])
    assert slopes == model.sensitivities(*spread)
    assert 0 < abs(slopes[1]) < slopes[0]


@pytest.mark.parametrize(
    ("counts", "expected"),
    [((3, 3, 1, 1), 2), ((2, 2, 2), 0), ((1, 3, 3), 0), ((3, 2, 1), 0), ((2, 1, 2), 0), ((5, 1, 1, 1), 1)],
)
def test_majorities_are_counted(counts, expected):
    problem = LayerPeeled(counts, energy_w=1.0, energy_h=2.0)
    assert num_majority(problem) == expected
    solution = problem.solve()
    found = extra_numbers(problem, solution)
    assert found["ratio"] == max(counts) / min(counts)
    assert ("minority_cosine" in found) == ("minority_threshold" in found) == (expected > 0)
    if expected:
        assert found["minority_cosine"] == models.minority_cosine(solution, expected)
        threshold = models.minority_threshold(len(counts), expected, energy_w=1.0, energy_h=2.0)
        assert found["minority_threshold"] == pytest.approx(threshold)


def test_there_is_no_threshold_of_a_single_minority():
    problem = LayerPeeled((2, 2, 1), energy_w=1.0, energy_h=2.0)
    assert math.isnan(extra_numbers(problem, problem.solve())["minority_threshold"])


def test_ranks_of_a_deep_model():
    problem = models.DeepUFM((2, 2, 2), 4, lambdas_w=(0.02, 0.03), lambda_h=0.01)
    found = extra_numbers(problem, problem.closed_form())
    assert found == {"collapse_value": problem.minimum, "rank_0": 3.0, "rank_1": 3.0}


def test_signals_and_parts_of_the_central_path():
    problem = models.CentralPath(balanced(4, 5), 4)
    solution = problem.solution(problem.start(0), "start")
    found = extra_numbers(problem, solution)
    signals = problem.signals(solution.variables["features"]).tolist()
    assert (found["largest_signal"], found["smallest_signal"]) == (max(signals), min(signals))
    assert (found["loss_nc1"], found["loss_nc23"]) == problem.losses(solution.variables["features"])


def test_hidden_units_in_use_are_those_with_a_weight():
    problem = models.BatchNormNet(normal(1, 6, 8), torch.arange(3).repeat(2), lambda_w=0.3, width=5)
    solution = problem.closed_form()
    assert extra_numbers(problem, solution) == {"hidden_units_in_use": 3.0}
    weight = solution.variables["weight"].clone()
    # A small or negative weight of one class is enough; one of rounding is not.
    weight[:, 3], weight[2, 3], weight[1, 4] = 9e-5, -1.1e-4, -9e-5
    more = replace(solution, variables={**solution.variables, "weight": weight})
    assert extra_numbers(problem, more) == {"hidden_units_in_use": 4.0}


def test_margins_of_weight_normalization():
    problem = models.WeightNormalizedNet(normal(2, 6, 3), torch.arange(2).repeat(3), lambda_w=0.1, width=4)
    solution = problem.solution({**problem.start(0), "rho": torch.tensor([1.5], dtype=torch.float64)}, "start")
    margins = problem.margins(solution.variables)
    mean = float(margins.mean())
    assert extra_numbers(problem, solution) == {
        "rho": 1.5,
        "rho_of_margins": pytest.approx(float(margins.sum()) / (0.6 + float(margins.square().sum()))),
        "margin_variation": pytest.approx(float((margins - mean).square().mean().sqrt()) / abs(mean)),
        "smallest_margin": float(margins.min()),
    }


def test_rates_of_a_locally_elastic_path():
    sde = models.LocallyElasticSDE(3, kind="L", alpha=0.8, beta=-0.3, start_time=1.0)
    initial = torch.eye(3, dtype=torch.float64) + 0.3 * normal(0, 3, 3)
    path = sde.simulate(initial, torch.linspace(1, 5, 401, dtype=torch.float64), counts=(20,) * 3, noise=0.3)
    found = extra_numbers(sde, sde.solution(path))
    assert (found["integral_alpha"], found["integral_beta"]) == pytest.approx((3.2, -1.2))
    assert (found["estimated_alpha"], found["estimated_beta"]) == pytest.approx((3.2, -1.2), rel=0.02)
    last = models.estimate_integrals(path.means, kind="L")
    assert (found["estimated_alpha"], found["estimated_beta"]) == (float(last.alpha[-1]), float(last.beta[-1]))
    assert found["separability"] == models.pairwise_separability(path)
