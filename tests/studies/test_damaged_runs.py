"""Random damages of whole and unfinished runs are found, named, and mended or refused; none is taken silently."""

import pytest
from damaged_runs import main


@pytest.mark.parametrize("number", [10, pytest.param(100, marks=pytest.mark.slow)])
def test_random_damages(tmp_path, number):
    found = main(tmp_path, number)
    assert found["mended"] + found["refused"] == number, found
    assert found["mended"] > number / 2
