"""Fixtures: a synthetic run directory in the format of the studies, with numbers like those of a network trained on digits."""

import csv
import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LAYERS = ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3", "blocks.4")
EPOCHS = (0, 1, 2, 3, 5, 7, 11, 16, 23, 34, 50, 51, 74, 100, 150)
GRID = [i / 100 for i in range(101)]


def spaced(num_layers: int) -> list[float]:
    """Projections of the layers on the chord: slow first, then fast, as with a linear stem."""
    return [(i / (num_layers - 1)) ** 1.4 for i in range(num_layers)]


def pfc(t: float, progress: float) -> tuple[float, float, float]:
    """PFC1, PFC2 and PFC3 at t on the line between a spread-out stem and a layer that collapses with progress in [0, 1]."""
    end1, end2 = 0.9 * (0.032**progress), 0.9 * (0.3**progress)
    within = (1 - t) ** 2 * 0.6 + t**2 * end1 * 2.5 + 2 * t * (1 - t) * 0.1 * (1 - progress)
    between = (1 - t) ** 2 + 2 * t * (1 - t) * 1.3 + t**2 * 2.5
    mix = t**1.1
    return (
        within / between,
        0.81 + (end2 - 0.81) * mix,
        min(1.0, 0.935 + (0.4 * t if progress > 0.3 else -0.2 * t * (1 - progress))),
    )


def curve(progress: float, *, straight: bool) -> dict[str, list[float]]:
    first, last = pfc(0, progress), pfc(1, progress)
    if straight:
        columns = [list(column) for column in zip(*(pfc(t, progress) for t in GRID), strict=True)]
    else:
        columns = [[a ** (1 - t) * b**t for t in GRID] for a, b in zip(first, last, strict=True)]
    return {"t": GRID, "pfc1": columns[0], "pfc2": columns[1], "pfc3": columns[2], "cdnv": columns[0]}


def layer_values(num_layers: int, progress: float, bump: bool) -> list[dict[str, float]]:
    """Metrics by layer: the line plus what lies off it; with bump, PFC2 rises into the third layer at the end."""
    rows = []
    for depth, t in enumerate(spaced(num_layers)):
        one, two, three = pfc(t, progress)
        one *= 1 + 0.25 * math.sin(math.pi * t)
        two *= 1 + (0.2 if bump and depth == 2 and progress > 0.9 else 0.0) + 0.03 * math.sin(7 * t)
        row = {"pfc1": one, "pfc2": two, "pfc3": three, "pfc3_error": 1 - three, "nc1": one / 9, "nc1_total": one / (1 + one)}
        row |= {"nc2_equinorm": two / 4, "nc2_equiangularity": two / 5, "nc2_max_angle": two / 6, "cdnv": one / 2}
        row |= {"separation": 10 * one / 9, "rank_between": 9.0}
        if depth == num_layers - 1:
            row |= {"nc2_equinorm_weights": 0.1, "nc2_etf_weights": 0.2, "nc3": 1.6 * (1 - progress) + 0.02, "nc3_etf": 0.1}
            row |= {"nc3_cosine": 0.1, "nc4": 1 - 0.05 * (1 - progress), "nc4_mismatch": 0.05 * (1 - progress), "accuracy": 1.0}
        rows.append(row)
    return rows


def progression(names: tuple[str, ...], values: list[float]) -> dict[str, Any]:
    rises = [name for name, a, b in zip(names[1:], values, values[1:], strict=False) if b > a]
    return {"violations": rises, "num_violations": len(rises), "largest": 0.1, "kendall_tau": -0.87, "spearman": -0.9,
            "tolerance": 0.02, "num_violations_tol": len(rises), "violations_tol": rises}  # fmt: skip


