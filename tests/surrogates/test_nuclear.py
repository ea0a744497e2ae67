"""Convex programs in the logits: bounds, steps, projections and factors, each by its own law on random numbers."""

import math

import numpy as np
import pytest
import torch

from ncollapse.surrogates import UFM, MaxMargin, Proximal
from ncollapse.surrogates.solving.nuclear import (
    NuclearProgram,
    best_bias,
    polish,
    project_on_ball,
    soft_threshold,
    split_product,
)
from ncollapse.surrogates.solving.problem import SolverResult

COUNTS = torch.tensor([6.0, 3.0, 1.0], dtype=torch.float64)
BIASES = {"none": 0.0, "free": 0.0, "regularized": 0.3}
KINDS = [(loss, bias) for loss in ("mse", "cross_entropy") for bias in BIASES]


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def program(loss, bias, counts=COUNTS, **options):
    options = {"penalty": 0.05, "lambda_b": BIASES[bias], **options}
    return NuclearProgram(loss, torch.arange(len(counts)), counts / counts.sum(), counts.sqrt(), bias=bias, **options)


def plain_loss(one, logits, bias):
    logits, targets = (logits + bias).numpy(), np.eye(logits.shape[1])[one.labels]
    if one.loss == "mse":
        each = ((logits - targets) ** 2).sum(axis=1) / 2
    else:
        each = np.log(np.exp(logits).sum(axis=1)) - (targets * logits).sum(axis=1)
    return float(one.shares.numpy() @ each)


def smooth_gradient(one, logits, bias):
    """The gradient of the loss in the logits, by PyTorch's own losses."""
    leaf = (logits + bias).requires_grad_()
    if one.loss == "mse":
        each = (leaf - torch.eye(leaf.shape[1])[one.labels]).square().sum(dim=1) / 2
    else:
        each = torch.nn.functional.cross_entropy(leaf, one.labels, reduction="none")
    return torch.autograd.grad(one.shares @ each, leaf)[0]


def nuclear(matrix):
    return float(np.linalg.svd(matrix, compute_uv=False).sum())


@pytest.mark.parametrize(("loss", "bias"), KINDS)
def test_the_objective(loss, bias):
    one, logits, shift = program(loss, bias), normal(0, 3, 3), normal(1, 3)
    scaled = np.sqrt(COUNTS.numpy())[:, None] * logits.numpy()
    expected = plain_loss(one, logits, shift) + BIASES[bias] / 2 * float(shift @ shift) + 0.05 * nuclear(scaled)
    assert one.value(logits, shift) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize(("loss", "bias"), KINDS)
def test_the_bound_is_valid_everywhere_and_of_second_order_at_the_minimum(loss, bias):
    one = program(loss, bias)
    logits, shift, history, converged = one.minimize(1e-13, 20_000)
    assert converged
    assert float(torch.linalg.svdvals(logits).max()) > 0.1
    scales = one.scales.unsqueeze(1)
    for seed in range(4):
        gaps = []
        for size in (3.0, 0.3, 1e-3, 1e-4):
            # Without a bias there is none to disturb.
            moved = logits + size * normal(seed, 3, 3), shift + (bias != "none") * size * normal(seed + 9, 3)
            norm, bound = one.dual(*moved)
            gaps.append(history[-1] - bound)
            assert gaps[-1] > -1e-13
            best = best_bias(loss, moved[0], one.labels, one.shares, moved[1]) if bias == "free" else moved[1]
            gradient = smooth_gradient(one, moved[0], best)
            assert norm == pytest.approx(float(torch.linalg.matrix_norm(gradient / scales, ord=2)), rel=1e-9)
            # No worse than the gradient itself, scaled down: minus the convex conjugate, by its definition as a supremum.
            scaled = gradient * min(1.0, 0.05 / norm)
            assert bound >= plain_bound(one, scaled) - 1e-12
        # Without a bias the squared loss has the minimum itself for a bound.
        assert gaps[3] < gaps[2] / 50 + 1e-13


def plain_bound(one, gradient):
    targets, shares = np.eye(3)[one.labels], one.shares.numpy()[:, None]
    change = gradient.numpy()
    if one.loss == "mse":
        conjugate = (change**2 / (2 * shares) + change * targets).sum()
    else:
        outputs = targets + change / shares
        conjugate = (shares * outputs * np.log(outputs)).sum()
    pull = (change.sum(axis=0) ** 2).sum() / (2 * one.lambda_b) if one.bias == "regularized" else 0.0
    return -conjugate - pull


def test_the_bound_within_a_ball():
    """By Fenchel's equality: the loss less the product of gradient and logits less radius times spectral norm."""
    one = program("cross_entropy", "none", penalty=0.0, radius=1.7)
    for seed in range(3):
        logits = normal(seed, 3, 3)
        gradient = smooth_gradient(one, logits, torch.zeros(3))
        size = float(torch.linalg.matrix_norm(gradient / one.scales.unsqueeze(1), ord=2))
        expected = plain_loss(one, logits, torch.zeros(3)) - float((gradient * logits).sum()) - 1.7 * size
        assert one.dual(logits, torch.zeros(3)) == pytest.approx((size, expected), rel=1e-12)


