"""Progress of a measurement: a bar, a plain line, or a function of the user's."""

import sys

import pytest
import torch
from torch import nn

import fresh
from ncollapse.metrics import pairs
from ncollapse.probe import measure

NETWORK = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
BATCHES = [(torch.randn(4, 2), torch.tensor([0, 1, 0, 1]))] * 3


@pytest.mark.parametrize("batches", [BATCHES, (batch for batch in BATCHES)])
def test_a_bar_is_shown_on_stderr(capsys, batches):
    measure(NETWORK, batches, num_classes=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "Measuring" in err


def test_without_rich_it_is_a_plain_line(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    measure(NETWORK, BATCHES, num_classes=2, progress=True)
    assert capsys.readouterr().err.split("\r")[1:] == [
        "Measuring: batch 1 of 3", "Measuring: batch 2 of 3", "Measuring: batch 3 of 3\n"
    ]  # fmt: skip


def test_walks_over_pairs_of_many_classes_are_shown(capsys, monkeypatch):
    """Of 600 classes three tiles a side are six; a function of one's own counts batches only."""
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    network, batches = (
        nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 600)),
        [(torch.randn(600, 2), torch.arange(600))],
    )
    options = {"num_classes": 600, "metrics": ["gnc2"]}
    measure(network, batches, progress=True, **options)
    lines = capsys.readouterr().err.split("\n")
    assert lines[0] == "\rMeasuring: batch 1 of 1"
    assert lines[1].split("\r")[1:7] == [f"Pairs of classes: tile {done} of 6" for done in range(1, 7)]
    assert pairs.REPORT_TILES.get() is None
    calls = []
    measure(network, batches, progress=lambda *counts: calls.append(counts), **options)
    assert (calls, capsys.readouterr().err) == ([(1, 1)], "")


@pytest.mark.parametrize("progress", [None, False])
def test_no_progress_by_default(capsys, progress):
    measure(NETWORK, BATCHES, num_classes=2, progress=progress)
    assert capsys.readouterr() == ("", "")


def test_rich_is_imported_only_for_the_bar():
    program = (
        "import sys, torch; from torch import nn; from ncollapse.probe import measure\n"
        "batches = [(torch.eye(2), torch.tensor([0, 1]))]\n"
        "measure(nn.Sequential(nn.Linear(2, 2)), batches, num_classes=2, progress=print)\n"
        "assert 'rich' not in sys.modules"
    )
    assert fresh.python("-c", program) == "1 1\n"
