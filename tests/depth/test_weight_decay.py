"""Energy bounds of blocks against closed forms, plain loops over samples, and random layers."""

import math

import numpy as np
import pytest
import torch

from ncollapse.depth import BlockBound, BlockMoments, WeightDecayBound, normalized_bound, single_layer_bound, two_layer_bound


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def block(h, inner, outer=None):
    """Moments of a ReLU block of one or two layers."""
    hidden = torch.relu(torch.nn.functional.linear(h, *inner))
    return BlockMoments.from_batch(h, hidden if outer is None else torch.nn.functional.linear(hidden, *outer))


def test_gaussian_inputs_give_half_the_squared_norm():
    weight, sigma = normal(0, 6, 8), 1.7
    h = sigma * normal(1, 200_000, 8)
    found = single_layer_bound(block(h, (weight, None)), weight)
    squared = float(weight.square().sum())
    assert found.energy == pytest.approx(sigma**2 * squared / 2, rel=0.01)
    assert found.by_moment == pytest.approx(sigma**2 * squared, rel=0.01)
    assert found.by_weights == pytest.approx(sigma**2 * squared, rel=0.02)
    assert found.largest_eigenvalue == pytest.approx(sigma**2, rel=0.02)
    assert found.squared_weights == pytest.approx(squared, rel=1e-14)
    assert WeightDecayBound((found,)).is_bound


def test_symmetric_inputs_give_exactly_half_of_the_bound():
    # relu(a)² + relu(-a)² = a², whatever the covariance.
    weight, half = normal(2, 5, 4), normal(3, 30, 4) @ normal(4, 4, 4)
    found = single_layer_bound(block(torch.cat([half, -half]), (weight, None)), weight)
    assert found.energy == pytest.approx(found.by_moment / 2, rel=1e-13)


def isotropic(seed, dim, size):
    """Points of mean zero and second moment size² I that are distributed as their negatives: a turned cross of 2 d points."""
    axes = torch.linalg.qr(normal(seed, dim, dim)).Q
    return size * math.sqrt(dim) * torch.cat([axes, -axes])


def test_weight_decay_is_the_energy_of_symmetric_isotropic_inputs():
    """Section III-C of arXiv 2405.00985, exactly: E‖relu(W h)‖² = ½ s² ‖W‖² for every W, by plain loops over samples."""
    for seed in range(20):
        rng = np.random.default_rng(seed)
        dim, width, size = int(rng.integers(1, 8)), int(rng.integers(1, 8)), rng.uniform(0.1, 5)
        h, weight = isotropic(seed, dim, size), normal(seed + 100, width, dim) * rng.uniform(0.1, 5)
        energy = np.mean([sum(max(row @ x, 0.0) ** 2 for row in weight.numpy()) for x in h.numpy()])
        decay = float(weight.square().sum())
        assert energy == pytest.approx(size**2 * decay / 2, rel=1e-12)
        found = single_layer_bound(block(h, (weight, None)), weight)
        assert (found.energy, found.by_moment, found.by_weights) == (
            pytest.approx(energy, rel=1e-12), pytest.approx(2 * energy, rel=1e-12), pytest.approx(2 * energy, rel=1e-12)
        )  # fmt: skip


def test_each_hypothesis_of_that_equality_is_needed():
    """Two weights of one norm: equal energies under the hypotheses, unequal ones without symmetry, isotropy or with a bias."""
    pair, shift = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    cross = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]], dtype=torch.float64)
    one_sided = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    stretched = cross * torch.tensor([2.0, 1.0])
    for h, equal in ((cross, True), (one_sided, False), (stretched, False)):
        energies = [single_layer_bound(block(h, (weight, None)), weight).energy for weight in pair]
        assert (energies[0] == energies[1]) == equal
    decay = float(pair[0].square().sum() + shift.square().sum())
    assert single_layer_bound(block(cross, (pair[0], shift)), pair[0], shift).energy != 0.5 * 0.5 * decay


def plain(h, f, matrices):
    """Energy, tr(U S U'), λ_max, by loops over samples with augmented inputs."""
    U = matrices[0].numpy()
    S = sum(np.outer(x, x) for x in h.numpy()) / len(h)
    energy = np.mean([np.sum(x**2) for x in f.numpy()])
    return energy, np.mean([np.sum((U @ x) ** 2) for x in h.numpy()]), np.linalg.svd(S)[1][0]


