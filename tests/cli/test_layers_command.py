"""The command ``layers``: its folder, page, table and errors."""

import csv
import json
import re

import pytest

from ncollapse.cli import main

WORDS = """
import torch


def build():
    torch.manual_seed(0)
    parts = [torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)]
    return torch.nn.Sequential(*parts)


def held_out():
    return [(torch.rand(80, 64), torch.arange(80) % 10)]


def foreign():
    return [torch.randn(30, 64)]
"""


@pytest.fixture
def made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "layers_words.py").write_text(WORDS)
    (tmp_path / "names.txt").write_text("\n".join(f"<digit {k}>" for k in range(10)))
    return tmp_path


def test_one_page_and_one_table(made, capsys):
    words = "layers layers_words:build --data digits --test-data layers_words:held_out --max-samples 200".split()
    words += ["--class-names", "names.txt"]
    main([*words, "--strangers", "noise=layers_words:foreign", "--new-labels", "parity=0,1,0,1,0,1,0,1,0,1", "--out", "found"])
    said = capsys.readouterr().out
    assert "Detect noise at" in said
    assert "Transfer to parity from" in said
    page = (made / "found" / "layers.html").read_text()
    assert len(page) < 300_000
    assert "&lt;digit 3&gt;" in page
    assert "<digit" not in page
    assert not re.search(r"(src|href)=\"https?:", page)
    with (made / "found" / "layers.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["layer"] for row in rows} == {"1", "3"}
    assert {"auroc.noise.energy", "few_shot.parity", "left_out"} < {row["metric"] for row in rows}
    # Planted links are replaced, not followed.
    (made / "mine").write_text("mine")
    for name in ("layers.html", "layers.csv", "classes.csv", "pairs.csv"):
        (made / "found" / name).unlink()
        (made / "found" / name).symlink_to(made / "mine")
    main(["layers", "layers_words:build", "--data", "digits", "--max-samples", "60", "--out", "found", "--json"])
    assert (made / "mine").read_text() == "mine"
    assert not any(path.is_symlink() for path in (made / "found").iterdir())
    assert json.loads(capsys.readouterr().out)["verdicts"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--strangers a=digits a=digits", "--strangers needs NAME=DATA, each name once, got 'a=digits'"),
        ("--new-labels coarse=0,1", "must map 10 classes"),
        ("--strangers wide=gaussian_mixture", "Strangers must have samples like the network's"),
    ],
)
def test_errors(made, capsys, words, said):
    with pytest.raises(SystemExit):
        main(["layers", "layers_words:build", "--data", "digits", "--max-samples", "60", *words.split()])
    assert said in capsys.readouterr().err
