"""Two and three processes that train one network end with the weights and the table of one process."""

import csv
import json
import re

import pytest
import torch
from torch import nn

from distributed import launch, training_worker
from distributed.training_worker import CASES, STOPS, VECTORS
from ncollapse.train import TrainConfig, train
from ncollapse.train.parallel import share_batch_norm

TABLES = ("measurements.csv", "depth.json", "history.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    for size, act in ((1, None), (3, training_worker.cases), (2, training_worker.runs)):
        assert launch.together(training_worker.work, [(rank, size, folder, act) for rank in range(size)]) == 0
    return folder


def told(folder, what, size):
    return [json.loads((folder / f"{what}-{rank}.json").read_text()) for rank in range(size)]


@pytest.mark.parametrize("name", CASES)
def test_processes_train_as_one(folder, name):
    records, state = json.loads((folder / "cases-alone.json").read_text())[name]
    first, *others = (found[name] for found in told(folder, "cases", 3))
    assert all(other == first for other in others)
    for record, expected in zip(first[0], records, strict=True):
        assert record == pytest.approx(expected, rel=1e-10)
    assert first[1].keys() == state.keys()
    for key, values in state.items():
        assert first[1][key] == pytest.approx(values, rel=1e-10, abs=1e-12), key


def values(path):
    with (path / "measurements.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {(row["epoch"], row["layer"], row["metric"]): float(row["value"] or "nan") for row in rows}


def test_a_run_of_processes_gives_the_table_of_one(folder):
    alone, shared = values(folder / "alone"), values(folder / "run")
    assert alone.keys() == shared.keys()
    for key, value in alone.items():
        assert shared[key] == pytest.approx(value, rel=1e-10, abs=1e-12, nan_ok=True), key
    names = [{file.name for file in path.iterdir()} for path in (folder / "alone", folder / "run")]
    assert names[0] == names[1]
    assert json.loads((folder / "run" / "environment.json").read_text())["processes"] == 2


def test_a_stopped_run_of_processes_is_taken_up_to_the_bit(folder):
    whole, resumed = (folder / name for name in ("run", "resumed"))
    assert [(whole / name).read_bytes() for name in TABLES] == [(resumed / name).read_bytes() for name in TABLES]


def test_one_that_is_asked_to_stop_stops_all_after_the_same_batch(folder):
    first, *others = (found["stopped"] for found in told(folder, "cases", 3))
    assert all(other == first for other in others)
    assert first == [[number // 5 + 1, number % 5, True, True] for number in (stop - 1 for stop in STOPS)]


def test_errors_are_those_of_all(folder):
    for found in told(folder, "cases", 3):
        assert found["diverged"].startswith("training needs finite losses and gradients")
    for words in told(folder, "runs", 2):
        assert words.startswith("Rank 0 of 2: ")
        assert "holds a run of 'demo' already" in words


@pytest.mark.parametrize("how", ["end", "hang"])
def test_a_process_that_is_gone_or_hangs_is_told_with_rank_and_step(how, tmp_path):
    launch.together(training_worker.lost, [(rank, 3, tmp_path, how) for rank in range(3)])
    for rank in (0, 2):
        words = (tmp_path / f"{how}-{rank}.txt").read_text()
        # It may be noticed in the last sums of the first epoch.
        place = r"epoch (1, batch 4|2, batch 1)"
        assert re.match(rf"Rank {rank} of 3 needed an answer of the other processes in {place}, got none in ", words), words
        seconds = float(words.partition("got none in ")[2].partition(" s ")[0])
        assert (1.5 < seconds < 5) if how == "hang" else seconds < 1.5
        assert words.endswith("One of them has ended or hangs: see what it printed, and start all of them again.")


def test_a_normalization_that_processes_cannot_share():
    class Two:
        group = "not none"

    with pytest.raises(ValueError, match=r"needs batch normalization with parameters, .* affine=False.*Train in one process"):
        share_batch_norm(nn.Sequential(nn.BatchNorm1d(3, affine=False)), Two())


def test_one_process_keeps_its_normalization():
    model = nn.Sequential(nn.Linear(16, 3), nn.BatchNorm1d(3)).double()
    next(train(model, VECTORS, TrainConfig(epochs=1), seed=0))
    assert type(model[1]) is torch.nn.BatchNorm1d
