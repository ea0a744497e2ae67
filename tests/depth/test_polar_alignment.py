"""The theorem of the optimal rotation: PFC2 falls towards the polar factor of the first class means, at any cost."""

import math

import numpy as np
import pytest
import torch

from ncollapse.depth import GeodesicCurve, polar_alignment, theorem2
from ncollapse.statistics import PairedMoments

TIMES = np.linspace(0, 1, 21).tolist()


def line_of_means(start, end):
    """The line between class means alone, one sample a class; means are rows here."""
    labels = torch.arange(len(start))
    return GeodesicCurve(PairedMoments.from_batch(start, end, labels, len(start)))


def means(generator, num_classes, dim, spread=1.0):
    """Centered means whose singular values spread over so many powers of e."""
    drawn = torch.randn(num_classes, dim, generator=generator, dtype=torch.float64)
    u, s, v = torch.linalg.svd(drawn - drawn.mean(dim=0), full_matrices=False)
    s = s * torch.exp(spread * torch.randn(len(s), generator=generator, dtype=torch.float64))
    return u @ torch.diag(s) @ v


def polar(start):
    """The ETF that is nearest to the means up to its scale: all K - 1 singular values replaced by one."""
    u, _, v = torch.linalg.svd(start, full_matrices=False)
    return u[:, : len(start) - 1] @ v[: len(start) - 1]


def rotated(generator, start):
    """An ETF in a direction of its own."""
    q, _ = torch.linalg.qr(torch.randn(start.shape[1], len(start), generator=generator, dtype=torch.float64))
    return (torch.eye(len(start), dtype=torch.float64) - 1 / len(start)) @ q.T


def falls(curve):
    values = curve.pfc2(TIMES)
    return bool((values.diff() <= 1e-10).all())


@pytest.mark.parametrize("cases", [50, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 1.0, 10.0, 1e3])
def test_pfc2_falls_towards_the_polar_factor_at_any_scale(scale, cases):
    generator = torch.Generator().manual_seed(int(1000 * scale))
    for case in range(cases):
        start = means(generator, 3 + case % 5, 8, spread=(0.3, 1.0, 2.0)[case % 3])
        curve = line_of_means(start, scale * polar(start))
        found = polar_alignment(curve)
        assert found.alignment == pytest.approx(1, abs=1e-12)
        assert found.guaranteed
        assert falls(curve)
        assert theorem2(curve).monotone


def test_pfc2_need_not_fall_towards_an_unrelated_etf_and_rises_towards_the_reversed():
    generator = torch.Generator().manual_seed(7)
    unrelated = []
    for case in range(300):
        start = means(generator, 3 + case % 5, 8)
        curve = line_of_means(start, torch.linalg.norm(start) * rotated(generator, start))
        found = polar_alignment(curve)
        assert found.alignment < 1 - 1e-3
        assert not found.guaranteed
        assert found.end_distance < 1e-9
        unrelated.append(falls(curve))
        assert not falls(line_of_means(start, -torch.linalg.norm(start) * polar(start)))
    assert 0.2 < np.mean(unrelated) < 0.9


def test_first_means_of_a_lower_rank_have_several_polar_factors():
    """With a singular value of 0 any completion to an ETF is one."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(50):
        u, s, v = torch.linalg.svd(means(generator, 5, 8), full_matrices=False)
        s[3] = 0.0
        curve = line_of_means(u @ torch.diag(s) @ v, u[:, :4] @ torch.diag(torch.tensor([1.0, 1, 1, -1]).double()) @ v[:4])
        assert polar_alignment(curve).guaranteed
        assert falls(curve)


def test_the_alignment_is_the_trace_over_the_most_that_a_rotation_reaches():
    generator = torch.Generator().manual_seed(5)
    for num_classes, dim in ((4, 9), (6, 3)):
        start = means(generator, num_classes, dim)
        end = start + means(generator, num_classes, dim)
        product = end.numpy().T @ start.numpy()
        u, s, vt = np.linalg.svd(product)
        assert polar_alignment(line_of_means(start, end)).alignment == pytest.approx(np.trace(product) / s.sum(), rel=1e-12)
        # The rotation that reaches it makes the alignment 1.
        best = torch.from_numpy(u @ vt)
        assert polar_alignment(line_of_means(start, end @ best)).alignment == pytest.approx(1, abs=1e-12)


def test_means_turned_out_of_their_span_have_the_cosine_of_the_angle():
    generator = torch.Generator().manual_seed(11)
    start = torch.cat([means(generator, 4, 5), torch.zeros(4, 5, dtype=torch.float64)], dim=1)
    for angle in (0.0, 0.4, 1.2, math.pi / 2, 2.0, math.pi):
        turned = torch.cat([math.cos(angle) * start[:, :5], math.sin(angle) * start[:, :5]], dim=1)
        found = polar_alignment(line_of_means(start, 3 * turned))
        assert found.alignment == pytest.approx(math.cos(angle), abs=1e-12)


def test_an_aligned_end_that_is_no_etf_is_guaranteed_nothing():
    start = means(torch.Generator().manual_seed(2), 4, 6)
    found = polar_alignment(line_of_means(start, 2 * start))
    assert found.alignment == pytest.approx(1, abs=1e-12)
    assert found.end_distance > 0.1
    assert found.guaranteed is False


def test_undefined_where_means_coincide_or_are_missing():
    start = means(torch.Generator().manual_seed(4), 3, 5)
    for end in (torch.zeros_like(start), torch.ones_like(start)):
        found = polar_alignment(line_of_means(start, end))
        assert math.isnan(found.alignment)
        assert found.guaranteed is None
    missing = GeodesicCurve(PairedMoments.from_batch(start, start, torch.tensor([0, 1, 0]), 3))
    assert math.isnan(polar_alignment(missing).alignment)
    assert polar_alignment(missing).guaranteed is None


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_the_alignment_does_not_depend_on_the_scale(scale):
    generator = torch.Generator().manual_seed(12)
    start, end = means(generator, 4, 6), means(generator, 4, 6)
    one, other = (polar_alignment(line_of_means(s * start, s * end)) for s in (1.0, scale))
    assert (other.alignment, other.end_distance) == pytest.approx((one.alignment, one.end_distance), rel=1e-9)


def test_an_end_within_a_billionth_of_a_frame_is_one():
    start = means(torch.Generator().manual_seed(13), 4, 6)
    frame = polar(start)
    sideways = means(torch.Generator().manual_seed(14), 4, 6)
    told = set()
    for share in np.geomspace(1e-10, 1e-8, 41):
        found = polar_alignment(line_of_means(start, frame + float(share) * sideways))
        assert found.guaranteed == (found.end_distance <= 1e-9 and found.alignment >= 1 - 1e-9)
        told.add(found.guaranteed)
    assert told == {True, False}
