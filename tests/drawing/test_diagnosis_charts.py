"""Orders and pictures of matrices of a diagnosis."""

import io
import math
from types import SimpleNamespace

import numpy as np
from matplotlib import image
from matplotlib.figure import Figure

from ncollapse.drawing.diagnosis_charts import clustered_order, draw_transfer, matrix_png
from ncollapse.drawing.diagnosis_sentences import text_table, verdicts


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


def test_intervals_of_few_shot_accuracy_lie_within_the_axes():
    rows = [SimpleNamespace(metric="few_shot.new", layer=name, value=value, standard_error=0.05) for name, value in
            (("a", 0.7), ("b", 0.9))]  # fmt: skip
    record = SimpleNamespace(rows=rows, layers=("a", "b"), value=lambda metric, layer: -1.0)
    axes = Figure().add_subplot()
    draw_transfer(axes, record, "new")
    # The legend is outside the frame, where it covers no line.
    assert axes.get_legend() is None
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["few-shot"]
    low, high = axes.get_ylim()
    assert low < 0.7 - 0.05 * 1.96
    assert high > 0.9 + 0.05 * 1.96


def test_words_say_what_a_number_names_and_round_to_no_bound():
    values = {"ncc": 0.99998, "probe": 1.0, "knn": 0.5, "left_out": math.nan, "cka_next": 0.00001, "rankme": 3.21}
    record = SimpleNamespace(
        layers=("1", "body.3"), dims=(4, 4), accuracy={"test": 1.0}, num_samples={"train": 9, "test": 9}, decided="test",
        judged="test", strangers=(), tasks=(), merged=(), names={0: "0", 1: "cat"},
        pairs=[SimpleNamespace(first=0, second=1, confusion=0.1)], value=lambda metric, layer, split=None: values[metric],
    )  # fmt: skip
    line = text_table(record).splitlines()[2]
    assert line.split() == ["1", "4", "0.99998", "1.0000", "0.5000", "–", "1e-5", "3.2"]
    redundant, closest = verdicts(record)
    assert redundant.startswith("Redundant after layer 1 (depth 0 of 1)")
    assert closest.startswith("No classes have merged at body.3. The closest are class 0 and cat: ")