@pytest.mark.parametrize("with_bias", [False, True])
def test_a_single_layer_equals_plain_loops(with_bias):
    h, weight = normal(5, 40, 4) + 0.5, normal(6, 3, 4)
    bias = normal(7, 3) if with_bias else None
    found = single_layer_bound(block(h, (weight, bias)), weight, bias)
    f = torch.relu(h @ weight.T + (0 if bias is None else bias))
    if with_bias:
        h, weight = torch.cat([h, torch.ones(40, 1)], dim=1), torch.cat([weight, bias[:, None]], dim=1)
    energy, by_moment, largest = plain(h, f, [weight])
    squared = float((weight**2).sum())
    assert (found.energy, found.by_moment) == (pytest.approx(energy, rel=1e-12), pytest.approx(by_moment, rel=1e-12))
    assert found.largest_eigenvalue == pytest.approx(largest, rel=1e-12)
    assert found.by_weights == pytest.approx(largest * squared, rel=1e-12)
    assert found.squared_weights == pytest.approx(squared, rel=1e-12)


@pytest.mark.parametrize("inner_bias", [False, True])
@pytest.mark.parametrize("outer_bias", [False, True])
def test_two_layers_equal_plain_loops(inner_bias, outer_bias):
    h, U, V = normal(8, 40, 4) + 0.5, normal(9, 6, 4), normal(10, 3, 6)
    b, c = normal(11, 6) if inner_bias else None, normal(12, 3) if outer_bias else None
    found = two_layer_bound(block(h, (U, b), (V, c)), (U, b), (V, c))
    parameters = [p for p in (U, b, V, c) if p is not None]
    f = torch.relu(h @ U.T + (0 if b is None else b)) @ V.T + (0 if c is None else c)
    if inner_bias or outer_bias:
        h = torch.cat([h, torch.ones(40, 1)], dim=1)
        U = torch.cat([U, torch.zeros(6, 1) if b is None else b[:, None]], dim=1)
    if outer_bias:
        U, V = torch.cat([U, torch.tensor([[0.0] * 4 + [1.0]])]), torch.cat([V, c[:, None]], dim=1)
    energy, trace, largest = plain(h, f, [U])
    assert found.energy == pytest.approx(energy, rel=1e-12)
    assert found.by_moment == pytest.approx(np.linalg.svd(V.numpy())[1][0] ** 2 * trace, rel=1e-12)
    norms = float((U**2).sum() + (V**2).sum())
    assert found.by_weights == pytest.approx(largest * (norms / 2) ** 2, rel=1e-12)
    assert found.squared_weights == pytest.approx(sum(float((p**2).sum()) for p in parameters), rel=1e-12)


def test_the_inequalities_hold_on_random_layers():
    for seed in range(60):
        scale = 10.0 ** (seed % 5 - 2)
        h = normal(seed, 30, 5) @ normal(seed + 1, 5, 5) + seed % 3
        inner = (scale * normal(seed + 2, 7, 5), normal(seed + 3, 7) if seed % 2 else None)
        outer = (normal(seed + 4, 5, 7), normal(seed + 5, 5) if seed % 4 > 1 else None)
        for found in (
            single_layer_bound(block(h, inner), *inner),
            two_layer_bound(block(h, inner, outer), inner, outer),
        ):
            assert found.energy <= found.by_moment * (1 + 1e-12)
            assert found.by_moment <= found.by_weights * (1 + 1e-12)


def normalized_block(seed, *, exact, activation=torch.relu):
    """A block x → V σ(γ x̂ + β) + e, its bound, and all numbers of the bound by plain formulas of mean and variance."""
    rng = np.random.default_rng(seed)
    dim, x = int(rng.integers(1, 6)), None
    x = normal(seed, 25, dim) * rng.uniform(0.2, 3) + 2 * normal(seed + 1, dim)
    scale, shift, V, e = normal(seed + 2, dim), normal(seed + 3, dim), normal(seed + 4, 3, dim), normal(seed + 5, 3)
    mean, variance = x.mean(dim=0), x.var(dim=0, correction=0)
    running_mean, running = (mean, variance) if exact else (mean + normal(seed + 6, dim), variance * rng.uniform(0.3, 3) + 1e-5)
    standard = (x - running_mean) / running.sqrt()
    f = activation(standard * scale + shift) @ V.T + e
    found = normalized_bound(BlockMoments.from_batch(standard, f), (scale, shift), (V, e))
    normalized = float((scale**2 * variance / running + (shift + scale * (mean - running_mean) / running.sqrt()) ** 2).sum())
    outer = torch.cat([V, e[:, None]], dim=1).numpy()
    return found, f, normalized, float((scale**2).sum() + (shift**2).sum()), outer


