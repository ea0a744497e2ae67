"""The flow of class means against matrix powers of SciPy, Propositions A to C on random networks, and where they fail."""

import math

import numpy as np
import pytest
import torch
from scipy.linalg import fractional_matrix_power, logm, sqrtm

import reference
from ncollapse.depth import MeanFlow, mean_path_cost

K = 5


def random_means(rng, num_classes=K, dim=8):
    means = rng.normal(size=(num_classes, dim)) * np.exp(rng.normal(size=dim))
    return means - means.mean(axis=0)


def restricted(means):
    """The Gram matrix on the complement of the vector of ones, in a basis of its own."""
    basis = np.linalg.svd(np.eye(len(means)) - 1 / len(means))[0][:, : len(means) - 1]
    return basis.T @ (means @ means.T) @ basis, basis


def distance_to_frame(gram, basis):
    num_classes = len(basis)
    return reference.gram_distance(basis @ gram @ basis.T, reference.etf_gram(num_classes))


@pytest.mark.parametrize("seed", range(3))
def test_flow_equals_matrix_powers(seed):
    rng = np.random.default_rng(seed)
    first, last = random_means(rng), random_means(rng, dim=6)
    flow = MeanFlow.between(torch.tensor(first + 3), torch.tensor(last))
    (start, basis), end = restricted(first), restricted(last)[0]
    end = basis.T @ (last @ last.T) @ basis
    root = np.real(sqrtm(start))
    inner = np.linalg.solve(root, np.linalg.solve(root, end).T)
    half = np.real(logm(inner)) / 2

    def moved(tau):
        return np.real(fractional_matrix_power(inner, tau / 2)) - np.eye(len(half))

    for tau in (0.0, 0.3, 1.0):
        gram = root @ np.real(fractional_matrix_power(inner, tau)) @ root
        assert float(flow.pfc2([tau])[0]) == pytest.approx(distance_to_frame(gram, basis), rel=1e-9)
        position = np.trace(start @ moved(tau) @ moved(1)) / np.trace(start @ moved(1) @ moved(1))
        assert float(flow.position([tau])[0]) == pytest.approx(position, rel=1e-9, abs=1e-12)
        assert flow.time_at([position]) == pytest.approx([tau], abs=1e-12)
        for q in (0.5, 1.3, -0.7):
            mean = (1 - tau) * np.eye(len(half)) + tau * np.real(fractional_matrix_power(inner, q))
            gram = root @ np.real(fractional_matrix_power(mean, 1 / q)) @ root
            assert float(flow.pfc2([tau], q)[0]) == pytest.approx(distance_to_frame(gram, basis), rel=1e-8)
    assert flow.squared_distance == pytest.approx(np.sum(half**2), rel=1e-9)
    assert bool((flow.position(np.linspace(-1, 2, 50).tolist()).diff() > 0).all())


def test_without_full_rank_there_is_no_flow():
    rng = np.random.default_rng(0)
    whole, flat = torch.tensor(random_means(rng)), torch.tensor(random_means(rng, dim=K - 2))
    assert MeanFlow.between(whole, flat) is None
    assert MeanFlow.between(flat, whole) is None
    assert MeanFlow.between(whole[:1], whole[:1]) is None
    assert MeanFlow.between(whole, math.nan * whole) is None
    assert math.isnan(mean_path_cost([flat, flat]))
    assert math.isnan(MeanFlow.between(whole, 2 * whole).time_at([9.0])[0])


def linear_network(rng, dim, num_blocks, growing):
    """Random residual blocks; growing ones are positive semidefinite, so that nothing shrinks."""
    blocks = []
    for _ in range(num_blocks):
        weight = rng.normal(size=(dim, rng.integers(1, dim + 1))) * 10 ** rng.uniform(-2, 0)
        other = weight if growing else rng.normal(size=weight.shape) * 10 ** rng.uniform(-2, 0)
        blocks.append(weight @ other.T)
    return blocks


def cost(blocks, power):
    return sum((np.linalg.svd(block, compute_uv=False) ** power).sum() for block in blocks)


def layers_of(first, blocks):
    layers = [first]
    for block in blocks:
        layers.append(layers[-1] @ (np.eye(len(block)) + block).T)
    return layers


