"""The scripts in benchmarks/ that no other test runs: their commands are understood."""

import runpy
from pathlib import Path

import pytest

from ncollapse.cli.solve import read_request
from ncollapse.recipes import override, recipe_by_name

WORDS = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "compare_checkouts.py"))


@pytest.mark.parametrize("name", WORDS["MODELS"])
def test_models_that_are_compared_are_understood(name):
    _, (model, *settings) = (words.split() for words in WORDS["MODELS"][name])
    assert read_request(model, settings).words["model"] == model


@pytest.mark.parametrize("name", [*WORDS["RUNS"], *WORDS["CONV"]])
def test_runs_that_are_compared_are_understood(name):
    command, recipe, option, *settings = (WORDS["RUNS"] | WORDS["CONV"])[name].split()
    assert (command, option) == ("run", "--set")
    assert override(recipe_by_name(recipe), settings).train.epochs > 0