def test_normalized_blocks_equal_formulas_of_mean_and_variance():
    """In eval mode with any running statistics; with those of the data ‖γ‖² + ‖β‖² is exact, and no eigenvalue is above 1."""
    for seed in range(20):
        exact = seed % 2 == 0
        found, f, normalized, squared, outer = normalized_block(seed, exact=exact)
        assert found.energy == pytest.approx(float((f**2).sum(dim=1).mean()), rel=1e-12)
        assert found.by_moment == pytest.approx(np.linalg.norm(outer, 2) ** 2 * (normalized + 1), rel=1e-12)
        assert found.squared_weights == pytest.approx(squared + (outer**2).sum(), rel=1e-12)
        norms = (squared + 1 + (outer**2).sum()) / 2
        assert found.by_weights == pytest.approx(found.largest_eigenvalue * norms**2, rel=1e-12)
        assert found.energy <= found.by_moment <= found.by_weights
        if exact:
            assert normalized == pytest.approx(squared, rel=1e-12)
            assert found.largest_eigenvalue == pytest.approx(1, abs=1e-12)


def test_hypotheses_of_the_bound_of_normalized_blocks():
    """Running statistics that are not those of the data break ‖γ‖² + ‖β‖², and an activation with |σ(a)| > |a| every bound."""
    broken = 0
    for seed in range(1, 40, 2):
        found, _, normalized, squared, outer = normalized_block(seed, exact=False)
        broken += found.energy > np.linalg.norm(outer, 2) ** 2 * (squared + 1)
        assert normalized <= found.largest_eigenvalue * squared * (1 + 1e-12)
    assert broken > 0
    found, *_ = normalized_block(0, exact=True, activation=lambda a: a + 10)
    assert found.energy > found.by_weights


def test_a_normalization_that_ends_a_block_is_an_equality():
    x, scale, shift = normal(20, 30, 4), normal(21, 4), normal(22, 4)
    standard = (x - x.mean(dim=0)) / x.var(dim=0, correction=0).sqrt()
    found = normalized_bound(BlockMoments.from_batch(standard, standard * scale + shift), (scale, shift))
    squared = float((scale**2).sum() + (shift**2).sum())
    for number in (found.energy, found.by_moment, found.by_weights, found.squared_weights):
        assert number == pytest.approx(squared, rel=1e-12)
    cut = normalized_bound(BlockMoments.from_batch(standard, torch.relu(standard * scale + shift)), (scale, shift))
    assert cut.energy < cut.by_moment == pytest.approx(squared, rel=1e-12)