@pytest.mark.parametrize(("loss", "bias"), KINDS)
@pytest.mark.parametrize("counts", [(4, 4), (7, 2)])
def test_the_step_is_one_over_the_largest_curvature(loss, bias, counts):
    """Of loss and decay in the scaled logits and the bias, in its units: at zero logits of two classes the bound is reached."""
    one = program(loss, bias, torch.tensor(counts, dtype=torch.float64))
    step, unit = one._step_sizes()
    labels, scales = torch.arange(2), one.scales.unsqueeze(1)

    def smooth(flat):
        rows = flat.reshape(3, 2)
        logits, shift = rows[:2] / scales + unit * rows[2], unit * rows[2]
        if loss == "mse":
            each = (logits - torch.eye(2, dtype=torch.float64)).square().sum(dim=1) / 2
        else:
            each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return one.shares @ each + BIASES[bias] / 2 * shift.square().sum()

    curvatures = torch.linalg.eigvalsh(torch.autograd.functional.hessian(smooth, torch.zeros(6, dtype=torch.float64)))
    assert float(curvatures.max()) * step == pytest.approx(1, rel=1e-12)
    assert (unit == 0) == (bias == "none")


@pytest.mark.parametrize(("loss", "bias"), KINDS)
def test_a_step_never_raises_the_objective_and_stays_at_the_minimum(loss, bias):
    one = program(loss, bias)
    logits, shift, _, _ = one.minimize(1e-13, 20_000)
    again = one.step(logits, shift)
    assert torch.allclose(again[0], logits, atol=1e-5)
    assert torch.allclose(again[1], shift, atol=1e-5)
    for seed in range(5):
        point = (seed + 1) * normal(seed, 3, 3), (bias != "none") * normal(seed + 5, 3)
        moved = one.step(*point)
        assert one.value(*moved) < one.value(*point)
        assert bias != "none" or float(moved[1].abs().max()) == 0


def test_one_step_solves_the_squared_loss_without_a_bias():
    one, scales = program("mse", "none"), COUNTS.sqrt().unsqueeze(1)
    found = one.step(normal(0, 3, 3), torch.zeros(3))[0]
    roots = COUNTS.sqrt()
    # Singular values √n_k, lowered by the penalty times N.
    expected = torch.diag(torch.clamp(roots - 10 * 0.05, min=0))
    assert torch.allclose(scales * found, expected, atol=1e-14)
    logits, _, history, converged = one.minimize(1e-12, 100)
    assert torch.allclose(scales * logits, expected, atol=1e-14)
    assert (len(history), converged) == (2, True)
    assert history[0] == pytest.approx(0.5)


def test_steps_are_counted_and_limited():
    one = program("cross_entropy", "regularized")
    _, _, history, converged = one.minimize(1e-12, 100_000)
    assert converged
    # Plain proximal descent takes twice as many.
    assert len(history) < 60
    point, falls = (torch.zeros(3, 3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64)), 0
    while one.value(*point) > history[-1] * (1 + 1e-12) and falls < 3000:
        point, falls = one.step(*point), falls + 1
    assert 2 * 10 * (len(history) - 1) < falls
    logits, shift, short, converged = one.minimize(1e-12, 30)
    assert (len(short), converged) == (4, False)
    assert short == pytest.approx(history[:4], rel=1e-12)
    assert one.value(logits, shift) == short[-1]


def test_the_best_free_bias_makes_one_step_from_anywhere_enough_for_mse_on_balanced_classes():
    one = program("mse", "free", torch.tensor([4.0, 4.0, 4.0], dtype=torch.float64))
    logits, _ = one.step(normal(0, 3, 3), normal(1, 3))
    # The centered targets, reduced.
    assert torch.allclose(logits, one.proximal(2 * (torch.eye(3, dtype=torch.float64) - 1 / 3), 12) / 2, atol=1e-14)
    assert one.dual(*one.step(normal(2, 3, 3), normal(3, 3)))[0] == pytest.approx(one.penalty, rel=1e-12)


@pytest.mark.parametrize(("loss", "bias", "steps"), [
    ("mse", "free", 440), ("mse", "regularized", 50),
    ("cross_entropy", "none", 240), ("cross_entropy", "free", 860), ("cross_entropy", "regularized", 340),
])  # fmt: skip
def test_acceleration_keeps_the_steps_few(loss, bias, steps):
    """Without momentum or restarts they are three to ten times as many."""
    history, converged = program(loss, bias, penalty=1e-3).minimize(1e-12, 3000)[2:]
    assert converged
    assert 10 * (len(history) - 1) <= max(1.1 * steps, steps + 10)


