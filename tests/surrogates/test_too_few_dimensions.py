"""Exact optima with too few dimensions against brute force by SciPy on NumPy objectives, and what stays open."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from ncollapse.surrogates import GUFM, UFM, DeepUFM, LayerPeeled, NormalizedFeatures
from ncollapse.surrogates.gufm import layer_norm, unit_tight_frame


def brute_force(objective, shapes, starts=6, seed=0, scale=0.7):
    """The best of several L-BFGS runs with PyTorch's gradient of an objective of tensors."""
    rng, best = np.random.default_rng(seed), math.inf
    sizes = [int(np.prod(shape)) for shape in shapes]

    def at(flat):
        parts = torch.tensor(flat, requires_grad=True)
        tensors = [part.reshape(shape) for part, shape in zip(parts.split(sizes), shapes, strict=True)]
        value = objective(*tensors)
        value.backward()
        return float(value.detach()), parts.grad.numpy()

    for _ in range(starts):
        start = scale * rng.normal(size=sum(sizes))
        options = {"maxiter": 5000, "maxfun": 20_000, "gtol": 1e-12, "ftol": 0}
        best = min(best, minimize(at, start, jac=True, method="L-BFGS-B", options=options).fun)
    return best


def labels_of(counts):
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


def squared_loss(logits, counts):
    labels = labels_of(counts)
    return 0.5 * (logits - torch.eye(len(counts), dtype=torch.float64)[labels]).square().sum() / len(labels)


@pytest.mark.parametrize("bias", ["none", "free"])
@pytest.mark.parametrize(("counts", "dim"), [((3, 3, 3, 3), 2), ((2, 5, 3), 1)])
def test_ufm(counts, dim, bias):
    model = UFM(counts, dim=dim, loss="mse", lambda_w=0.012, lambda_h=0.009, bias=bias)
    found, num_classes = model.closed_form(), len(counts)

    def objective(weight, features, shift):
        loss = squared_loss(features @ weight.T + (shift if bias == "free" else 0), counts)
        return loss + 0.006 * weight.square().sum() + 0.0045 * features.square().sum()

    best = brute_force(objective, [(num_classes, dim), (sum(counts), dim), (num_classes,)])
    assert found.value == pytest.approx(best, rel=1e-9)
    assert found.certified
    # A solver's point is certified too, though its gap to the convex bound is large.
    assert model.solve().certified


def test_golden_number_of_theory():
    assert UFM((3,) * 4, dim=2, loss="mse", lambda_w=1e-2, lambda_h=1e-2).closed_form().value == pytest.approx(
        0.283441016151, abs=1e-12
    )
    assert GUFM((2,) * 3, dim=3, loss="mse", lambda_w=0.037).minimum == pytest.approx(0.189634, abs=5e-7)


@pytest.mark.parametrize("bias", ["none", "free"])
def test_deep_ufm(bias):
    counts, dim, decays, lambda_h = (4, 2, 3), 1, (0.02, 0.03), 0.01
    model = DeepUFM(counts, dim, lambdas_w=decays, lambda_h=lambda_h, bias=bias)

    def objective(first, last, features, shift):
        logits = features @ first.T @ last.T + (shift if bias == "free" else 0)
        decay = decays[0] * first.square().sum() + decays[1] * last.square().sum() + lambda_h * features.square().sum()
        return squared_loss(logits, counts) + 0.5 * decay

    best = brute_force(objective, [(dim, dim), (3, dim), (9, dim), (3,)], starts=8, scale=1.5)
    found = model.closed_form()
    assert found.value == pytest.approx(model.minimum, rel=1e-12)
    assert found.value == pytest.approx(best, rel=1e-9)
    assert found.certified


GRID = [("none", 3, 3), ("none", 5, 4), ("none", 4, 2), ("free", 4, 3), ("free", 4, 2), ("free", 5, 3), ("free", 7, 4)]


