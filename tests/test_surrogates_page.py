"""The page of the surrogate models: no model and no row is missing, and what it names exists."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest

from ncollapse.cli import main
from ncollapse.cli.surrogate_models import MODELS

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "surrogates.md").read_text()


def rows(heading):
    part = re.search(rf"^#+ {heading}\n(.*?)(?=^#|\Z)", PAGE, flags=re.DOTALL | re.MULTILINE)[1]
    table = [line for line in part.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1:]]


@pytest.mark.parametrize(("heading", "count"), [("Implementations", 8), ("Theoretical models", 11)])
def test_no_row_is_missing(heading, count):
    found = rows(heading)
    assert [row[0] for row in found] == [str(n) for n in range(1, count + 1)]
    for row in found:
        assert len(row) == 5
        assert all(row)
        if "not yet" not in row[2]:
            assert "`ncollapse." in row[2]
            assert "`tests/" in row[3]


def test_every_model_of_the_command_has_its_line():
    lines = [row[2].strip("`") for row in rows("The models")]
    assert {shlex.split(line)[2] for line in lines} == set(MODELS)


@pytest.mark.parametrize("line", [row[2].strip("`") for row in rows("The models")])
def test_its_command_runs(line, capsys):
    with contextlib.suppress(SystemExit):
        main(shlex.split(line)[1:])
    assert "Not converged" not in capsys.readouterr().out