def depth_record(epoch: int, names: tuple[str, ...], progress: float, values: list[dict[str, float]]) -> dict[str, Any]:
    num_layers = len(names)
    index = [i / (num_layers - 1) for i in range(num_layers)]
    places = {"index": index, "projection": spaced(num_layers), "arclength": spaced(num_layers)}
    places |= {"ratio": spaced(num_layers), "distance": spaced(num_layers)}
    errors = {"line": {"pfc1": 0.067, "pfc2": 0.021}, "null": {"pfc1": 0.233, "pfc2": 0.014}}
    depth = next((i for i, row in enumerate(values) if row["pfc3_error"] <= 0.005), None)
    return {
        "epoch": epoch, "layers": list(names), "positions": places,
        "curve": curve(progress, straight=True), "null": curve(progress, straight=False),
        "prediction_error": {key: errors for key in places},
        "progression": {key: progression(names, [row[key] for row in values]) for key in ("pfc1", "pfc2", "pfc3_error")},
        "effective_depth": [{"epsilon": e, "depth": num_layers - 1 if depth is None else depth, "reached": depth is not None,
                             "monotone_after": True} for e in (0.0, 0.005, 0.05)],
        "theorem1": {"holds": True, "correlation": 12.5, "normalized": 0.92, "monotone": True, "argmax_t": None,
                     "coefficients": [-1.0, -2.0, -3.0]},
        "theorem2": {"monotone": False, "intervals": [[0.0, 0.08]], "sufficient_a": False, "sufficient_b": False,
                     "relative_cost": 0.95, "end_distance": 0.27},
        "theorem3": {"guaranteed": False, "violating_pairs": 3, "num_pairs": 15660, "num_falls": 24, "num_steps": 100},
        "straightness": {"mean": 0.961, "median": 0.966, "line_shape_score_mean": 1.05, "line_shape_score_median": 1.04,
                         "turning_angle_mean_degrees": 21.0, "chord_deviation_mean": 0.07, "r_squared": 0.98, "speed_cov": 0.6},
        "energy": {"energy": 200.0, "energy_min": 160.0, "identity_cost": 155.0, "wasserstein2": 154.0, "gelbrich": 150.0,
                   "num_samples_wasserstein": 1000, "efficiency": 0.775},
    }  # fmt: skip


