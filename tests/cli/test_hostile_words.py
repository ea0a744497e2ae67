"""Words of files on a terminal: no control character of theirs gets there, and every refusal is one line with exit code 2."""

import json
import os

import pytest

from ncollapse.cli import main
from run_files import write_run

ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"


def refused(capsys, *arguments):
    with pytest.raises(SystemExit, match=r"^2$"):
        main(list(map(str, arguments)))
    words = capsys.readouterr().err
    assert words.startswith("ncollapse: error: ")
    assert words.count("\n") == 1
    assert not any(ord(c) < 32 or 127 <= ord(c) < 160 or c == "\u202e" for c in words.rstrip("\n"))
    return words


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", layers=("stem", "blocks.0"), epochs=(0, 2))


def test_no_escape_of_a_file_reaches_the_terminal(run, capsys, edit):
    table = run / "measurements.csv"
    whole = table.read_text()
    table.write_text(whole.replace("epoch,split", f"{ESCAPES},split"))
    assert "needs the columns" in refused(capsys, "report", run)
    table.write_text(whole.replace("blocks.0", ESCAPES))
    assert "lists the layers stem, blocks.0, but measurements.csv" in refused(capsys, "report", run)
    table.write_text(whole)
    edit(run / "recipe.json", lambda recipe: recipe.update(name=ESCAPES))
    refused(capsys, "measure", run)


@pytest.mark.parametrize("command", ["report", "claims", "measure"])
def test_every_command_refuses_what_is_no_file(run, capsys, command):
    (run / "recipe.json").unlink()
    os.mkfifo(run / "recipe.json")
    assert "recipe.json: needed a file, got a pipe. ncollapse does not write such a file: put" in refused(capsys, command, run)


def test_a_recipe_of_a_million_million_blocks_is_refused(run, capsys, edit):
    edit(run / "recipe.json", lambda recipe: recipe["model"].update(num_blocks=10**12))
    assert "number of blocks must be at most 10000, got 1e+12" in refused(capsys, "measure", run)


def test_the_state_of_a_run_is_told_without_escapes(run, capsys, edit, monkeypatch):
    edit(run / "status.json", lambda status: status.update(state="failed", reason=ESCAPES))
    for form in ((), ("--markdown",), ("--json",)):
        main(["claims", str(run), *form])
        words = capsys.readouterr().out
        assert not any((ord(c) < 32 and c != "\n") or 127 <= ord(c) < 160 or c == "\u202e" for c in words)
    assert json.loads(words)["left_out"]