def check_bound(seeds):
    """Proposition B on random linear residual networks, and the order: bound, cost of the means' path, cost of the weights."""
    for seed in seeds:
        rng = np.random.default_rng(seed)
        dim, num_blocks, num_classes = int(rng.integers(2, 8)), int(rng.integers(1, 6)), int(rng.integers(2, 6))
        first = random_means(rng, min(num_classes, dim + 1), dim)
        blocks = linear_network(rng, dim, num_blocks, growing=seed % 2 == 0)
        layers = layers_of(first, blocks)
        flow = MeanFlow.between(torch.tensor(first), torch.tensor(layers[-1]))
        for power in (1.0, 1.5, 2.0) if flow else ():
            of_means = mean_path_cost([torch.tensor(layer) for layer in layers], power)
            assert flow.cost_bound(num_blocks, power) <= of_means * (1 + 1e-9)
            assert of_means <= cost(blocks, power) * (1 + 1e-7)


def test_no_random_network_costs_less_than_the_bound():
    check_bound(range(60))


@pytest.mark.slow
def test_no_more_random_networks_cost_less_than_the_bound():
    check_bound(range(1000, 4000))


def cheapest_blocks(first, ratios, num_blocks, rng):
    """Blocks that attain the bound: on the span of the first means, in directions of our choice."""
    left, values, _ = np.linalg.svd(first.T @ np.linalg.svd(np.eye(len(first)) - 1 / len(first))[0][:, :-1])
    turn = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    frame = left[:, : len(values)] @ turn
    return [frame @ np.diag(ratios ** (1 / num_blocks) - 1) @ frame.T] * num_blocks


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_the_bound_is_attained_by_the_flow_at_equal_times(power):
    rng = np.random.default_rng(2)
    first, ratios = random_means(rng), np.array([1.0, 1.5, 2.0, 9.0])
    blocks = cheapest_blocks(first, ratios, 3, rng)
    layers = layers_of(first, blocks)
    flow = MeanFlow.between(torch.tensor(first), torch.tensor(layers[-1]))
    assert flow.growth.exp().tolist() == pytest.approx(sorted(ratios, reverse=True), rel=1e-9)
    assert flow.cost_bound(3, power) == pytest.approx(cost(blocks, power), rel=1e-11)
    assert mean_path_cost([torch.tensor(layer) for layer in layers], power) == pytest.approx(cost(blocks, power), rel=1e-9)
    measured = [reference.gram_distance(layer @ layer.T, reference.etf_gram(K)) for layer in layers]
    assert flow.pfc2([0, 1 / 3, 2 / 3, 1]).tolist() == pytest.approx(measured, rel=1e-9)


def test_where_a_direction_shrinks_the_bound_is_not_attained():
    """All ρ ≥ 1 is needed for equality: shrinking costs, and the bound counts it as free."""
    rng = np.random.default_rng(2)
    first = random_means(rng)
    blocks = cheapest_blocks(first, np.array([0.5, 0.5, 0.5, 0.5]), 3, rng)
    flow = MeanFlow.between(torch.tensor(first), torch.tensor(layers_of(first, blocks)[-1]))
    assert flow.cost_bound(3) == pytest.approx(0, abs=1e-25)
    assert cost(blocks, 2) > 0.1


def test_below_the_power_of_one_the_bound_fails():
    """r ≥ 1 is needed: with r = 1/2 one large step is cheaper than equal ones."""
    rng = np.random.default_rng(2)
    first = random_means(rng)
    (block,) = cheapest_blocks(first, np.array([1.2, 1.2, 1.2, 1.2]), 1, rng)
    blocks = [block, 0 * block, 0 * block]
    flow = MeanFlow.between(torch.tensor(first), torch.tensor(layers_of(first, blocks)[-1]))
    assert cost(blocks, 0.5) < 0.7 * flow.cost_bound(3, 0.5)
    assert cost(blocks, 1) > flow.cost_bound(3, 1)


def flowed(first, generators, scales, step):
    """Class means after h ← h + W h / σ in small steps, and the cost ∫‖W‖²."""
    layer = first.T
    for generator, scale in zip(generators, scales, strict=True):
        # The midpoint rule.
        layer = layer + step * generator @ (layer + 0.5 * step * generator @ layer / scale) / scale
    return layer.T, step * sum((generator**2).sum() for generator in generators)


