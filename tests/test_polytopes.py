"""Antipodal pairs against all matchings, and distances from hulls in closed form."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import reference
from ncollapse.polytopes import antipodal_pairs, hull_distances


def cost_of(gram, partner):
    classes = np.arange(len(gram))
    assert (partner[partner] == classes).all()
    assert (partner != classes).all()
    return gram[classes, partner].sum() / 2


def least(gram):
    return min(sum(gram[pair] for pair in pairs) for pairs in reference.matchings(list(range(len(gram)))))


@given(st.sampled_from([2, 4, 6, 8]), st.integers(1, 6), st.integers(0, 2**32))
def test_no_other_pairs_have_a_smaller_sum(num_classes, dim, seed):
    vectors = np.random.default_rng(seed).normal(size=(num_classes, dim))
    gram = vectors @ vectors.T
    assert cost_of(gram, antipodal_pairs(gram)) == pytest.approx(least(gram), rel=1e-12, abs=1e-12)


def simplices(size, number):
    """Simplices in orthogonal subspaces: a permutation of least cost runs in circles of their size."""
    return np.kron(np.eye(number), np.eye(size) - 1 / size)


@pytest.mark.parametrize("noise", [0.0, 1e-10, 0.03])
def test_pairs_where_circles_of_odd_length_cost_less(noise):
    gram = simplices(3, 2) + noise * (lambda a: a + a.T)(np.random.default_rng(3).normal(size=(6, 6)))
    # The linear program tells sums apart that differ by more than 1e-9 of the largest product, which is 2/3 here.
    assert cost_of(gram, antipodal_pairs(gram)) == pytest.approx(least(gram), abs=1e-9 * 2 / 3 if 0 < noise < 1e-9 else 1e-12)


@pytest.mark.parametrize(("size", "number"), [(3, 4), (3, 20), (5, 2), (5, 20), (7, 6)])
def test_one_vector_of_each_odd_simplex_finds_no_partner_in_it(size, number):
    gram = simplices(size, number)
    assert cost_of(gram, antipodal_pairs(gram)) == pytest.approx(-number * (size // 2) / size, rel=1e-12)


@pytest.mark.parametrize("num_classes", [2, 40])
def test_equal_products_can_be_paired_in_any_way(num_classes):
    for gram in (np.eye(num_classes), np.eye(num_classes) - 1 / num_classes, np.zeros((num_classes, num_classes))):
        assert cost_of(gram, antipodal_pairs(gram)) == pytest.approx(num_classes / 2 * gram[0, 1], abs=1e-14)


def test_distances_from_hulls():
    triangle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0], [1.0, 1.0]])
    # The fourth point is inside the others. The first is nearest to it, the others to points of an edge.
    expected = [2**0.5, np.hypot(3.0, 1.0), np.hypot(1.0, 2.0), 0.0]
    assert hull_distances(triangle) == pytest.approx(expected, abs=1e-14)
    assert hull_distances(np.array([[0.0, 5.0], [-1.0, 0.0], [1.0, 0.0]]))[0] == pytest.approx(5.0)
