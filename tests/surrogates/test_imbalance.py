"""Minority collapse at the printed threshold, the limit of vanishing decay, saddles and the way down from them."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ncollapse.etf import simplex_etf
from ncollapse.surrogates import (
    UFM,
    LayerPeeled,
    Proximal,
    critical_point,
    minority_collapse_ratio,
    minority_cosine,
    minority_threshold,
    seli_geometry,
    solve_sdp,
)


def unit(matrix):
    return matrix / torch.linalg.norm(matrix)


def minority_spread(problem, num_minority):
    weight = problem.solve(Proximal()).variables["weight"][-num_minority:]
    return float(torch.linalg.norm(weight - weight.mean(dim=0)))


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6])
def test_minorities_collapse_where_printed(count):
    decay = math.sqrt(3.5) / (40 + 3 * count)
    spread = minority_spread(UFM((20, 20) + (count,) * 3, 6, loss="cross_entropy", lambda_w=decay, lambda_h=decay), 3)
    assert spread < 1e-9 if count <= 3 else spread > 1


def test_the_ratio_separates_collapse_from_none():
    assert minority_collapse_ratio(2, 3, lambda_w=1e-3, lambda_h=1, minority_count=3) == pytest.approx(7.628709, abs=1e-6)
    # At the threshold N² λ_W λ_H = n_B; n_A need not be whole there, so decays are chosen that put it between two counts.
    decay = math.sqrt(1e-3)
    for majority, collapsed in [(22, False), (23, True)]:
        ratio = majority / 3
        assert (ratio >= minority_collapse_ratio(2, 3, lambda_w=1e-3, lambda_h=1, minority_count=3)) == collapsed
        assert (
            minority_spread(UFM((majority,) * 2 + (3,) * 3, 5, loss="cross_entropy", lambda_w=decay, lambda_h=decay), 3) < 1e-9
        ) == collapsed


def test_both_forms_of_the_ratio_meet_at_the_threshold():
    ratio = minority_collapse_ratio(2, 3, lambda_w=1e-2, lambda_h=1e-1, minority_count=3)
    num_samples = 3 * (2 * ratio + 3)
    assert num_samples**2 * 1e-3 == pytest.approx(3, rel=1e-12)
    assert minority_collapse_ratio(2, 3, lambda_w=1e-2, lambda_h=1e-1, num_samples=num_samples) == pytest.approx(
        ratio, rel=1e-12
    )


def test_before_collapse_classes_of_one_size_form_blocks():
    solution = UFM((20, 20, 5, 5, 5), 6, loss="cross_entropy", lambda_w=0.02, lambda_h=0.02).solve(Proximal())
    gram = solution.variables["weight"] @ solution.variables["weight"].T
    blocks = [(gram[:2, :2], 2), (gram[2:, 2:], 3)]
    for block, size in blocks:
        off = block[~torch.eye(size, dtype=torch.bool)]
        assert float(off.max() - off.min()) < 1e-6
        assert float(block.diagonal().max() - block.diagonal().min()) < 1e-6
        assert float(block.diagonal()[0] - off[0]) > 1
    assert float(gram[:2, 2:].max() - gram[:2, 2:].min()) < 1e-6
    assert solution.metrics(["pfc1"])["pfc1"] < 1e-10


def test_zero_is_left_where_all_collapse():
    problem = UFM((4, 4, 4), 3, loss="cross_entropy", lambda_w=0.3, lambda_h=0.3)
    assert float(problem.collapse_numbers[0]) > 1
    assert problem.closed_form().value == pytest.approx(math.log(3), rel=1e-14)


def test_seli_is_an_etf_for_balanced_classes():
    for part in seli_geometry((6, 6, 6)):
        frame = simplex_etf(3, 3)
        assert torch.allclose(part / part.trace(), frame @ frame.T / 3, atol=1e-14)


def test_solutions_come_near_seli_as_the_decay_vanishes():
    """Only logarithmically: the distance times the logarithm of the decay stays what it is, within three hundredths."""
    counts, decays = (12, 8, 5, 1), (1e-3, 3e-4, 1e-4)
    target, means = seli_geometry(counts)
    for part, gram in [("weight", target), ("features", means)]:
        distances = []
        for decay in decays:
            rows = (
                UFM(counts, 4, loss="cross_entropy", lambda_w=decay, lambda_h=decay)
                .solve(Proximal(tolerance=1e-6))
                .variables[part]
            )
            rows = rows if part == "weight" else rows[[0, 12, 20, 25]]
            distances.append(float(torch.linalg.norm(unit(rows @ rows.T) - unit(gram))))
        assert all(later < earlier for earlier, later in pairwise(distances))
        products = [-distance * math.log(decay) for distance, decay in zip(distances, decays, strict=True)]
        assert max(products) < 1.03 * min(products)


def test_the_origin_is_a_strict_saddle():
    problem = UFM((5, 5, 5), 4, loss="cross_entropy", lambda_w=0.01, lambda_h=0.02)
    origin = {name: torch.zeros_like(tensor) for name, tensor in problem.start(0).items()}
    found = critical_point(problem, origin)
    assert (found.gradient_norm, found.imbalance) == (0, 0)
    assert not found.inequality.holds
    step = 1e-4
    moved = {name: origin[name] + step * found.direction[name] for name in origin}
    change = float(problem.objective(moved) - problem.objective(origin))
    assert change == pytest.approx(step**2 * found.curvature, rel=1e-6)


def test_a_saddle_of_lower_rank_is_left_along_the_direction():
    """Two of three orthogonal classes: critical, not minimal, and one free dimension to escape to."""
    problem = UFM((5, 5, 5), 3, loss="mse", lambda_w=0.01, lambda_h=0.02)
    minimum = problem.closed_form()
    weight, features = (minimum.variables[name].clone() for name in ("weight", "features"))
    lost = weight[2] / torch.linalg.norm(weight[2])
    saddle = {"weight": weight - torch.outer(weight @ lost, lost), "features": features - torch.outer(features @ lost, lost)}
    found = critical_point(problem, saddle)
    assert found.gradient_norm < 1e-15
    assert found.imbalance < 1e-15
    step = 1e-3
    moved = {name: saddle[name] + step * found.direction[name] for name in saddle}
    change = float(problem.objective(moved) - problem.objective(saddle))
    assert change == pytest.approx(step**2 * found.curvature, rel=1e-4)
    assert problem.solve(start=moved).value == pytest.approx(minimum.value, abs=1e-12)


def test_a_global_minimum_has_no_way_down():
    problem = UFM((5, 5, 5), 7, loss="cross_entropy", lambda_w=0.01, lambda_h=0.02)
    found = critical_point(problem, problem.solve().variables)
    assert found.gradient_norm < 1e-7
    assert found.inequality.holds
    assert found.direction is None


def test_cosines_of_minorities_leave_out_majorities_and_themselves():
    weight = torch.tensor([[9.0, 9.0], [2.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    problem = UFM((3, 1, 1, 1), 2, lambda_w=0.1, lambda_h=0.1)
    solution = problem.solution({"weight": weight.double(), "features": problem.start(0)["features"]}, "by hand")
    assert minority_cosine(solution, 1) == pytest.approx((0 + 2 / math.sqrt(2)) / 3)
    assert math.isnan(minority_cosine(solution, 3))


def test_seli_by_its_definition():
    counts = (4, 1, 2)
    targets = np.repeat(np.eye(3), counts, axis=1) - 1 / 3
    left, values, right = np.linalg.svd(targets, full_matrices=False)
    first = [0, 4, 5]
    weight, means = seli_geometry(counts)
    assert weight.numpy() == pytest.approx(left * values @ left.T, abs=1e-12)
    assert means.numpy() == pytest.approx((right.T * values @ right)[first][:, first], abs=1e-12)


def test_a_threshold_is_where_both_sides_of_its_condition_agree():
    found = minority_threshold(5, 2, energy_w=0.5, energy_h=4.0)
    for factor, holds in ((1 - 1e-5, False), (1 + 1e-5, True)):
        model = LayerPeeled.imbalanced(5, 2, factor * found, energy_w=0.5, energy_h=4.0)
        branch = model.solve().certificate.inequality
        assert (branch.left <= branch.right) == holds
    with pytest.raises(ValueError, match=r"do not collapse up to a ratio of 1e\+06 where energy_w \* energy_h is 60\. Lower"):
        minority_threshold(4, 2, energy_w=1.0, energy_h=60.0)
    # Of a product so small that two samples against one are too many.
    assert 1 <= minority_threshold(4, 2, energy_w=0.01, energy_h=0.01) < 2


def test_a_semidefinite_program_without_a_solution_is_told(monkeypatch):
    cvxpy = pytest.importorskip("cvxpy", reason="the extra sdp is not installed")
    monkeypatch.setattr(cvxpy.Problem, "solve", lambda self, **options: None)
    monkeypatch.setattr(cvxpy.Problem, "status", "infeasible")
    with pytest.raises(RuntimeError, match=r"Clarabel reports 'infeasible' for the semidefinite program\. Rescale"):
        solve_sdp(LayerPeeled((1, 1), energy_w=1.0, energy_h=1.0))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"num_minority": 1, "minority_count": 3}, r"needs num_minority >= 2, got 1\. One class has nothing to merge with\."),
        ({}, r"needs either minority_count or num_samples, got none\. Pass the one that stays fixed\."),
        ({"minority_count": 3, "num_samples": 30}, r"needs either minority_count or num_samples"),
        ({"minority_count": -3}, r"minority_count must be finite and positive, got -3\."),
        ({"lambda_w": 0.0, "num_samples": 9}, r"lambda_w must be finite and positive, got 0\.0\."),
    ],
)
def test_errors_name_the_condition(options, words):
    with pytest.raises(ValueError, match=words):
        minority_collapse_ratio(**{"num_majority": 2, "num_minority": 3, "lambda_w": 0.1, "lambda_h": 0.1, **options})


def test_seli_refuses_no_counts():
    with pytest.raises(ValueError, match=r"counts must be positive integers"):
        seli_geometry((3, -1))