@pytest.mark.parametrize("seed", range(4))
def test_normalized_blocks_cost_at_least_the_squared_distance_over_the_clock(seed):
    """Proposition C, also where directions shrink, and its equality."""
    rng, steps = np.random.default_rng(seed), 400
    first = random_means(rng, 4, 3)
    scales = np.exp(np.cumsum(rng.normal(size=steps)) * 0.02)
    drift = 0.6 * rng.normal(size=(2, 3, 3))
    generators = [drift[0] + i / steps * drift[1] for i in range(steps)]
    last, spent = flowed(first, generators, scales, 1 / steps)
    flow = MeanFlow.between(torch.tensor(first), torch.tensor(last))
    clock = (scales**-2).mean()
    assert spent >= flow.squared_distance / clock
    symmetric = (drift[0] + drift[0].T) / 2
    last, spent = flowed(first, [symmetric / scale for scale in scales], scales, 1 / steps)
    flow = MeanFlow.between(torch.tensor(first), torch.tensor(last))
    assert spent == pytest.approx(flow.squared_distance / clock, rel=1e-2)
    # The scale must be given: blocks that are divided by half of it go the same way for a quarter.
    _, less = flowed(first, [symmetric / scale / 2 for scale in scales], scales / 2, 1 / steps)
    assert less < 0.3 * flow.squared_distance / clock


def power_path(start, end, q, shares):
    """Commuting Gram matrices, as the lengths of their columns."""
    return [np.sqrt(((1 - s) * start ** (2 * q) + s * end ** (2 * q)) ** (1 / q)) for s in shares]


def means_with(lengths):
    return torch.tensor(np.linalg.svd(np.eye(len(lengths) + 1) - 1 / (len(lengths) + 1))[0][:, :-1] * lengths)


@pytest.mark.parametrize("q", [-0.6, 1e-7, 0.25, 0.5, 1.2])
def test_the_exponent_of_a_path_is_found_without_its_clock(q):
    rng = np.random.default_rng(1)
    start = np.exp(rng.normal(size=4))
    end = start * np.exp(rng.uniform(0.3, 3, size=4))
    layers = power_path(start, end, q, (0, 0.05, 0.5, 0.6, 1))
    flow = MeanFlow.between(means_with(layers[0]), means_with(layers[-1]))
    pfc2 = [reference.gram_distance(m @ m.T, reference.etf_gram(5)) for m in (means_with(x).numpy() for x in layers)]
    assert flow.exponent([(x**2).sum() for x in layers], pfc2) == pytest.approx(q, abs=1e-4)
    # A layer whose trace is not between those of the ends has no place on the path; two layers have no interior.
    assert math.isnan(flow.exponent([1, 0.5, 3], [0.5, 0.4, 0.3]))
    assert math.isnan(flow.exponent([1, 3], [0.5, 0.3]))


def fitted_at_projection(q, start, growth):
    """The exponent of the power mean that fits PFC2 best if the share is taken to be the projection on the chord."""
    end, shares = start * np.exp(growth), np.linspace(0, 1, 9)
    layers = power_path(start, end, q, shares)
    chord = end - start
    times = [(layer - start) @ chord / (chord @ chord) for layer in layers]

    def frame(lengths):
        gram = np.diag(lengths**2)
        return np.linalg.norm(gram / np.linalg.norm(gram) - np.eye(len(gram)) / np.sqrt(len(gram)))

    measured = np.log([frame(layer) for layer in layers])
    exponents = np.linspace(-0.521, 1.519, 511)
    errors = [np.sum((np.log([frame(x) for x in power_path(start, end, p, times)]) - measured) ** 2) for p in exponents]
    return exponents[int(np.argmin(errors))]