def write_run(
    folder: Path, *, layers: tuple[str, ...] = LAYERS, epochs: tuple[int, ...] = EPOCHS, bump: bool = True,
    title: str = "Digits", seed: int = 0, splits: tuple[str, ...] = ("train",), flagged: bool = True,
) -> Path:  # fmt: skip
    """Write a run directory and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"name": "demo", "title": title, "description": "A small residual network on the handwritten digits.",
              "data": {"name": "digits", "split": "train", "per_class": 174}, "model": {"width": 64, "num_blocks": 5},
              "train": {"epochs": 150, "learning_rate": 0.1, "weight_decay": 0.01, "milestones": [1 / 3, 2 / 3]},
              "measure": {"epsilons": [0.0, 0.005, 0.05]}, "seed": seed, "threads": 1}  # fmt: skip
    environment = {"ncollapse": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "numpy": "2.4.6", "device": "cpu", "threads": 1,
                   "platform": "Linux", "seed": seed}  # fmt: skip
    status = {"state": "finished", "epoch": epochs[-1], "epochs": epochs[-1], "train_accuracy": 1.0, "first_perfect_epoch": 12,
              "seconds": 7.3, "weight_decay_time": 7.77}  # fmt: skip
    records, rows = [], []
    for epoch in epochs:
        progress = math.log1p(epoch) / math.log1p(epochs[-1])
        values = layer_values(len(layers), progress, bump)
        records.append(depth_record(epoch, layers, progress, values))
        for split in splits:
            for depth, (name, row) in enumerate(zip(layers, values, strict=True)):
                rows += [(epoch, split, depth, name, metric, repr(value), "") for metric, value in row.items()]
    if flagged:
        rows.append((epochs[-1], "train", 0, layers[0], "rank_within", "nan", "empty_class"))
    history = [(e, repr(2.3 / e), repr(min(1.0, 0.9 + e / 120)), "0.1", "0.5") for e in range(1, epochs[-1] + 1)]
    glossary = {
        "metrics": {"pfc1": "within- over between-class variance, tr Σ_W / tr Σ_B"},
        "flags": {"empty_class": "a class has no samples, so nothing over all classes is defined"},
    }
    files = {"recipe": recipe, "environment": environment, "status": status, "depth": {"epochs": records}, "glossary": glossary}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    write_table(folder / "measurements.csv", "epoch,split,depth,layer,metric,value,flags", rows)
    write_table(folder / "history.csv", "epoch,loss,accuracy,learning_rate,grad_norm", history)
    return folder


def write_table(file: Path, header: str, rows: list[tuple[Any, ...]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([header.split(","), *rows])


def write_swept_runs(folder: Path, values: tuple[str, ...], *, field: str = "train.weight_decay", seeds: int = 2) -> Path:
    """Runs whose PFC1 is 0.1 (1 + seed/10) / value at the last layer, or without the value for words."""
    listed = []
    for value in values:
        for seed in range(seeds):
            name = f"{field}={value}_seed={seed}"
            listed.append({"name": name, "settings": {field: value}, "seed": seed})
            run = write_run(folder / name, layers=LAYERS[:3], epochs=(0, 5), seed=seed, bump=False, flagged=False)
            scale = float(value) if value[0].isdigit() and float(value) else 1.0
            set_value(run, "pfc1", 0.1 * (1 + seed / 10) / scale)
    (folder / "sweep.json").write_text(json.dumps({"runs": listed}))
    return folder


def set_value(run: Path, metric: str, value: float) -> None:
    """Change a metric of the third layer at epoch 5."""
    table = run / "measurements.csv"
    pattern = rf"^(5,train,2,[^,]*,{metric}),[^,]*,"
    table.write_text(re.sub(pattern, rf"\1,{value!r},", table.read_text(), flags=re.MULTILINE))


def set_train_accuracy(run: Path, accuracy: float, **status: Any) -> None:
    """Change the train accuracy at the last epoch, in both files that state it, and what else the status says."""
    file, table = run / "status.json", run / "measurements.csv"
    content = json.loads(file.read_text()) | {"train_accuracy": accuracy, **status}
    file.write_text(json.dumps(content))
    pattern = rf"^({content['epoch']},train,[^,]*,[^,]*,accuracy),[^,]*,"
    table.write_text(re.sub(pattern, rf"\1,{accuracy!r},", table.read_text(), flags=re.MULTILINE))


def keep_stage(content: dict[str, Any], first: int, last: int) -> None:
    """Leave the curves of ``depth.json`` with some of their layers, as of one stage of several."""
    for record in content["epochs"]:
        record["layers"] = record["layers"][first:last]
        record["positions"] = {kind: values[first:last] for kind, values in record["positions"].items()}
        for item in record["progression"].values():
            for key in ("violations", "violations_tol"):
                item[key] = [name for name in item[key] if name in record["layers"]]
        record["effective_depth"] = [item for item in record["effective_depth"] if item["depth"] < last - first]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """Write a run directory below tmp_path: make_run("name", layers=..., epochs=...)."""
    return lambda name="run", **options: write_run(tmp_path / name, **options)


@pytest.fixture
def run_dir(shared_run: Path, tmp_path: Path) -> Path:
    """A finished run of six layers and fifteen epochs, for a test to change."""
    return shutil.copytree(shared_run, tmp_path / "run")


@pytest.fixture
def edit() -> Callable[[Path, Callable[[Any], None]], None]:
    """Change a JSON file in place: edit(file, lambda content: ...)."""

    def change(file: Path, action: Callable[[Any], None]) -> None:
        content = json.loads(file.read_text(encoding="utf-8"))
        action(content)
        file.write_text(json.dumps(content), encoding="utf-8")

    return change


@pytest.fixture(scope="session")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run for tests that only read it."""
    return write_run(tmp_path_factory.mktemp("shared") / "run")


@pytest.fixture(scope="session")
def second_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another run, for pages of several: other seed, PFC2 falling all the way."""
    return write_run(tmp_path_factory.mktemp("shared") / "second", seed=1, bump=False, title="Digits again", epochs=(0, 5, 150))


@pytest.fixture(scope="session")
def write_sweep() -> Callable[..., Path]:
    """Write a sweep: write_sweep(folder, values, field=..., seeds=...)."""
    return write_swept_runs
