"""torchrun: the command in several processes, and the loop of docs/processes.md."""

import json
import re
from pathlib import Path

import pytest

from distributed import launch
from ncollapse.cli import main
from ncollapse.studies import override, recipe_by_name, run_recipe

ROOT = Path(__file__).parents[2]

MODULE = """
import os

import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).double()

def two_batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 6, generator=generator, dtype=torch.float64), torch.arange(n) % 3) for n in (20, 13)]

def failing():
    if os.environ["RANK"] == "1":
        raise OSError("no\\ndisk")
    return two_batches()
"""


@pytest.fixture(params=["forked", pytest.param("torchrun", marks=pytest.mark.slow)])
def start(request):
    """Starts processes: as torchrun does, or by torchrun itself, which takes seconds a process."""
    return getattr(launch, request.param)


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "in_processes.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def test_a_process_without_data(start, module, capsys):
    words = ["measure", "in_processes:build", "--data", "in_processes:two_batches", "--num-classes", "3", "--json"]
    result = start(3, ["-m", "ncollapse", *words])
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("Weights: those that in_processes:build gave the network") == 1
    main(words)
    # What the first process alone has printed, and what one process prints, in which nothing is shared.
    rows, expected = json.loads(result.stdout), json.loads(capsys.readouterr().out)
    keys = ("split", "depth", "layer", "metric", "flags")
    assert [[row[key] for key in keys] for row in rows] == [[row[key] for key in keys] for row in expected]
    pairs = [(row["value"], other["value"]) for row, other in zip(rows, expected, strict=True)]
    assert all((value is None) == (other is None) for value, other in pairs)
    numbers, others = zip(*(pair for pair in pairs if pair[0] is not None), strict=True)
    assert len(numbers) > 20
    assert numbers == pytest.approx(others, rel=1e-12, abs=1e-14)


def test_an_error_on_one_ends_all(start, module):
    words = ["measure", "in_processes:build", "--data", "in_processes:failing", "--num-classes", "3"]
    result = start(2, ["-m", "ncollapse", *words])
    assert result.returncode != 0
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if line.startswith("ncollapse: ")]
    assert lines == ["ncollapse: error: Rank 1 of 2: no disk"]
    # As torchrun reports the processes; it ends itself with 1.
    told = re.findall(r"exitcode +: (-?\d+)", result.stderr)
    assert result.returncode == 2 if start is launch.forked else "2" in told


RUN = [
    "data.per_class=10",
    "train.epochs=2",
    "measure.epochs=[0]",
    "model.width=8",
    "model.num_blocks=1",
    "train.batch_size=40",
]


def test_a_recipe_is_run_by_all_and_written_by_one(start, tmp_path):
    words = ["-m", "ncollapse", "run", "demo", "--out", str(tmp_path / "run"), "--json", "--set", *RUN]
    result = start(2, words)
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["state"], told["epoch"], Path(told["report"]).exists()) == ("finished", 2, True)
    run_recipe(override(recipe_by_name("demo"), RUN), tmp_path / "alone")
    alone, shared = (json.loads((tmp_path / name / "depth.json").read_text())["epochs"][-1] for name in ("alone", "run"))
    assert shared["positions"]["projection"] == pytest.approx(alone["positions"]["projection"], rel=1e-4, abs=1e-6)
    refused = start(2, words)
    lines = [line for line in refused.stderr.splitlines() if line.startswith("ncollapse: ")]
    assert len(lines) == 1
    assert "holds a run of 'demo' already. Continue it with --resume" in lines[0]


# After the loop: every process measures all samples alone, and says both.
AFTER = """
import os, pathlib
alone = nc.measure(net, Batches(digits(), 128), num_classes=10, metrics=["pfc1", "pfc3", "nc3"])
words = [[repr(row.value) for row in m.rows] for m in (measurement, alone)]
pathlib.Path(f"{os.environ['RANK']}.txt").write_text(repr((measurement.num_samples, measurement.layers, words)))
"""


def test_the_loop_of_the_documentation(start, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "processes.md").read_text(), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(code + AFTER)
    result = start(2, ["train.py"])
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("1797 samples of 10 classes") == 3
    first, second = Path("0.txt").read_text(), Path("1.txt").read_text()
    assert first == second
    samples, layers, (shared, alone) = eval(first)
    assert (samples, layers) == (1797, ("1",))
    # The network computes in float32, and other batches may round otherwise.
    assert [float(value) for value in shared] == pytest.approx([float(value) for value in alone], rel=1e-4)
