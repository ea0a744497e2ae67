"""Runs trained as one computation: the tables of runs alone, whatever runs beside them, and no run that ends another."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from ncollapse.studies import can_run_together, override, recipe_by_name, run_recipe, run_together
from ncollapse.train import checkpoint

SMALL = [
    "data.per_class=20", "train.epochs=5", "train.checkpoint_every=2", "measure.epochs=[0,1,3]", "model.width=16",
    "model.num_blocks=2", "train.batch_size=50", "measure.transport_samples=50", "train.learning_rate=0.02",
]  # fmt: skip
TABLES = ("measurements.csv", "depth.json", "history.csv")


def small(*settings):
    return override(recipe_by_name("demo"), [*SMALL, *settings])


RECIPES = [small(), small("seed=1"), small("train.weight_decay=0.1", "seed=2")]


def tables(path):
    return {name: (Path(path) / name).read_bytes() for name in TABLES}


def values(path):
    with (Path(path) / "measurements.csv").open(newline="") as file:
        return {(r["epoch"], r["layer"], r["metric"]): float(r["value"] or "nan") for r in csv.DictReader(file)}


def status(path):
    return json.loads((Path(path) / "status.json").read_text())


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    outs = [folder / str(index) for index in range(3)]
    assert run_together(RECIPES, outs) == [None] * 3
    return outs


@pytest.mark.parametrize("index", range(3))
def test_a_run_equals_the_one_alone_within_rounding(whole, index, tmp_path):
    run_recipe(RECIPES[index], tmp_path / "alone")
    alone, together = values(tmp_path / "alone"), values(whole[index])
    assert alone.keys() == together.keys()
    # Five epochs of float32: rounding grows from step to step.
    for key in alone:
        assert together[key] == pytest.approx(alone[key], rel=2e-3, abs=2e-5, nan_ok=True), key
    assert {p.name for p in (tmp_path / "alone").iterdir()} == {p.name for p in whole[index].iterdir()}
    assert status(whole[index])["state"] == "finished"


def test_a_run_does_not_depend_on_what_the_others_do(whole, tmp_path):
    others = [small("seed=7"), RECIPES[1], small("seed=8", "train.learning_rate=0.1")]
    run_together(others, [tmp_path / str(index) for index in range(3)])
    assert tables(tmp_path / "1") == tables(whole[1])


class Killed(BaseException):
    """Stands for kill -9: nothing in the library catches it."""


@pytest.mark.parametrize("saves", [1, 4, 5, 8, 10])
def test_killed_at_any_checkpoint_and_resumed_it_ends_with_the_same_tables(whole, saves, tmp_path, monkeypatch):
    outs = [tmp_path / str(index) for index in range(3)]
    count, save = 0, checkpoint.save_checkpoint

    def dying(*arguments):
        nonlocal count
        count += 1
        if count > saves:
            raise Killed
        save(*arguments)

    monkeypatch.setattr("ncollapse.studies.run.save_checkpoint", dying)
    with pytest.raises(Killed):
        run_together(RECIPES, outs)
    monkeypatch.undo()
    assert run_together(RECIPES, outs, resume=True) == [None] * 3
    assert [tables(out) for out in outs] == [tables(out) for out in whole]


def test_one_that_diverges_ends_alone(whole, tmp_path):
    wild = small("train.learning_rate=1e30", "train.clip_norm=null")
    outs = [tmp_path / str(index) for index in range(3)]
    wild_error, *others = run_together([wild, *RECIPES[1:]], outs)
    assert "finite losses" in str(wild_error)
    assert others == [None, None]
    assert status(outs[0])["state"] == "failed"
    assert "finite losses" in status(outs[0])["reason"]
    assert [tables(out) for out in outs[1:]] == [tables(out) for out in whole[1:]]


def test_a_damaged_checkpoint_ends_its_own_run_alone(whole, tmp_path):
    outs = [tmp_path / str(index) for index in range(3)]
    shutil.copytree(whole[0], outs[0])
    (outs[0] / "checkpoint.safetensors").write_bytes(b"damaged")
    damaged, *others = run_together(RECIPES, outs, resume=True)
    assert "damaged" in str(damaged)
    assert others == [None, None]
    assert [tables(out) for out in outs[1:]] == [tables(out) for out in whole[1:]]


def test_what_can_run_together():
    assert can_run_together(small(), small("seed=3", "train.weight_decay=0", "train.clip_norm=null", "train.gamma=0.5"))
    for setting in ("model.width=17", "train.epochs=6", "train.batch_size=40", "data.per_class=19", "threads=2"):
        assert not can_run_together(small(), small(setting))
    for uncovered in ("train.precision=bfloat16", "train.deterministic=true", "train.compiled=true"):
        assert not can_run_together(*[small(uncovered)] * 2)
    convolutional = override(recipe_by_name("conv_fashion_mnist_small"), ["seed=1"])
    assert not can_run_together(convolutional, convolutional)
    with pytest.raises(
        ValueError, match=r"train FC ResNets in float32, .* and may differ in seed, .* and clipping only\. Group"
    ):
        run_together([small(), small("model.width=17")], ["a", "b"])