@pytest.mark.parametrize(("bias", "num_classes", "dim"), GRID)
def test_gufm(bias, num_classes, dim):
    model = GUFM((1,) * num_classes, dim=dim, loss="mse", lambda_w=0.037, bias=bias)

    def objective(weight, raw, shift):
        logits = layer_norm(raw) @ weight.T + (shift if bias == "free" else 0)
        return squared_loss(logits, model.counts) + 0.0185 * weight.square().sum()

    best = brute_force(objective, [(num_classes, dim), (num_classes, dim), (num_classes,)], starts=4)
    found = model.closed_form()
    assert model.exact
    assert found.value == pytest.approx(model.minimum, rel=1e-12)
    assert found.value == pytest.approx(best, rel=1e-8)
    assert found.certified


@pytest.mark.parametrize(("num_classes", "dim"), [(3, 2), (5, 4), (5, 2)])
def test_gufm_with_a_free_bias_odd_classes_and_ranks_1_and_k_minus_2_is_only_bounded(num_classes, dim):
    """The hypothesis of a tight frame of mean zero cannot be dropped: the bound is missed."""
    model = GUFM((1,) * num_classes, dim=dim, loss="mse", lambda_w=0.037, bias="free")

    def objective(weight, raw, shift):
        return squared_loss(layer_norm(raw) @ weight.T + shift, model.counts) + 0.0185 * weight.square().sum()

    best = brute_force(objective, [(num_classes, dim), (num_classes, dim), (num_classes,)], starts=6)
    assert not model.exact
    assert best > model.minimum * (1 + 1e-5)
    assert model.solve().status.startswith("Critical point, not certified: ")
    with pytest.raises(ValueError, match=rf"needs dim >= {num_classes}, got {dim}"):
        model.closed_form()


@pytest.mark.parametrize("with_mean", [True, False])
def test_tight_frames(with_mean):
    for num_vectors in range(2, 14):
        for rank in range(1, num_vectors):
            if with_mean or num_vectors % 2 == 0 or rank not in {1, num_vectors - 2}:
                frame = unit_tight_frame(num_vectors, rank, with_mean=with_mean)
                assert torch.allclose(frame.square().sum(dim=1), torch.ones(num_vectors, dtype=torch.float64))
                assert torch.allclose(frame.T @ frame, num_vectors / rank * torch.eye(rank, dtype=torch.float64))
                assert with_mean or torch.allclose(frame.sum(dim=0), frame.new_zeros(rank), atol=1e-12)
            else:
                with pytest.raises(ValueError, match=f"No {num_vectors} unit vectors of mean zero span {rank} dimensions"):
                    unit_tight_frame(num_vectors, rank, with_mean=False)


@pytest.mark.parametrize(
    "model",
    [
        UFM((3,) * 5, dim=2, lambda_w=0.002, lambda_h=0.002),
        UFM((3,) * 4, dim=2, loss="mse", lambda_w=0.01, lambda_h=0.01, bias="regularized", lambda_b=0.3),
        GUFM((2,) * 5, dim=3, lambda_w=0.01),
        NormalizedFeatures((1,) * 5, dim=2, temperature=3.0),
    ],
    ids=["UFM, cross-entropy", "UFM, regularized bias", "GUFM, cross-entropy", "normalized features"],
)
def test_what_stays_open_says_so(model):
    found = model.solve()
    assert not found.certified
    assert found.status.rstrip(".").endswith(("; no useful bound: d < K", "; no useful bound: d < K - 1"))
    assert found.status.startswith("Critical point")


def test_where_the_convex_optimum_has_few_dimensions_its_bound_is_useful_all_the_same():
    """Large decay leaves two of four classes at zero."""
    model = UFM((30, 30, 2, 2), dim=2, loss="mse", lambda_w=0.04, lambda_h=0.04)
    assert model.closed_form().certified
    assert LayerPeeled((1,) * 4, 3, energy_w=1, energy_h=1).solve().certificate.weak == ""


def test_distance_needs_one_orbit_of_minimizers():
    model = GUFM((2,) * 3, dim=3, loss="mse", lambda_w=0.037)
    with pytest.raises(ValueError, match=r"distance needs dim >= 4, got 3\. Below it minimizers"):
        model.distance(torch.zeros(3, 3), torch.zeros(6, 3))