def test_bounds_are_attained():
    # One positive input along the top singular direction, nothing cut off: all three numbers meet.
    h = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    weight = torch.tensor([[3.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
    found = single_layer_bound(block(h, (weight, None)), weight)
    assert (found.energy, found.by_moment, found.by_weights) == (36.0, 36.0, 36.0)
    found = two_layer_bound(block(h, (weight, None), (weight, None)), (weight, None), (weight, None))
    assert (found.energy, found.by_moment) == (pytest.approx(324.0), pytest.approx(324.0))
    assert found.by_weights == pytest.approx(4 * 81.0)
    # A block that is constant: the outer bias alone.
    zero, c = torch.zeros(2, 2, dtype=torch.float64), torch.tensor([1.0, 2.0], dtype=torch.float64)
    found = two_layer_bound(block(h, (zero, None), (zero, c)), (zero, None), (zero, c))
    assert (found.energy, found.by_moment) == (5.0, pytest.approx(5.0))


def test_partitions_merge_to_the_whole():
    h, f = normal(13, 23, 4), normal(14, 23, 6)
    whole = BlockMoments.from_batch(h, f)
    for sizes in ((23,), (1,) * 23, (10, 0, 13)):
        parts = [BlockMoments.from_batch(a, b) for a, b in zip(h.split(sizes), f.split(sizes), strict=True)]
        merged = parts[0]
        for part in parts[1:]:
            merged = merged.merge(part)
        for name, tensor in vars(whole).items():
            assert torch.allclose(getattr(merged, name), tensor, rtol=1e-12, atol=1e-12), name
    assert int(whole.num_samples) == 23


def test_sums_over_blocks():
    one, other = BlockBound(1.0, 2.0, 3.0, 4.0, 5.0, "a"), BlockBound(10.0, 20.0, 30.0, 40.0, 50.0, "b")
    both = WeightDecayBound((one, other), is_bound=False)
    assert (both.energy, both.by_moment, both.by_weights, both.squared_weights) == (11.0, 22.0, 33.0, 55.0)
    # Of version 0.2 and before: no bound, so that nothing is tight.
    assert both.tightness is None
    assert WeightDecayBound((one, other)).tightness == 0.5
    undefined = WeightDecayBound((one, BlockBound(None, 20.0, 30.0)))
    assert (undefined.energy, undefined.by_moment, undefined.tightness, undefined.squared_weights) == (None, 22.0, None, None)


def test_no_samples_are_undefined():
    weight = normal(15, 3, 4)
    found = single_layer_bound(BlockMoments.from_batch(torch.zeros(0, 4), torch.zeros(0, 3)), weight)
    assert all(math.isnan(x) for x in (found.energy, found.by_moment, found.by_weights, found.largest_eigenvalue))


def test_shapes_that_do_not_fit_are_refused():
    h = normal(16, 5, 4)
    with pytest.raises(ValueError, match=r"one row per sample, .* got \(5, 4\) and \(4, 4\)\. Flatten"):
        BlockMoments.from_batch(h, h[:4])
    moments = BlockMoments.from_batch(h, h)
    with pytest.raises(ValueError, match=r"shape \(e, 4\) for the block's inputs of 4 numbers, got \(4, 3\)\. Pass"):
        single_layer_bound(moments, torch.zeros(4, 3))
    with pytest.raises(
        ValueError, match=r"of 4 numbers needs a scale and a shift of shape \(4,\), .* got shapes \[\(3,\), \(4,\)\]\."
    ):
        normalized_bound(moments, (torch.ones(3), torch.ones(4)))
    with pytest.raises(ValueError, match=r"outer weight must have shape \(e, 7\) .* got \(4, 6\)\. Pass the layers"):
        two_layer_bound(moments, (torch.zeros(7, 4), None), (torch.zeros(4, 6), None))


def test_inputs_of_one_number():
    """With and without a bias the bounds are those of the same affine map."""
    h, weight, outer = normal(17, 9, 1), (normal(18, 3, 1), None), (normal(19, 2, 3), normal(20, 2))
    zero = (weight[0], torch.zeros(3, dtype=torch.float64))
    moments = block(h, weight, outer)
    found, same = two_layer_bound(moments, weight, outer), two_layer_bound(moments, zero, outer)
    assert found == same
    assert found.energy <= found.by_moment <= found.by_weights


def test_words_name_the_sizes_that_are_needed():
    moments = BlockMoments.from_batch(normal(16, 5, 4), normal(16, 5, 4))
    words = r"shape \(e, 7\) for the inner one's 7 outputs, got \(6,\)\."
    with pytest.raises(ValueError, match=words):
        two_layer_bound(moments, (torch.zeros(7, 4), None), (torch.zeros(6), None))
    with pytest.raises(ValueError, match=r"shape \(e, 4\) for the block's inputs of 4 numbers, got \(4,\)\."):
        single_layer_bound(moments, torch.zeros(4))
    norm = (torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match=r"got shapes \[\(4,\), \(4,\), \(2, 3\)\]\. Pass the parameters"):
        normalized_bound(moments, norm, (torch.ones(2, 3), torch.ones(2)))
    with pytest.raises(ValueError, match=r"got shapes \[\(4,\), \(3,\)\]\."):
        normalized_bound(moments, (norm[0], torch.ones(3)))
    for inputs, outputs in ((torch.zeros(5), torch.zeros(5, 2)), (torch.zeros(5, 2), torch.zeros(5))):
        with pytest.raises(ValueError, match="one row per sample"):
            BlockMoments.from_batch(inputs, outputs)
