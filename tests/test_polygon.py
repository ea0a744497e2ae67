"""The polygon: close classes are neighbors, and the largest of many are named."""

import numpy as np

from ncollapse.polygon import class_order, corners_of, named_classes, spread_evenly


def test_ten_largest_of_many_classes():
    assert named_classes([3, 0, 2]) == [0, 2]
    assert named_classes([1] * 20) == list(range(20))
    assert named_classes([1] * 21) == list(range(10))
    assert named_classes([*range(30)]) == list(range(20, 30))


def test_close_classes_are_neighbors():
    # Points on a circle in eight dimensions, shuffled, have one shortest tour.
    places = np.random.default_rng(0).permutation(12)
    plane, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 2)))
    order = class_order(corners_of(range(12))[places] @ plane.T)
    steps = np.diff([*places[order], places[order[0]]]) % 12
    assert set(steps.tolist()) in ({1}, {11})
    assert order[0] == 0
    assert order[1] < order[-1]


def test_equal_distances_keep_the_order_of_the_labels():
    assert class_order(np.eye(7)) == list(range(7))
    assert class_order(np.zeros((3, 2))) == [0, 1, 2]
    assert class_order(np.full((4, 2), np.nan)) == [0, 1, 2, 3]


def test_the_named_are_spread_evenly_and_keep_their_order():
    assert spread_evenly([0, 1, 2, 3, 4, 5, 6, 7], [5, 2, 3]) == [2, 0, 3, 1, 4, 5, 6, 7]
    order = np.random.default_rng(0).permutation(47).tolist()
    named = [*range(10)]
    found = spread_evenly(order, named)
    places = [place for place, label in enumerate(found) if label in named]
    assert {*np.diff([*places, 47])} == {4, 5}
    for part in (named, [*range(10, 47)]):
        assert [label for label in found if label in part] == [label for label in order if label in part]


def test_corners():
    assert corners_of([0, 1]).tolist() == [[-1, 0], [1, 0]]
    assert np.allclose(corners_of([0, 2, 1, 3])[2], [1, 0])
    assert np.allclose(np.linalg.norm(corners_of(range(9)), axis=1), 1)
