"""Simplex ETF: frame identities, Helmert rows, and the nearest frame against a direct search."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ncollapse.etf import helmert_basis, nearest_etf, simplex_etf


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("num_classes", [2, 3, 4, 10, 57])
def test_helmert_rows_are_orthonormal_and_span_the_complement_of_ones(num_classes):
    basis = helmert_basis(num_classes)
    assert basis.dtype == torch.float64
    assert basis.shape == (num_classes - 1, num_classes)
    projector = torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes
    assert torch.allclose(basis @ basis.T, torch.eye(num_classes - 1, dtype=torch.float64), atol=1e-14)
    assert torch.allclose(basis.T @ basis, projector, atol=1e-14)


def test_helmert_rows_as_written_in_the_definition():
    for j in range(1, 5):
        row = [1.0] * j + [-float(j)] + [0.0] * (4 - j)
        assert helmert_basis(5)[j - 1].tolist() == pytest.approx([x / math.sqrt(j * (j + 1)) for x in row], rel=1e-15)


@pytest.mark.parametrize("num_classes", [1, 0, -3])
def test_one_class_has_no_frame(num_classes):
    with pytest.raises(ValueError, match=rf"needs num_classes >= 2, got {num_classes}\. One class has no frame"):
        helmert_basis(num_classes)


def test_the_frame_of_one_class_is_an_error():
    with pytest.raises(ValueError, match=r"num_classes >= 2, got 1"):
        simplex_etf(1, 3)


@pytest.mark.parametrize("random", [False, True])
@pytest.mark.parametrize(("num_classes", "dim"), [(2, 1), (2, 5), (3, 2), (4, 8), (10, 9), (10, 64)])
def test_simplex_etf_is_equiangular_and_tight(num_classes, dim, random):
    generator = torch.Generator().manual_seed(3) if random else None
    frame = simplex_etf(num_classes, dim, generator=generator)
    assert frame.shape == (num_classes, dim)
    eye = torch.eye(num_classes, dtype=torch.float64)
    gram = num_classes / (num_classes - 1) * (eye - 1 / num_classes)
    assert torch.allclose(frame @ frame.T, gram, atol=1e-14)
    assert torch.allclose(frame.sum(dim=0), torch.zeros(dim, dtype=torch.float64), atol=1e-14)
    # Tight: the frame operator is K/(K-1) times the projector on the span.
    operator = frame.T @ frame * (num_classes - 1) / num_classes
    assert torch.allclose(operator @ operator, operator, atol=1e-14)
    assert float(operator.trace()) == pytest.approx(num_classes - 1, rel=1e-13)
    distances = torch.cdist(frame, frame).square()[~eye.bool()]
    assert torch.allclose(distances, torch.full_like(distances, 2 * num_classes / (num_classes - 1)), rtol=1e-6)


def test_orientation_comes_from_the_generator_alone():
    before = torch.get_rng_state()
    first, again, other = (simplex_etf(4, 6, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=0.1)
    assert torch.equal(torch.get_rng_state(), before)


def test_too_few_dimensions_are_an_error():
    with pytest.raises(ValueError, match=r"of 5 classes needs at least 4 dimensions, got 3\. Pass dim >= 4"):
        simplex_etf(5, 3)


@given(
    st.integers(2, 7), st.integers(0, 4), st.floats(1e-3, 1e3), st.integers(0, 2**16)
)  # fmt: skip
def test_nearest_frame_of_a_moved_scaled_frame_is_itself(num_classes, extra, scale, seed):
    frame = simplex_etf(num_classes, num_classes - 1 + extra, generator=torch.Generator().manual_seed(seed))
    found = nearest_etf(scale * frame + normal(seed, frame.shape[1]))
    assert found.scale == pytest.approx(scale, rel=1e-12)
    assert torch.allclose(found.frame, frame, atol=1e-11 / min(scale, 1))
    assert found.residual == pytest.approx(0, abs=1e-13 * max(scale, 1) * num_classes)


@given(st.integers(2, 6), st.integers(0, 4), st.integers(0, 2**16))
def test_residual_is_the_closed_form_and_no_other_frame_is_nearer(num_classes, extra, seed):
    dim = num_classes - 1 + extra
    means = normal(seed, num_classes, dim)
    centered = means - means.mean(dim=0)
    found = nearest_etf(means)
    gram = found.frame @ found.frame.T
    expected = num_classes / (num_classes - 1) * (torch.eye(num_classes, dtype=torch.float64) - 1 / num_classes)
    assert torch.allclose(gram, expected, atol=1e-12)
    # |M|² - (Σ S)²/K, and the scale is Σ S / K.
    squared = float(centered.square().sum()) - num_classes * found.scale**2
    assert found.residual**2 == pytest.approx(squared, rel=1e-9, abs=1e-12)
    assert found.relative_residual == pytest.approx(found.residual / float(centered.norm()), rel=1e-12)
    for other_seed in range(5):
        other = simplex_etf(num_classes, dim, generator=torch.Generator().manual_seed(other_seed))
        best_scale = max(float((centered * other).sum()) / num_classes, 0.0)
        assert float((centered - best_scale * other).norm()) >= found.residual - 1e-12
    for factor in (0.99, 1.01):
        assert float((centered - factor * found.scale * found.frame).norm()) >= found.residual


def test_float32_means_are_answered_in_float64():
    found = nearest_etf(simplex_etf(4, 8).float())
    assert found.frame.dtype == torch.float64
    assert found.scale == pytest.approx(1, rel=1e-6)


def test_coinciding_means_have_no_relative_residual():
    found = nearest_etf(torch.ones(3, 4))
    assert found.scale == 0
    assert found.residual == 0
    assert math.isnan(found.relative_residual)


@pytest.mark.parametrize("shape", [(3,), (1, 4), (5, 3), (2, 3, 4)])
def test_means_that_fit_no_frame_are_an_error(shape):
    text = r"shape \(K, d\) with K >= 2 and d >= K-1, got \(" + ", ".join(map(str, shape))
    with pytest.raises(ValueError, match=text + r",?\)\. Fewer than K-1 dimensions"):
        nearest_etf(torch.zeros(shape))
