"""Orders and pictures of matrices of a diagnosis."""

import io
import math

import numpy as np
from matplotlib import image

from ncollapse.drawing.diagnosis_charts import clustered_order, matrix_png


def test_near_classes_become_neighbors():
    places = np.array([0.0, 10, 0.1, 10.2, 5])
    order = clustered_order(abs(places[:, None] - places).tolist())
    assert abs(order.index(0) - order.index(2)) == 1
    assert abs(order.index(1) - order.index(3)) == 1
    assert clustered_order([[0, math.nan], [math.nan, 0]]) == [0, 1]
    assert clustered_order(np.full((4, 4), math.nan).tolist()) == [0, 1, 2, 3]


def test_a_large_matrix_is_averaged():
    matrix = np.kron(np.array([[0.0, 2.0], [2.0, 0.0]]), np.ones((400, 400)))
    shown = image.imread(io.BytesIO(matrix_png(matrix.tolist(), colors="gray", low=0, high=2)))
    assert shown.shape[:2] == (200, 200)
    assert shown[0, 0, 0] == 0
    assert shown[0, -1, 0] == 1
    undefined = image.imread(io.BytesIO(matrix_png([[math.nan]], colors="gray", low=0, high=1)))
    assert abs(float(undefined[0, 0, 0]) - 0.6) < 0.01
