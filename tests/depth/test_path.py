"""Paths through the layers against plain loops over samples, the chain of energies, centering and merging."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from ncollapse.depth import PathStatistics, gelbrich_squared, wasserstein2_squared

KINDS = ("index", "arclength", "ratio", "distance", "projection")


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trajectories(seed=0, num_layers=6, num_samples=13, dim=5):
    """Random walks with a drift."""
    steps = 0.4 * normal(seed, num_layers, num_samples, dim) + normal(seed + 1, num_layers, 1, dim) + 0.5
    return list(steps.cumsum(dim=0))


def zero_means(layers):
    return [torch.zeros(layer.shape[1], dtype=torch.float64) for layer in layers]


def on_a_line(times, num_samples=7, dim=4, seed=0):
    start, end = normal(seed, num_samples, dim), 2 * normal(seed + 1, num_samples, dim) + 1
    return [(1 - t) * start + t * end for t in times]


def plain(layers):
    """Everything by the formulas of the theory page, 3.7 and 3.8, sample by sample, on features centered per layer."""
    H = [layer.double().numpy() - layer.double().numpy().mean(axis=0) for layer in layers]
    L, N = len(H) - 1, len(H[0])
    frobenius = np.linalg.norm
    chord = frobenius(H[L] - H[0])
    lengths = [frobenius(H[j + 1] - H[j]) for j in range(L)]
    t = [np.sum((h - H[0]) * (H[L] - H[0])) / chord**2 for h in H]
    line = [(1 - s) * H[0] + s * H[L] for s in t]
    per_sample = {"straightness": [], "line_shape": [], "turning_angle": []}
    angles = []
    for i in range(N):
        steps = [H[j + 1][i] - H[j][i] for j in range(L)]
        norms = [np.linalg.norm(s) for s in steps]
        per_sample["straightness"].append(np.linalg.norm(H[L][i] - H[0][i]) / sum(norms))
        per_sample["line_shape"].append(L / np.linalg.norm(sum(s / n for s, n in zip(steps, norms, strict=True))))
        cosines = [steps[j] @ steps[j + 1] / (norms[j] * norms[j + 1]) for j in range(L - 1)]
        angles.append([math.acos(max(-1.0, min(1.0, c))) for c in cosines])
        per_sample["turning_angle"].append(np.mean(angles[-1]))
    spread = sum(np.sum((h - sum(H) / len(H)) ** 2) for h in H)
    mean_squares = [length**2 / N for length in lengths]
    return per_sample, {
        "index": [j / L for j in range(L + 1)],
        "arclength": [sum(lengths[:j]) / sum(lengths) for j in range(L + 1)],
        "ratio": [frobenius(h - H[0]) / (frobenius(h - H[0]) + frobenius(H[L] - h)) for h in H],
        "distance": [frobenius(h - H[0]) / chord for h in H],
        "projection": t,
        "identity_cost": chord**2 / N,
        "energy": L * sum(mean_squares),
        "energy_min": sum(math.sqrt(s) for s in mean_squares) ** 2,
        "efficiency": chord**2 / N / (L * sum(mean_squares)),
        "speed_cov": np.std(lengths) / np.mean(lengths),
        "chord_deviation": max(frobenius(h - m) for h, m in zip(H, line, strict=True)) / chord,
        "turning_by_layer": np.mean(angles, axis=0).tolist(),
        "r_squared": 1 - sum(np.sum((h - m) ** 2) for h, m in zip(H, line, strict=True)) / spread,
    }


def value_of(path, name):
    return path.position(name) if name in KINDS else getattr(path, name)


@pytest.mark.parametrize(("num_layers", "num_samples", "dim"), [(6, 13, 5), (4, 4, 1), (9, 3, 40)])
def test_every_quantity_equals_plain_loops(num_layers, num_samples, dim):
    layers = trajectories(num_layers, num_layers, num_samples, dim)
    path = PathStatistics.from_batch(layers)
    per_sample, expected = plain(layers)
    for name, values in per_sample.items():
        # An angle near 0 or π is known to the square root of eps.
        assert getattr(path, name).tolist() == pytest.approx(values, rel=1e-9, abs=1e-7 if name == "turning_angle" else 0), name
    for name, value in expected.items():
        tolerance = 1e-7 if name == "turning_by_layer" else 1e-12
        assert value_of(path, name) == pytest.approx(value, rel=1e-9, abs=tolerance), name
    assert int(path.num_samples) == num_samples
    assert 0.01 < path.chord_deviation
    assert path.r_squared < 0.999


def test_two_layers_make_a_straight_path():
    first, last = trajectories(num_layers=2)
    path = PathStatistics.from_batch([first, last])
    assert path.straightness.tolist() == pytest.approx([1.0] * 13, rel=1e-14)
    assert path.line_shape.tolist() == pytest.approx([1.0] * 13, rel=1e-14)
    assert path.turning_angle.tolist() == [0.0] * 13
    assert all(path.position(kind) == pytest.approx([0, 1], abs=1e-15) for kind in KINDS)
    assert (path.efficiency, path.r_squared, path.speed_cov) == pytest.approx((1.0, 1.0, 0.0), abs=1e-14)


def test_golden_identity_cost(golden):
    name, h0, h1, _ = golden
    path = PathStatistics.from_batch([h0, h1], zero_means([h0, h1]))
    assert path.identity_cost == pytest.approx({"balanced": 3.4910654477, "imbalanced": 3.4974656822}[name], abs=1e-10)


def test_all_positions_agree_on_an_even_line():
    path = PathStatistics.from_batch(on_a_line([0.0, 0.25, 0.5, 0.75, 1.0]))
    for kind in KINDS:
        assert path.position(kind) == pytest.approx([0, 0.25, 0.5, 0.75, 1], abs=1e-12)


def test_all_positions_but_the_index_find_the_times_on_a_line():
    times = [0.0, 0.07, 0.3, 0.35, 0.9, 1.0]
    path = PathStatistics.from_batch(on_a_line(times))
    for kind in KINDS[1:]:
        assert path.position(kind) == pytest.approx(times, abs=1e-12)
    assert path.position("index") == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1], abs=1e-15)
    assert path.position() == path.position("projection")


def test_energy_at_other_times():
    layers = trajectories(11, num_layers=5)
    path = PathStatistics.from_batch(layers)
    H = [layer.numpy() - layer.numpy().mean(axis=0) for layer in layers]
    times = [0.0, 0.1, 0.5, 0.6, 1.0]
    expected = sum(np.sum((b - a) ** 2) / 13 / (t - s) for (a, b), (s, t) in zip(pairwise(H), pairwise(times), strict=True))
    assert path.energy_at(times) == pytest.approx(expected, rel=1e-12)
    assert path.energy_at(path.position("index")) == pytest.approx(path.energy, rel=1e-12)
    assert path.energy_at(path.position("arclength")) == pytest.approx(path.energy_min, rel=1e-12)
    assert path.energy_min < min(path.energy, expected)
    for wrong in (times[:-1], [0.0, 0.5, 0.5, 0.6, 1.0], [0.0, 0.5, 0.4, 0.6, 1.0], [math.nan] * 5):
        with pytest.raises(
            ValueError, match=r"times must be 5 increasing numbers, one per layer, got \[.*Positions of the kinds"
        ):
            path.energy_at(wrong)


def test_a_line_is_straight_whatever_the_steps():
    path = PathStatistics.from_batch(on_a_line([0.0, 0.07, 0.3, 0.35, 0.9, 1.0]))
    assert path.straightness.tolist() == pytest.approx([1.0] * 7, rel=1e-12)
    assert path.line_shape.tolist() == pytest.approx([1.0] * 7, rel=1e-12)
    assert path.turning_angle.tolist() == pytest.approx([0.0] * 7, abs=1e-6)
    assert path.chord_deviation < 1e-7
    assert path.r_squared == pytest.approx(1.0, abs=1e-12)
    assert path.energy_min == pytest.approx(path.identity_cost, rel=1e-12)
    assert path.energy > 1.1 * path.energy_min


def test_projection_may_leave_the_unit_interval():
    path = PathStatistics.from_batch(on_a_line([0.0, -0.5, 1.5, 1.0]))
    assert path.position() == pytest.approx([0, -0.5, 1.5, 1], abs=1e-12)
    assert path.position("distance") == pytest.approx([0, 0.5, 1.5, 1], abs=1e-12)
    assert path.position("ratio") == pytest.approx([0, 0.25, 0.75, 1], abs=1e-12)
    assert path.position("arclength") == pytest.approx([0, 0.5 / 3, 2.5 / 3, 1], abs=1e-12)


def test_a_right_angle():
    layers = [torch.tensor([p], dtype=torch.float64) for p in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0])]
    path = PathStatistics.from_batch(layers, zero_means(layers))
    assert path.straightness.item() == pytest.approx(1 / math.sqrt(2), rel=1e-14)
    assert path.line_shape.item() == pytest.approx(math.sqrt(2), rel=1e-14)
    assert path.turning_angle.item() == pytest.approx(math.pi / 2, rel=1e-14)
    assert path.chord_deviation == pytest.approx(0.5, rel=1e-14)
    assert path.r_squared == pytest.approx(1 - 0.5 / (4 / 3), rel=1e-14)
    assert (path.identity_cost, path.energy, path.energy_min) == pytest.approx((2.0, 4.0, 4.0), rel=1e-14)
    assert path.efficiency == pytest.approx(0.5, rel=1e-14)
    assert path.speed_cov == 0.0


def test_the_chain_of_energies_on_random_trajectories():
    for seed in range(30):
        layers = trajectories(seed, num_layers=2 + seed % 5, num_samples=10, dim=1 + seed % 4)
        if seed % 2:
            layers = [layer - layer.mean(dim=0) for layer in layers]
        path = PathStatistics.from_batch(layers, zero_means(layers))
        means = float((layers[0].mean(dim=0) - layers[-1].mean(dim=0)).square().sum())
        chain = [
            path.energy,
            path.energy_min,
            path.identity_cost,
            wasserstein2_squared(layers[0], layers[-1]),
            gelbrich_squared(layers[0], layers[-1]),
            means,
        ]
        assert all(upper >= lower - 1e-12 * chain[0] for upper, lower in pairwise(chain)), chain
        assert 0 < path.efficiency <= 1 + 1e-12


def test_equality_along_the_chain():
    even = PathStatistics.from_batch(on_a_line([0.0, 0.25, 0.5, 0.75, 1.0]))
    assert even.energy == pytest.approx(even.identity_cost, rel=1e-12)
    assert even.efficiency == pytest.approx(1.0, rel=1e-12)
    # Constant speed on bent paths: the first equality, not the second.
    bent = [torch.tensor([p, [-p[1], p[0]]], dtype=torch.float64) for p in ([0.0, 0.0], [1.0, 0.0], [1.0, 1.0])]
    path = PathStatistics.from_batch(bent, zero_means(bent))
    assert path.speed_cov == pytest.approx(0.0, abs=1e-15)
    assert path.energy == pytest.approx(path.energy_min, rel=1e-12)
    assert path.energy_min == pytest.approx(2 * path.identity_cost, rel=1e-12)
    # Straight samples with different laws of time: the chord is not reached.
    start, end = normal(3, 2, 3), normal(4, 2, 3)
    middle = start + torch.tensor([[0.2], [0.8]]) * (end - start)
    uneven = PathStatistics.from_batch([start, middle, end], zero_means([start] * 3))
    assert uneven.straightness.tolist() == pytest.approx([1.0, 1.0], rel=1e-12)
    assert uneven.energy_min > uneven.identity_cost * 1.01


def test_a_drift_of_all_samples_in_each_layer_changes_nothing():
    layers = trajectories(5)
    drifted = [layer + 10 * normal(90 + index, 1, 5) for index, layer in enumerate(layers)]
    one, other = PathStatistics.from_batch(layers), PathStatistics.from_batch(drifted)
    for name, tensor in vars(one).items():
        assert torch.allclose(tensor, getattr(other, name), rtol=1e-9, atol=1e-7 if name == "turning_angle" else 1e-9), name
    uncentered = PathStatistics.from_batch(drifted, zero_means(drifted))
    assert uncentered.energy > 10 * one.energy


def test_partitions_merge_to_the_whole():
    layers = trajectories(6, num_samples=23)
    means = [layer.mean(dim=0) for layer in layers]
    whole = PathStatistics.from_batch(layers, means)
    for seed, sizes in enumerate([(23,), (1,) * 23, (4, 9, 10), (11, 1, 11)]):
        order = torch.randperm(23, generator=torch.Generator().manual_seed(seed))
        parts = [PathStatistics.from_batch([layer[rows] for layer in layers], means) for rows in order.split(sizes)]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part)
        for name, tensor in vars(whole).items():
            expected = tensor[order] if tensor.shape == (23,) else tensor
            assert torch.allclose(getattr(merged, name), expected, rtol=1e-12, atol=1e-12), name


def test_blocks_of_rows_merge_to_the_whole():
    layers = [layer.float() for layer in trajectories(7, num_layers=3, num_samples=500, dim=600)]
    path = PathStatistics.from_batch(layers)
    per_sample, expected = plain(layers)
    assert path.straightness.tolist() == pytest.approx(per_sample["straightness"], rel=1e-9)
    for name in ("projection", "energy", "r_squared", "chord_deviation"):
        assert value_of(path, name) == pytest.approx(expected[name], rel=1e-9, abs=1e-12)


def test_float32_features_far_from_the_origin_keep_the_digits_they_have():
    layers = [(layer + 1000).float() for layer in trajectories(8)]
    path, exact = PathStatistics.from_batch(layers), plain(layers)[1]
    for name in ("projection", "energy", "energy_min", "identity_cost", "chord_deviation"):
        assert value_of(path, name) == pytest.approx(exact[name], rel=1e-9, abs=1e-9)


def test_still_steps_do_not_point_anywhere():
    first, _, last = (torch.tensor(p, dtype=torch.float64) for p in ([[0.0, 0.0]], [[0.0, 0.0]], [[1.0, 1.0]]))
    layers = [first, first, last, last, 2 * last]
    path = PathStatistics.from_batch(layers, zero_means(layers))
    assert path.line_shape.item() == pytest.approx(1.0, rel=1e-14)
    assert path.straightness.item() == pytest.approx(1.0, rel=1e-14)
    # Only neighbors that both move make an angle.
    assert math.isnan(path.turning_angle.item())
    assert all(math.isnan(angle) for angle in path.turning_by_layer)


def test_a_step_of_rounding_does_not_point_anywhere():
    points = [[0.0, 0.0], [1.0, 0.0], [1.0, 1e-14], [2.0, 1e-14]]
    layers = [torch.tensor([p], dtype=torch.float64) for p in points]
    path = PathStatistics.from_batch(layers, zero_means(layers))
    assert path.line_shape.item() == pytest.approx(1.0, rel=1e-12), "with the step sideways it would be 3/sqrt(5)"


def test_a_sample_that_does_not_move_is_undefined_and_leaves_the_sums_alone():
    layers = [torch.tensor([[1.0, 1.0], [x, 0.0]], dtype=torch.float64) for x in (0.0, 1.0, 3.0)]
    path = PathStatistics.from_batch(layers, zero_means(layers))
    for name in ("straightness", "line_shape"):
        assert getattr(path, name).isnan().tolist() == [True, False]
    assert path.position() == pytest.approx([0, 1 / 3, 1], abs=1e-14)
    assert path.identity_cost == 4.5


def test_a_closed_path_has_no_position_on_its_chord():
    start, turn = normal(0, 3, 2), normal(1, 3, 2)
    path = PathStatistics.from_batch([start, start, start], zero_means([start] * 3))
    assert all(math.isnan(t) for t in path.position("projection"))
    assert math.isnan(path.efficiency)
    closed = PathStatistics.from_batch([start, turn, start], zero_means([start] * 3))
    assert closed.identity_cost == pytest.approx(0.0, abs=1e-15)
    assert closed.position("ratio")[1] == 0.5
    assert closed.line_shape.tolist() == [math.inf] * 3
    assert closed.straightness.tolist() == pytest.approx([0.0] * 3, abs=1e-7)
    assert closed.turning_angle.tolist() == pytest.approx([math.pi] * 3, abs=1e-7)


def test_distance_on_a_closed_path_is_undefined():
    ends, turn = torch.tensor([[0.0, 0.0], [1.0, 1.0]]).double(), torch.tensor([[1.0, 0.0], [2.0, 5.0]]).double()
    path = PathStatistics.from_batch([ends, turn, ends], zero_means([ends] * 3))
    assert all(math.isnan(t) for t in path.position("distance"))


def test_a_batch_without_samples_is_neutral():
    layers = trajectories(9)
    means = [layer.mean(dim=0) for layer in layers]
    whole = PathStatistics.from_batch(layers, means)
    merged = whole.merge(PathStatistics.from_batch([layer[:0] for layer in layers], means))
    assert all(torch.equal(a, b) for a, b in zip(vars(whole).values(), vars(merged).values(), strict=True))


def test_an_unknown_position_lists_those_that_are():
    path = PathStatistics.from_batch(trajectories())
    with pytest.raises(ValueError, match="index, arclength, ratio, distance, projection, got 'time'"):
        path.position("time")


@pytest.mark.parametrize(
    "layers", [[torch.zeros(3, 2)], [torch.zeros(3, 2), torch.zeros(3, 4)], [torch.zeros(3, 2), torch.zeros(4, 2)]]
)
def test_a_path_needs_two_layers_of_one_shape(layers):
    with pytest.raises(ValueError, match=r"at least two layers of one shape \(N, d\), got \d of shapes \["):
        PathStatistics.from_batch(layers)


@pytest.mark.parametrize("scale", [1e-13, 1.0, 1e13])
def test_a_step_has_a_direction_above_a_trillionth_of_the_path(scale):
    """Sideways steps of 1.5 and 0.7 trillionths of a path of length 2."""
    for share, counts in ((1.5e-12, True), (0.7e-12, False)):
        points = [[0.0, 0.0], [1.0, 0.0], [1.0, 2 * share], [2.0, 2 * share]]
        layers = [scale * torch.tensor([p], dtype=torch.float64) for p in points]
        path = PathStatistics.from_batch(layers, zero_means(layers))
        assert path.line_shape.item() == pytest.approx(3 / math.sqrt(5) if counts else 1.0, rel=1e-6)
        assert path.turn_counts.tolist() == [counts, counts]


@pytest.mark.parametrize("scale", [1e-4, 1e4])
def test_shares_do_not_depend_on_the_scale(scale):
    one, other = (PathStatistics.from_batch([s * layer for layer in trajectories(12)]) for s in (1.0, scale))
    for name in ("efficiency", "speed_cov", "chord_deviation", "r_squared", "turning_by_layer"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-9), name


def test_a_sample_that_stays_turns_nowhere():
    layers = [torch.tensor([[1.0, 1.0], [x, y]], dtype=torch.float64) for x, y in ((0, 0), (1, 0), (1, 1))]
    path = PathStatistics.from_batch(layers, zero_means(layers))
    assert (path.turn_counts.tolist(), path.turning_by_layer) == ([1], pytest.approx([math.pi / 2]))


def test_repr_names_the_numbers_of_the_path():
    path = PathStatistics.from_batch(trajectories(12))
    assert repr(path) == (
        f"PathStatistics(13 samples through 6 layers: straightness {float(path.straightness.mean()):.4g}, efficiency "
        f"{path.efficiency:.4g}, chord deviation {path.chord_deviation:.4g}, r² {path.r_squared:.4g}, speed cov "
        f"{path.speed_cov:.4g})"
    )


def test_a_step_that_stands_still_parts_the_turns():
    layers = [torch.tensor([p], dtype=torch.float64) for p in ([0.0, 0], [1, 0], [1, 0], [1, 1], [0, 1])]
    path = PathStatistics.from_batch(layers, zero_means(layers))
    assert path.turn_counts.tolist() == [0, 0, 1]
