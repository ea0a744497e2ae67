"""GNC2, hyperspherical energy, UNC3 and log-equinorm: closed forms at frames, kernels, tiles, ranges of float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import reference
from cases import layer_statistics
from ncollapse import metrics as m
from ncollapse.etf import simplex_etf
from ncollapse.metrics import METRICS, evaluate_metrics

SEEDS = st.integers(0, 2**32)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def turned_frame(num_classes, dim, seed=1):
    return simplex_etf(num_classes, dim, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("num_classes", "dim"), [(2, 3), (3, 2), (5, 8), (10, 9), (40, 64)])
def test_a_frame_has_no_variation_and_the_least_energy(num_classes, dim):
    rows = 3.0 * turned_frame(num_classes, dim)
    distance = math.sqrt(2 * num_classes / (num_classes - 1))
    assert float(m.hyperspherical_energy(rows)) == pytest.approx(-math.log(distance), rel=1e-13)
    assert float(m.hyperspherical_energy(rows, kernel="distance")) == pytest.approx(distance, rel=1e-13)
    assert float(m.hyperspherical_energy(rows, kernel="riesz", exponent=3)) == pytest.approx(distance**-3, rel=1e-13)
    for kernel in ("log", "riesz", "distance"):
        for statistic in ("std", "cov", "var"):
            assert float(m.hyperspherical_variation(rows, kernel=kernel, statistic=statistic)) == pytest.approx(0, abs=1e-14)


def test_the_energy_of_a_frame_of_five():
    assert float(m.hyperspherical_energy(simplex_etf(5, 7))) == pytest.approx(-0.4581453659370776, rel=1e-15)


@given(st.integers(2, 6), SEEDS)
def test_no_directions_have_less_energy_than_a_frame(num_classes, seed):
    least = -0.5 * math.log(2 * num_classes / (num_classes - 1))
    assert float(m.hyperspherical_energy(normal(seed, num_classes, num_classes))) >= least - 1e-14


@given(st.integers(2, 7), st.integers(2, 6), st.sampled_from([-2.0, -0.5, 0.5, 1.0, 4.0]), SEEDS)
def test_kernels_equal_the_oracle(num_classes, dim, exponent, seed):
    rows = normal(seed, num_classes, dim)
    for kernel, s in (("log", None), ("distance", None), ("riesz", exponent)):
        values = reference.pair_kernel(rows.numpy(), kernel, s)
        found = m.pair_energy(rows, kernel=kernel, exponent=s)
        mean, std = np.mean(values), np.std(values)
        assert float(found.energy) == pytest.approx(mean, rel=1e-10, abs=1e-14)
        assert float(found.variation()) == pytest.approx(std, rel=1e-9, abs=1e-13)
        assert float(found.variation("var")) == pytest.approx(std**2, rel=1e-9, abs=1e-13)
        assert float(found.variation("cov")) == pytest.approx(std / abs(mean), rel=1e-8, abs=1e-13 / abs(mean))
        assert float(found.log_energy) == pytest.approx(math.log(abs(mean)), rel=1e-8, abs=1e-10)


@pytest.mark.parametrize("kernel", ["log", "riesz", "distance"])
@pytest.mark.parametrize("tile", [1, 2, 5, 23, 100])
def test_the_tile_does_not_change_the_result(kernel, tile):
    rows = normal(0, 23, 6)
    whole, tiled = m.pair_energy(rows, kernel=kernel), m.pair_energy(rows, kernel=kernel, tile=tile)
    assert float(tiled.energy) == pytest.approx(float(whole.energy), rel=1e-13)
    assert float(tiled.variation()) == pytest.approx(float(whole.variation()), rel=1e-12)


def test_more_classes_than_one_tile_of_the_default_size():
    rows = normal(1, 1500, 4)
    distances = torch.pdist(torch.nn.functional.normalize(rows))
    found = m.pair_energy(rows)
    assert float(found.energy) == pytest.approx(float(-distances.log().mean()), rel=1e-11)
    assert float(found.variation()) == pytest.approx(float(distances.log().std(correction=0)), rel=1e-10)


def test_near_directions_keep_their_digits():
    # 2 - 2 cos of two unit vectors at distance 1e-7 has two digits.
    rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1e-7, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    expected = -(math.log(1e-7) + 2 * 0.5 * math.log(2)) / 3
    assert float(m.hyperspherical_energy(rows)) == pytest.approx(expected, rel=1e-12)


def test_the_riesz_kernel_outside_the_range_of_float64():
    # s = d - 2 = 3998 by default: distances 1e-3 and sqrt(2) give 10^11994 and 2^-1999.
    rows = torch.zeros(3, 4000, dtype=torch.float64)
    rows[0, 0] = rows[1, 0] = rows[2, 2] = 1.0
    rows[1, 1] = 1e-3
    near = math.hypot(1 / math.hypot(1, 1e-3) - 1, 1e-3 / math.hypot(1, 1e-3))
    found = m.pair_energy(rows, kernel="riesz")
    assert float(found.log_energy) == pytest.approx(-3998 * math.log(near) - math.log(3), rel=1e-12)
    assert float(found.energy) == math.inf
    # One value of three that matters: mean 1/3, deviation sqrt(2)/3 of it.
    assert float(found.variation("cov")) == pytest.approx(math.sqrt(2), rel=1e-13)
    frame = m.pair_energy(turned_frame(5, 4000), kernel="riesz")
    assert float(frame.log_energy) == pytest.approx(-3998 * 0.5 * math.log(2.5), rel=1e-12)
    assert float(frame.variation("cov")) == pytest.approx(0, abs=1e-10)


def test_the_default_exponent_is_that_of_the_dimension():
    rows = normal(4, 5, 7)
    assert float(m.hyperspherical_energy(rows, kernel="riesz")) == float(
        m.hyperspherical_energy(rows, kernel="riesz", exponent=5)
    )
    plane = normal(4, 5, 2)
    assert float(m.hyperspherical_energy(plane, kernel="riesz")) == pytest.approx(
        np.mean(reference.pair_kernel(plane.numpy(), "riesz", 1)), rel=1e-12
    )


def test_directions_that_coincide_have_no_finite_energy():
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    for kernel in ("log", "riesz"):
        assert math.isnan(float(m.hyperspherical_energy(rows, kernel=kernel)))
    assert float(m.hyperspherical_energy(rows, kernel="distance")) == pytest.approx(2 * math.sqrt(2) / 3, rel=1e-15)
    # Apart by rounding only: the same direction.
    thirds = torch.tensor([[1.0, 1.0, 1.0], [0.1, 0.1, 0.1], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert math.isnan(float(m.hyperspherical_energy(thirds)))
    for rows in (torch.zeros(2, 3).double(), torch.ones(1, 3).double()):
        assert math.isnan(float(m.hyperspherical_energy(rows, kernel="distance")))
        assert math.isnan(float(m.hyperspherical_variation(rows)))


def test_degenerate_layers_are_flagged():
    line = torch.tensor([[-1.0], [0.5], [2.0]], dtype=torch.float64)
    asked = [METRICS[id] for id in ("gnc2", "hyperspherical_energy", "log_equinorm")]
    values = {v.metric: v for v in evaluate_metrics(layer_statistics(line, torch.arange(3), 3), asked)}
    assert values["log_equinorm"].flags == ("mean_at_center", "odd_on_line")
    assert values["gnc2"].flags == values["hyperspherical_energy"].flags == ("coincident_directions", "low_dimension")
    assert all(math.isnan(value.value) for value in values.values())


def test_uniform_duality_asks_for_equal_alignment():
    frame = turned_frame(4, 6)
    scales = torch.tensor([1.0, 5.0, 0.1, 3.0], dtype=torch.float64)[:, None]
    orthogonal = torch.linalg.qr(torch.cat([frame[:3], normal(2, 3, 6)]).T)[0][:, 4]
    assert float(m.uniform_duality(scales * frame, scales.flip(0) * frame)) == pytest.approx(0, abs=1e-15)
    assert float(m.uniform_duality(-frame, frame)) == pytest.approx(0, abs=1e-15)
    assert float(m.uniform_duality(frame + 2 * orthogonal, frame)) == pytest.approx(0, abs=1e-15)
    half = torch.cat([frame[:2], -frame[2:]])
    assert float(m.uniform_duality(half, frame)) == pytest.approx(1, rel=1e-14)
    assert float(m.uniform_duality(half, frame, statistic="var")) == pytest.approx(1, rel=1e-14)
    three = torch.cat([frame[:3], -frame[3:]])
    assert float(m.uniform_duality(three, frame, statistic="cov")) == pytest.approx(math.sqrt(0.75) / 0.5, rel=1e-14)
    assert math.isnan(float(m.uniform_duality(0 * frame, frame)))
    # Of several layers at once.
    stacked = m.uniform_duality(torch.stack([frame, half]), torch.stack([frame, frame]))
    assert stacked.tolist() == pytest.approx([0, 1], rel=1e-14, abs=1e-15)


def test_log_equinorm_written_out():
    rows = torch.diag(torch.tensor([math.e, math.e**2, math.e**6], dtype=torch.float64))
    assert float(m.log_equinorm(rows)) == pytest.approx(math.sqrt(14 / 3), rel=1e-14)
    assert float(m.log_equinorm(rows, statistic="var")) == pytest.approx(14 / 3, rel=1e-14)
    assert float(m.log_equinorm(rows, statistic="cov")) == pytest.approx(math.sqrt(14 / 3) / 3, rel=1e-14)
    assert float(m.log_equinorm(1e-3 * rows)) == pytest.approx(math.sqrt(14 / 3), rel=1e-13)
    assert math.isnan(float(m.log_equinorm(torch.tensor([[1.0], [0.0]], dtype=torch.float64))))


def test_wrong_arguments_are_named():
    rows = normal(0, 3, 4)
    with pytest.raises(ValueError, match=r"kernel must be one of log, riesz, distance, got 'gauss'"):
        m.pair_energy(rows, kernel="gauss")
    with pytest.raises(ValueError, match=r"exponent must not be 0, got 0\. Pass a positive s"):
        m.pair_energy(rows, kernel="riesz", exponent=0)
    with pytest.raises(ValueError, match=r"tile must be at least 1, got 0\."):
        m.pair_energy(rows, tile=0)
    for function in (m.hyperspherical_variation, m.log_equinorm):
        with pytest.raises(ValueError, match=r"statistic must be one of std, cov, var, got 'mad'"):
            function(rows, statistic="mad")
