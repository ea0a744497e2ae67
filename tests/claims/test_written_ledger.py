"""docs/write_claims.py: one command turns folders of sweeps into docs/ledger.json and its pages."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from ncollapse.claims import RULES
from ncollapse.claims.deep_regularized import PAPER as DEEP_PAPER
from ncollapse.claims.progressive_collapse import PAPER

DOCS = Path(__file__).parents[2] / "docs"
N = RULES.least_draws


@pytest.fixture(scope="module")
def module(script):
    return script("write_claims")


@pytest.fixture
def ledger(module):
    return json.loads(module.LEDGER.read_text())


@pytest.fixture
def decays(tmp_path, write_sweep):
    """Write a sweep over weight decay in a folder of sweeps."""
    folder = write_sweep(tmp_path / "runs" / "mine", ("0.001", "0.01"), seeds=N)
    for run in folder.iterdir():
        if run.is_dir():
            held = json.loads((run / "recipe.json").read_text())
            held["train"]["weight_decay"] = float(run.name.partition("=")[2].partition("_")[0])
            (run / "recipe.json").write_text(json.dumps(held))
    return folder


def test_the_page_is_that_of_the_ledger(module, ledger):
    text = module.PAGE.read_text()
    assert module.page(text, ledger) == text, "run `make docs-pages`"


def test_one_command_reads_a_folder_of_sweeps(module, ledger, decays):
    (decays.parent / "notes").mkdir()
    folders = module.sweeps_in([decays.parent])
    assert folders == [decays] == module.sweeps_in([decays])
    found = module.updated(ledger, folders, [])
    assert found["papers"][PAPER]["sweeps"] == ["mine"]
    # A paper that these runs say nothing about stays as it was, and so do its sweeps; no other sweep is kept.
    others = [paper for paper in ledger["papers"] if found["papers"][paper] == ledger["papers"][paper]]
    assert DEEP_PAPER in others
    assert PAPER not in others
    assert found["sweeps"].keys() == {name for part in found["papers"].values() for name in part["sweeps"]}
    mine = found["sweeps"]["mine"]
    assert (mine["runs"], len(mine["settings"])) == (2 * N, 2)
    assert mine["seconds"] == pytest.approx(2 * N * 7.3)
    assert module.timed(mine).endswith(f"--out runs/mine  # {2 * N} runs, {2 * N * 7.3 / 60:.0f} CPU minutes")
    claims = found["papers"][PAPER]["claims"]
    # Two steps between three layers are too few for an order; a comparison of weight decays needs none.
    assert (claims["pfc1_all"]["seeds"], claims["terminal"]["seeds"]) == (0, N)
    json.dumps(found)


def test_runs_that_are_left_out_are_counted_once(module, ledger, decays):
    """An unfinished run, and one that repeats another."""
    first, second, *_ = sorted(run for run in decays.iterdir() if run.is_dir())
    status = json.loads((first / "status.json").read_text())
    (first / "status.json").write_text(json.dumps(status | {"state": "running"}))
    (second / "recipe.json").write_text((sorted(decays.glob("*0.001*"))[2] / "recipe.json").read_text())
    found = module.updated(ledger, [decays], [])
    part = found["papers"][PAPER]
    assert (part["runs"], part["left_out"]) == (2 * N - 2, 2)
    assert f"{2 * N - 2} finished runs, " in module.render(found)
    assert " 2 repeat others or are not finished, and are left out." in module.render(found)


def test_steps_and_base_rates_are_kept(module, tmp_path, write_sweep):
    folder = write_sweep(tmp_path / "seeds", ("0.01",), seeds=N)
    layers = importlib.import_module("run_files")
    for seed in range(N):
        layers.write_run(folder / f"train.weight_decay=0.01_seed={seed}", seed=seed, bump=False)
    row = module.parts_of([folder])[PAPER]["claims"]["pfc1_all"]
    steps = len(layers.LAYERS) - 1
    assert (row["seeds"], list(row["steps"])) == (N, [steps, steps])
    assert row["bases"].keys() == {"before training", "layers in random order"}
    table = "\n".join(module.parts_of([folder])[PAPER]["table"])
    assert f"| {steps} | before training " in table


def test_what_an_old_ledger_does_not_say_is_left_open(module, ledger):
    sweep = {"command": "ncollapse sweep demo", "runs": 3}
    assert module.timed(sweep) == "ncollapse sweep demo  # 3 runs, – CPU minutes"
    assert module.minutes_of([{**sweep, "seconds": 90.0}, sweep]) == "–"
    assert module.minutes_of([{**sweep, "seconds": 90.0}, {**sweep, "seconds": 150.0}]) == "4"


def test_sweeps_of_one_name_are_refused(module, tmp_path, write_sweep):
    for name in "ab":
        write_sweep(tmp_path / name / "same", ("1",), seeds=1)
    with pytest.raises(SystemExit, match="Needed sweeps with different names"):
        module.sweeps_in([tmp_path / "a", tmp_path / "b"])


def test_a_reader_sees_the_counts_before_the_rules(module, ledger):
    text = module.PAGE.read_text()
    assert text.index(module.COUNTS) < text.index(module.RULES_HEADING) < text.index(module.HEADING)
    headings = [line.removeprefix("### ") for line in text.splitlines() if line.startswith("### ")]
    for paper, part in ledger["papers"].items():
        assert paper in headings
        assert f"[{paper}](#{module.anchor(paper)}) | {sum(r['verdict'] == 'holds' for r in part['claims'].values())} |" in text
    assert module.anchor("A b-c (2025), é: 1.5") == "a-b-c-2025-é-15"


def test_depths_are_told_apart_by_their_decay_and_medians_are_over_stationary_runs(module, monkeypatch):
    def run(blocks, decay, value, still=True):
        return SimpleNamespace(blocks=blocks, value=value, still=still, last_objective=SimpleNamespace(weight_decay=decay))

    monkeypatch.setattr(module, "setting", lambda run, field: run.blocks)
    monkeypatch.setattr(module, "is_stationary", lambda run: run.still)
    monkeypatch.setattr(module, "BY_KEY", dict.fromkeys(module.DEPTH_COLUMNS, SimpleNamespace(read=lambda run: run.value)))
    runs = [run(8, 0.1, 5.0), run(1, 0.8, 1.0), run(1, 0.8, 3.0), run(1, 0.8, 99.0, still=False), run(1, 0.1, 7.0, still=False)]
    found = module.by_depth(runs)
    shown = [(row["blocks"], row["decay"], row["runs"], row["stationary"], row["pfc1"]) for row in found]
    assert shown == [(1, 0.1, 1, 0, None), (1, 0.8, 3, 2, 2.0), (8, 0.1, 1, 1, 5.0)]
