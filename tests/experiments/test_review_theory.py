"""The models of the review as experiments, beside closed forms in plain Python."""

import math

import numpy as np
import pytest

from ncollapse.experiments import EXPERIMENTS, Work


def test_risks_in_a_ball(tmp_path):
    found = EXPERIMENTS["review:sec3.1"].measure(Work(0, False, tmp_path, print))
    values = {(point.line, point.x): point.y for point in found.points}
    for radius in (1.0, 2.0, 4.0, 8.0):
        least = math.log1p(2 * math.exp(-radius * math.sqrt(3 / 2)))
        assert values["simplex", radius] == pytest.approx(least, rel=1e-12)
        assert values["descent", radius] == pytest.approx(least, rel=1e-6)
        assert least < values["averaged by class", radius] < values["random outputs", radius]
    assert found.value is True


def test_signals_on_the_central_path_obey_their_equation(tmp_path):
    found = EXPERIMENTS["review:sec3.1.3-central"].measure(Work(1, False, tmp_path, print))
    line = {point.x: point.y for point in found.points if point.line == "signal 1"}
    # log ω + ω² + ω⁴/4 grows by t/(NK).
    clock = {time: math.log(signal) + signal**2 + signal**4 / 4 for time, signal in line.items()}
    np.testing.assert_allclose([clock[time] - clock[0.0] for time in clock], [time / 160 for time in clock], rtol=0.05)
    assert found.value is True