@pytest.mark.parametrize(("q", "reads"), [(1e-6, 0.25), (0.25, 0.375), (0.5, 0.5), (1.0, 0.75)])
def test_proposition_a_the_projection_clock_halves_the_distance_from_the_line(q, reads):
    start = np.array([1.0, 1.6, 2.2, 3.1])
    nearly_equal = 0.05 + 0.004 * np.array([1.0, 0.3, -0.4, -0.9])
    assert fitted_at_projection(q, start, nearly_equal) == pytest.approx(reads, abs=0.01)
    # Growth that varies as much as it is large: the rule needs nearly equal growth.
    unequal = 0.05 * np.array([1.0, 0.2, -0.5, -0.9])
    shift = fitted_at_projection(q, start, unequal) - reads
    assert abs(shift) < 0.01 if q == 0.5 else abs(shift) > 0.05


def flow_of(seed=4):
    rng = np.random.default_rng(seed)
    return MeanFlow.between(torch.tensor(random_means(rng)), torch.tensor(random_means(rng)))


def test_times_are_found_from_minus_one_to_two():
    flow, times = flow_of(), [-1.0, -0.4, 0.0, 0.3, 1.0, 1.9, 2.0]
    assert flow.time_at(flow.position(times).tolist()) == pytest.approx(times, abs=1e-9)
    assert all(math.isnan(time) for time in flow.time_at(flow.position([-1.01, 2.01]).tolist()))


def test_two_classes_have_one_direction_that_grows():
    """PFC2 of two classes is 0; the flow multiplies their distance."""
    first = torch.tensor([[1.0, 2.0], [4.0, 6.0]])
    flow = MeanFlow.between(first, torch.tensor([[0.0], [20.0]]))
    assert flow.squared_distance == pytest.approx(math.log(4) ** 2)
    assert flow.pfc2([0.0, 0.5, 1.0]).tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    assert flow.position([0.5]).tolist() == pytest.approx([(2 - 1) / (4 - 1)])
    assert flow.cost_bound(2) == pytest.approx(2 * (2 - 1) ** 2)
    assert mean_path_cost([first, 2 * first, 4 * first]) == pytest.approx(2)


def test_costs_are_squares_unless_another_power_is_asked_for():
    flow, rng = flow_of(), np.random.default_rng(0)
    assert flow.cost_bound(3) == flow.cost_bound(3, 2.0) != flow.cost_bound(3, 1.0)
    layers = [torch.tensor(random_means(rng)) for _ in range(3)]
    assert mean_path_cost(layers) == mean_path_cost(layers, 2.0) != mean_path_cost(layers, 1.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_a_direction_counts_above_a_millionth_of_the_largest(scale):
    whole = means_with(np.ones(4))
    for smallest, counts in ((1.5e-6, True), (0.7e-6, False)):
        means = means_with(scale * np.array([1.0, 0.1, 0.1, smallest]))
        assert (MeanFlow.between(means, whole) is not None) is counts
        assert (MeanFlow.between(whole, means) is not None) is counts
        assert math.isfinite(mean_path_cost([means, whole])) is counts


@pytest.mark.parametrize(
    ("q", "found"), [(-1.44, True), (-1.36, True), (-1.7, False), (2.44, True), (2.7, False), (1.137, True)]
)
def test_exponents_are_looked_for_from_minus_three_halves_to_five_halves(q, found):
    start, end = np.array([1.0, 1.3, 0.8, 0.5]), np.array([1.7, 5.2, 1.0, 2.5])
    layers = power_path(start, end, q, (0, 0.2, 0.5, 0.6, 1))
    flow = MeanFlow.between(means_with(start), means_with(end))
    pfc2 = [reference.gram_distance(m @ m.T, reference.etf_gram(5)) for m in (means_with(x).numpy() for x in layers)]
    exponent = flow.exponent([(x**2).sum() for x in layers], pfc2)
    # The last of four grids has steps of 1.25e-5.
    assert exponent == pytest.approx(q, abs=1.3e-5) if found else math.isnan(exponent)


def test_a_trace_beyond_the_last_has_no_place_on_a_path():
    start, end = np.array([1.0, 1.3, 0.8, 0.5]), np.array([1.7, 5.2, 1.0, 2.5])
    flow, traces = MeanFlow.between(means_with(start), means_with(end)), [(x**2).sum() for x in (start, end)]
    assert math.isnan(flow.exponent([traces[0], 1.1 * traces[1], traces[1]], [0.5, 0.4, 0.3]))
    assert math.isnan(flow.exponent([traces[0], 0.9 * traces[0], traces[1]], [0.5, 0.4, 0.3]))
