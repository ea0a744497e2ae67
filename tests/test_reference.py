"""The examples of the reference print what they say, and every public name is in one."""

import doctest
import re
from pathlib import Path

import matplotlib.pyplot as plt
import pytest
import torch

import ncollapse

PAGES = {path.stem: path for path in (Path(__file__).parents[1] / "docs" / "reference").glob("*.md") if path.stem != "index"}
OPTIONS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


@pytest.mark.parametrize("room", PAGES)
def test_examples_print_what_they_say(room, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    blocks = "\n".join(re.findall(r"```pycon\n(.*?)```", PAGES[room].read_text(), flags=re.DOTALL))
    test = doctest.DocTestParser().get_doctest(blocks, {}, room, str(PAGES[room]), 0)
    said: list[str] = []
    with torch.random.fork_rng():
        failed, tried = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=said.append)
    plt.close("all")
    assert (failed, tried > 0) == (0, True), "".join(said)


@pytest.mark.parametrize("room", ncollapse._ROOMS)
def test_every_public_name_has_an_example(room):
    module = getattr(ncollapse, room)
    code = "\n".join(re.findall(r"^(?:>>>|\.\.\.) (.*)$", PAGES[room].read_text(), flags=re.MULTILINE))
    shown = set(re.findall(r"\w+", code))
    names = {name for name in module.__all__ if name not in shown and ">>>" not in (getattr(module, name).__doc__ or "")}
    own = {
        name
        for name in names
        if any(">>>" in (value.__doc__ or "") for value in getattr(getattr(module, name), "__dict__", {}).values())
    }
    assert names - own == set()