@pytest.mark.parametrize("radius", [0.5, 3.0, 100.0])
def test_the_projection_on_the_ball_is_the_nearest_point(radius):
    for seed in range(5):
        matrix = normal(seed, 4, 3)
        found = project_on_ball(matrix, radius)
        if nuclear(matrix) <= radius:
            assert torch.equal(found, matrix)
            continue
        assert nuclear(found) == pytest.approx(radius, rel=1e-12)
        # The angle to every other point of the ball is not acute; extreme points are of rank one.
        away = matrix - found
        assert float((away * found).sum()) == pytest.approx(radius * np.linalg.norm(away.numpy(), 2), rel=1e-9)


def test_singular_values_are_lowered():
    matrix = normal(0, 4, 3)
    left, values, right = np.linalg.svd(matrix.numpy(), full_matrices=False)
    for rank in (None, 1, 2):
        kept = np.clip(values - 0.7, 0, None) * (np.arange(3) < (rank or 3))
        assert soft_threshold(matrix, 0.7, rank).numpy() == pytest.approx(left * kept @ right, abs=1e-13)


@pytest.mark.parametrize("ratio", [1.0, 0.2, 7.0])
def test_factors_of_least_decay(ratio):
    product = normal(0, 5, 2) @ normal(1, 2, 3)
    features, weight = split_product(product, 4, ratio)
    assert (features.shape, weight.shape) == ((5, 4), (3, 4))
    assert torch.allclose(features @ weight.T, product, atol=1e-13)
    sizes = ratio * float(features.square().sum()), float(weight.square().sum()) / ratio
    assert sizes == pytest.approx([nuclear(product)] * 2, rel=1e-12)
    zero = split_product(torch.zeros(5, 3, dtype=torch.float64), 1, ratio)
    assert all(bool((part == 0).all()) for part in zero)
    with pytest.raises(ValueError, match=r"have rank 2, which needs dim >= 2, got 1\. Raise dim, or solve in the weight"):
        split_product(product, 1, ratio)
    # What rounding leaves is no rank.
    assert split_product(product + 1e-14 * normal(2, 5, 3), 2, ratio)[0].shape == (5, 2)


@pytest.mark.parametrize("size", [2.0, 30.0])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_best_bias_balances_the_errors(loss, size):
    """Also for logits so large that a plain step of Newton's method overshoots, or meets a matrix that is singular."""
    shares = torch.tensor([0.9, 0.07, 0.02, 0.01], dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 1])
    for seed in range(6):
        logits, start = size * normal(seed, 4, 3), size * normal(seed + 6, 3)
        bias = best_bias(loss, logits, labels, shares, start)
        one = NuclearProgram(loss, labels, shares, torch.ones(4))
        assert float(smooth_gradient(one, logits, bias).sum(dim=0).abs().max()) < 1e-14 * size
        # A common shift of cross-entropy logits changes nothing: it stays as it was.
        assert loss == "mse" or float((bias - start).sum()) == pytest.approx(0, abs=1e-9)


def test_logits_of_class_means():
    problem = UFM((3, 1), 4, lambda_w=0.1, lambda_h=0.2, bias="free")
    point = problem.start(0) | {"bias": torch.tensor([1.0, -2.0], dtype=torch.float64)}
    logits, bias = problem.class_logits(point)
    means = torch.stack([point["features"][:3].mean(dim=0), point["features"][3]])
    assert torch.allclose(logits, means @ point["weight"].T, atol=1e-14)
    assert torch.equal(bias, point["bias"])
    plain = UFM((3, 1), 4, lambda_w=0.1, lambda_h=0.2)
    assert plain.class_logits(plain.start(0))[1].tolist() == [0, 0]


def ended(variables):
    return SolverResult(variables, (5.0, 4.0), True, "somewhere")


def test_a_run_is_polished_by_one_step_where_there_is_one():
    problem = UFM((3, 1, 2), 4, loss="mse", lambda_w=0.01, lambda_h=0.02)
    run = ended(problem.start(0))
    better = polish(problem, run)
    # For this loss one step is the minimum.
    assert float(problem.objective(better.variables)) == pytest.approx(problem.closed_form().value, rel=1e-12)
    assert better.history == (5.0, 4.0, float(problem.objective(better.variables)))
    assert (better.converged, better.description) == (True, "somewhere")
    margin = MaxMargin((2, 2), 2)
    outside = ended(margin.start(0))
    assert polish(margin, outside) is outside
    crowded = UFM((2, 2, 2), 1, loss="mse", lambda_w=0.01, lambda_h=0.01)
    unmoved = ended(crowded.start(0))
    assert polish(crowded, unmoved) is unmoved


def test_the_status_counts_the_steps():
    problem = UFM((5, 2), 2, loss="mse", lambda_w=0.01, lambda_h=0.02)
    solution = problem.solve(Proximal())
    assert "accelerated proximal gradient descent in the logits, 10 steps" in solution.status
    assert len(solution.history) == 2
    assert math.isfinite(solution.history[0])
