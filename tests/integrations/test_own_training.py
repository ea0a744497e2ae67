"""The tutorial of one's own training runs: on fewer samples here, and on digits where Fashion-MNIST is not found."""

import re
from pathlib import Path

import pytest
import torch

import ncollapse as nc

PAGE = (Path(__file__).parents[2] / "docs" / "tutorials" / "2_your_own_training.md").read_text()
CELLS = re.findall(r"```\{code-cell\}\n(:tags: \[parameters\]\n)?(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture
def images(monkeypatch):
    load = nc.load_data

    def found(name, **options):
        assert name == "fashion_mnist"
        try:
            return load(name, **options)
        except nc.data.DataNotFoundError:
            return load("digits", **{**options, "input_shape": (1, 8, 8)})

    monkeypatch.setattr(nc, "load_data", found)


def test_a_training_of_ones_own_becomes_a_page_and_a_comparison(tmp_path, monkeypatch, images, without_drawings):
    monkeypatch.chdir(tmp_path)
    names = {"num_samples": 200, "epochs": 2}
    with torch.random.fork_rng():
        for tag, code in CELLS:
            if not tag:
                exec(code, names)
    _, _, loop, pages, _ = (code for _, code in CELLS)
    assert len([line for line in f"{loop}{pages}".splitlines() if line]) <= 20
    # What is on the disk is what measure says of the network at the end of the second training.
    run = nc.records.read_run("runs/decay_0.005")
    measured = nc.measure(names["net"], names["train"], num_classes=10, path=True)
    recorded = [row.value for row in run.rows if (row.epoch, row.split) == (2, "train")]
    assert recorded == pytest.approx([row.value for row in measured.rows], nan_ok=True)
    assert {row.split for row in run.rows} == {"train", "test"}
    assert run.status.weight_decay_time == pytest.approx(2 * 2 * 0.05 / (1 - 0.9) * 5e-3, rel=1e-12)
    assert "2 of 2" in names["page"].read_text(encoding="utf-8")
    # Long names may break between words.
    comparison = names["comparison"].read_text(encoding="utf-8").replace("<wbr>", "")
    assert all(f"train.weight_decay={decay}<" in comparison for decay in ("0", "0.005"))
