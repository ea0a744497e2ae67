"""Sweeps: every combination and seed in a folder of its own, finished ones left alone, the same tables after any kill."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from distributed import launch
from ncollapse import studies
from ncollapse.cli import main
from ncollapse.records.errors import RunDirectoryWarning
from ncollapse.records.sweep import read_sweep
from ncollapse.studies import override, plan_sweep, recipe_by_name, run_recipe, run_sweep, sweep
from ncollapse.studies.workers import work

SMALL = [
    "data.per_class=10", "train.epochs=3", "train.checkpoint_every=2", "measure.epochs=[0,1]", "model.width=16",
    "model.num_blocks=2", "train.batch_size=50", "measure.transport_samples=0", "train.learning_rate=0.02",
]  # fmt: skip
OVER = ["train.weight_decay=0,0.05", "model.num_blocks=1,2"]
FOR_ALL = [setting for setting in SMALL if not setting.startswith("model.num_blocks=")]
TABLES = ("measurements.csv", "depth.json", "history.csv")


def base(*settings):
    return override(recipe_by_name("demo"), [*SMALL, *settings])


def tables(runs):
    return {run.name: {table: (run.path / table).read_bytes() for table in TABLES} for run in runs}


def test_every_combination_with_every_seed(tmp_path):
    runs = plan_sweep(base("seed=3"), OVER, 2, tmp_path)
    assert [run.name for run in runs[:3]] == [
        "train.weight_decay=0_model.num_blocks=1_seed=3",
        "train.weight_decay=0_model.num_blocks=1_seed=4",
        "train.weight_decay=0_model.num_blocks=2_seed=3",
    ]
    found = {(r.recipe.train.weight_decay, r.recipe.model.num_blocks, r.recipe.seed) for r in runs}
    assert found == {(w, b, s) for w in (0.0, 0.05) for b in (1, 2) for s in (3, 4)}
    assert len(runs) == 8
    assert all(run.path == tmp_path / run.name for run in runs)
    assert [run.recipe for run in plan_sweep(base(), [], 1, tmp_path)] == [base()]


RATES = ("train.optimizer=sgd,adam", "train.learning_rate=0.1,0.001")


def test_settings_that_belong_together_are_one_axis(tmp_path):
    runs = plan_sweep(base(), [RATES, "model.num_blocks=1,2"], 1, tmp_path)
    assert [(r.recipe.train.optimizer, r.recipe.train.learning_rate, r.recipe.model.num_blocks) for r in runs] == [
        ("sgd", 0.1, 1), ("sgd", 0.1, 2), ("adam", 0.001, 1), ("adam", 0.001, 2),
    ]  # fmt: skip
    assert runs[2].name == "train.optimizer=adam_model.num_blocks=1_seed=0"
    assert (runs[2].settings, runs[2].tied) == (
        {"train.optimizer": "adam", "model.num_blocks": "1"},
        {"train.learning_rate": "0.001"},
    )
    # A value that belongs to others may be the same for two of them.
    same = plan_sweep(base(), [("train.optimizer=sgd,adam", "model.width=8,8")], 1, tmp_path)
    assert [run.recipe.model.width for run in same] == [8, 8]


def test_a_tied_sweep_is_listed_and_extended(tmp_path, in_this_process):
    few = base("train.epochs=1", "measure.epochs=[1]")
    run_sweep(plan_sweep(few, [RATES], 1, tmp_path), tmp_path)
    run_sweep(plan_sweep(few, [("train.optimizer=adamw", "train.learning_rate=0.002")], 1, tmp_path), tmp_path)
    listed = {(item.settings["train.optimizer"], item.tied["train.learning_rate"]) for item in read_sweep(tmp_path).runs}
    assert listed == {("sgd", "0.1"), ("adam", "0.001"), ("adamw", "0.002")}
    with pytest.raises(ValueError, match=r"train.optimizer with train.learning_rate, and this one is over train.optimizer\."):
        run_sweep(plan_sweep(few, ["train.optimizer=sgdw"], 1, tmp_path), tmp_path)
    with pytest.raises(ValueError, match=r"holds a run of 'demo' with train.learning_rate=0\.1, and this sweep's is of 'demo'"):
        run_sweep(plan_sweep(few, [("train.optimizer=sgd", "train.learning_rate=0.2")], 1, tmp_path), tmp_path)


def test_the_command_ties_what_follows_with(tmp_path, capsys, monkeypatch):
    asked = []
    monkeypatch.setattr(studies, "plan_sweep", lambda recipe, over, *_: asked.append(over))
    words = ["--over", "model.width=8,16", "train.optimizer=sgd,adam", "--with", "train.learning_rate=0.1,0.001"]
    with pytest.raises(SystemExit):
        main(["sweep", "demo", *words, "--over", "data.corrupt=0,1", "--with", "train.epochs=1,2"])
    assert asked == [(("model.width=8,16",), RATES, ("data.corrupt=0,1", "train.epochs=1,2"))]
    with pytest.raises(SystemExit):
        main(["sweep", "demo", "--with", "train.learning_rate=0.1,0.001"])
    assert "--with needs an --over before it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("over", "message"),
    [
        ([("train.optimizer=sgd,adam", "train.learning_rate=0.1")], r"needs one value for each of the 2 .* got 1: 0\.1"),
        ([("train.optimizer=sgd,adam", "train.learning_rate")], "--with needs field=value,value"),
        ([("model.width=8", "train.gamma=0.1", "train.gamma=0.1")], "can be swept once only"),
        ([("model.width=8", "train.gamma=0.1"), "train.gamma=0.1"], "can be swept once only"),
        ([("model.width=8,16", "seed=0,1")], "Seeds are swept by --seeds N"),
        (["train.weight_decay"], "--over needs field=value,value"),
        (["train.weight_decay=0,,1"], "--over needs field=value,value"),
        (["train.weight_decay=0,0"], "has a value twice"),
        (["model.width=8", "model.width=16"], "can be swept once only"),
        (["seed=0,1"], "Seeds are swept by --seeds N"),
        (["train.weight_decy=0,1"], "weight_decay"),
        (["train.weight_decay=-1"], "weight_decay must be 0 or more"),
        (["train.weight_decay=5e-4,0.01,0.0005"], "two spellings: train.weight_decay=5e-4 and train.weight_decay=0.0005"),
        (["model.num_blocks=1,2", "model.width=8,16,8.0"], "model.width"),
        (["model.num_blocks=1,0"], r"got one, stem\. Give it a block.*set by model.num_bl"),
        (["data.largest_classes=10,11"], "largest_classes of 'digits' must be between 1 and 10, got 11"),
        (["data.name=digits,texts"], r"texts need a network that takes token ids.*set by data.name=texts"),
    ],
)
def test_what_cannot_be_swept(over, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        plan_sweep(base(), over, 1, tmp_path)


@pytest.mark.parametrize(
    ("recipe", "over", "message"),
    [
        ("vit_digits", "model.patch=4,3", "patch"),
        ("fc_fixed", "model.width=16,8", "simplex"),
        ("conv_fashion_mnist_small", "data.name=fashion_mnist,gaussian_mixture", "ConvResNet needs images"),
        ("deep_rn1_small", "model.num_blocks=1,0", "needs two layers or more, got one"),
    ],
)
def test_networks_that_do_not_fit_are_refused_before_any_is_trained(recipe, over, message, tmp_path):
    fixed = ["model.head=fixed_etf", "train.loss=dot_regression"]
    varied = base(*fixed) if recipe == "fc_fixed" else recipe_by_name(recipe)
    with pytest.raises(ValueError, match=rf"{message}.*set by {over.split('=')[0]}"):
        plan_sweep(varied, [over], 2, tmp_path)


@pytest.fixture
def in_this_process(monkeypatch):
    """Runs are worked on here: to start a worker takes seconds."""
    monkeypatch.setattr(sweep, "run_locally", lambda tasks, *_: [work(task) for task in tasks])


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep") / "whole"
    runs = plan_sweep(base(), OVER, 2, out)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        # Workers that are spawned, which takes seconds each, are those of the sweeps below that are killed and stopped.
        patch.setattr(multiprocessing, "get_context", lambda kind: launch.CONTEXT)
        outcome = run_sweep(runs, out, workers=2, on_progress=lambda done, total: seen.append((done, total)))
    assert outcome.errors == {}
    assert {total for _, total in seen} == {24}
    assert seen[-1][0] == 24
    return runs


def test_a_seed_has_the_same_bits_in_run_and_in_sweep(swept, tmp_path):
    # Every other one: both seeds, and both values of what is swept.
    some = [run for index, run in enumerate(swept) if index in {0, 3, 5, 6}]
    alone = [run._replace(path=tmp_path / run.name) for run in some]
    for run in alone:
        run_recipe(run.recipe, run.path)
    assert tables(some) == tables(alone)


def test_the_list_of_runs_has_their_settings_and_seeds(swept):
    assert json.loads((swept[0].path.parent / "sweep.json").read_text())["runs"][0] == {
        "name": swept[0].name,
        "settings": {"train.weight_decay": "0", "model.num_blocks": "1"},
        "seed": 0,
        "tied": {},
    }


def test_finished_runs_are_left_alone(swept):
    before = {run.name: (run.path / "checkpoint.safetensors").stat().st_mtime_ns for run in swept}
    assert run_sweep(swept, swept[0].path.parent).errors == {}
    assert before == {run.name: (run.path / "checkpoint.safetensors").stat().st_mtime_ns for run in swept}


def test_a_finished_run_that_lost_a_table_gets_it_back_and_the_last_look_sees_the_end(tmp_path, in_this_process):
    runs, seen = plan_sweep(base(), [], 2, tmp_path), []

    def look(done, total):
        seen.append([None if run.status() is None else run.status().state for run in runs])

    assert run_sweep(runs, tmp_path, on_progress=look).errors == {}
    assert seen[-1] == ["finished", "finished"]
    table = (runs[0].path / "measurements.csv").rename(tmp_path / "kept")
    assert runs[0].status().state == "damaged"
    with pytest.warns(
        RunDirectoryWarning, match=r"measurements\.csv is not as it was written; the run goes back to its save at"
    ):
        assert run_sweep(runs, tmp_path, on_progress=look).errors == {}
    assert seen[-1] == ["finished", "finished"]
    assert (runs[0].path / "measurements.csv").read_bytes() == table.read_bytes()


def test_what_no_sweep_can_be_written_to_or_run_on(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"file must be a folder for the runs of a sweep, got a file\. Choose another"):
        run_sweep(plan_sweep(base(), [], 1, tmp_path / "file"), tmp_path / "file")
    with pytest.raises(ValueError, match="device must be one that is available here, got 'nowhere'"):
        run_sweep(plan_sweep(base("device=nowhere"), [], 1, tmp_path / "new"), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    (run,) = plan_sweep(base(), [], 1, tmp_path / "theirs")
    (tmp_path / "mine").mkdir()
    run.path.parent.mkdir()
    run.path.symlink_to(tmp_path / "mine")
    with pytest.raises(ValueError, match=r"must be a folder, got a link to .*mine\. Remove the link"):
        run_sweep([run], tmp_path / "theirs")
    assert not [*(tmp_path / "mine").iterdir()]


@pytest.mark.parametrize("setting", ["train.learning_rate=0.01", "train.epochs=6"])
def test_a_folder_of_other_settings_is_not_taken_for_this_sweep(swept, setting):
    folder = swept[0].path.parent
    before = (folder / "sweep.json").read_bytes()
    with pytest.raises(
        ValueError, match=r"holds a run of 'demo' with train\..*other settings. Choose another place with --out"
    ):
        run_sweep(plan_sweep(base(setting), OVER, 3, folder), folder)
    assert (folder / "sweep.json").read_bytes() == before


def listed(folder):
    return [item["name"] for item in json.loads((folder / "sweep.json").read_text())["runs"]]


def test_a_sweep_is_extended_by_values_and_seeds_and_loses_no_run(tmp_path, in_this_process):
    few = ["train.epochs=1", "measure.epochs=[0,1]"]
    more = plan_sweep(base(*few), ["model.num_blocks=1,10"], 2, tmp_path)
    assert run_sweep(more, tmp_path).errors == {}
    less = plan_sweep(base(*few), ["model.num_blocks=2"], 1, tmp_path)
    outcome = run_sweep(less, tmp_path)
    assert [run.name for run in outcome.runs] == ["model.num_blocks=2_seed=0"]
    assert listed(tmp_path) == [
        f"model.num_blocks={run}" for run in ("1_seed=0", "1_seed=1", "2_seed=0", "10_seed=0", "10_seed=1")
    ]
    before = (tmp_path / "sweep.json").read_bytes()
    with pytest.raises(ValueError, match=r"num_blocks=1_seed=0 holds a run of 'demo' with train.learning_rate=0.02, "):
        run_sweep(plan_sweep(base(*few, "train.learning_rate=0.01"), ["model.num_blocks=3"], 1, tmp_path), tmp_path)
    with pytest.raises(ValueError, match=r"holds a sweep over model.num_blocks, and this one is over seeds"):
        run_sweep(plan_sweep(base(*few), [], 1, tmp_path), tmp_path)
    with pytest.raises(ValueError, match=r"over model.num_blocks, and this one is over model.num_blocks, model.width\. Choose"):
        run_sweep(plan_sweep(base(*few), ["model.num_blocks=1", "model.width=16"], 1, tmp_path), tmp_path)
    assert (tmp_path / "sweep.json").read_bytes() == before


def test_a_run_that_fails_is_named_and_ends_no_other(tmp_path, in_this_process):
    recipe = base("model.normalization=none", "train.clip_norm=null")
    runs = plan_sweep(recipe, ["train.learning_rate=1e30,0.01"], 1, tmp_path)
    outcome = run_sweep(runs, tmp_path)
    assert list(outcome.errors) == ["train.learning_rate=1e30_seed=0"]
    assert "finite losses" in outcome.errors["train.learning_rate=1e30_seed=0"]
    assert [run.status().state for run in runs] == ["failed", "finished"]


@pytest.mark.parametrize(("kills", "seeds"), [(1, 1), pytest.param(2, 2, marks=pytest.mark.slow)])
def test_workers_killed_at_random_lose_nothing(
    kills, seeds, swept, tmp_path, tmp_path_factory, capsys, in_this_process, without_drawings
):
    """Workers are killed, then the whole sweep; called again, it ends with the uninterrupted table."""
    settings = [item for setting in FOR_ALL for item in ("--set", setting)]
    words = ["sweep", "demo", *settings, "--over", *OVER, "--seeds", str(seeds), "--out", str(tmp_path), "--json"]
    process = launch.started(["-m", "ncollapse", *words, "--workers", str(kills)], tmp_path_factory.mktemp("printed"))
    for _ in range(kills):
        victim = wait_for_child(process)
        time.sleep(1.5)
        kill(victim)
    kill(process.pid)
    process.join()
    main(words)
    listed = json.loads(capsys.readouterr().out)
    wanted = [run for run in swept if run.recipe.seed < seeds]
    assert [run["name"] for run in listed["runs"]] == [run.name for run in wanted]
    assert listed["page"] == str(tmp_path / "sweep.html")
    html = (tmp_path / "sweep.html").read_text(encoding="utf-8")
    assert "train.weight_decay=0.05" in html
    assert '<a href="compare.html">' in html
    assert (tmp_path / "compare.html").is_file()
    assert html.count('/report.html"') == len(listed["runs"])
    # The claims are ruled on before, so that the runs' pages can say their part.
    assert all('href="../claims.html"' in (Path(run["path"]) / "report.html").read_text() for run in listed["runs"])
    assert {run["state"] for run in listed["runs"]} == {"finished"}
    assert tables(run._replace(path=tmp_path / run.name) for run in wanted) == tables(wanted)


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.slow)])
def test_a_stopped_sweep_waits_for_its_runs_and_goes_on(
    engine, swept, tmp_path, tmp_path_factory, capsys, in_this_process, without_drawings
):
    if engine == "ray":
        pytest.importorskip("ray")
    settings = [item for setting in FOR_ALL for item in ("--set", setting)]
    words = ["sweep", "demo", *settings, "--over", *OVER, "--out", str(tmp_path), "--json"]
    printed = tmp_path_factory.mktemp("printed")
    process = launch.started(["-m", "ncollapse", *words, "--workers", "1", "--engine", engine], printed)
    first = tmp_path / swept[0].name / "status.json"
    deadline = time.monotonic() + 200
    while not first.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.terminate()
    process.join(timeout=200)
    out, err = ((printed / name).read_text() for name in ("out-0", "err-0"))
    assert (process.exitcode, out) == (143, "")
    last = err.splitlines()[-1]
    assert re.fullmatch(rf"ncollapse: stopped by SIGTERM: {tmp_path} is saved, \d of 4 runs finished\. Go on .*", last), err
    states = [json.loads(path.read_text())["state"] for path in tmp_path.glob("*/status.json")]
    assert set(states) <= {"stopped", "finished"}
    main(words)
    assert {run["state"] for run in json.loads(capsys.readouterr().out)["runs"]} == {"finished"}
    wanted = [run for run in swept if run.recipe.seed == 0]
    assert tables(run._replace(path=tmp_path / run.name) for run in wanted) == tables(wanted)


def wait_for_child(process):
    """A worker of the sweep: a child that runs what multiprocessing spawns."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.is_alive():
        listing = subprocess.run(
            ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)], capture_output=True, text=True, check=False
        )
        workers = [line.split()[0] for line in listing.stdout.splitlines() if "spawn_main" in line]
        if workers:
            return int(workers[0])
        time.sleep(0.1)
    raise AssertionError("no worker appeared")


def kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def test_ray_says_what_to_install(swept, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'--engine ray needs ray, .*pip install -e "\.\[ray\]" in the checkout'):
        run_sweep(plan_sweep(base(), [], 1, tmp_path), tmp_path, engine="ray")


@pytest.mark.slow
def test_ray_gives_the_same_tables(swept, tmp_path):
    pytest.importorskip("ray")
    runs = plan_sweep(base(), OVER, 2, tmp_path)
    assert run_sweep(runs, tmp_path, engine="ray", workers=2).errors == {}
    assert tables(runs) == tables(swept)


@pytest.mark.slow
def test_workers_of_ray_killed_at_random_lose_nothing(swept, tmp_path):
    """Twice a worker is killed, whatever it is at: its task is done again by another."""
    pytest.importorskip("ray")
    settings = [item for setting in FOR_ALL for item in ("--set", setting)]
    command = [
        *(sys.executable, "-m", "ncollapse", "sweep", "demo", *settings, "--over", *OVER),
        *("--seeds", "2", "--workers", "2", "--engine", "ray", "--out", str(tmp_path), "--json"),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    for _ in range(2):
        victim = wait_for_worker_of_ray(process)
        time.sleep(1.5)
        kill(victim)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    assert {run["state"] for run in json.loads(out)["runs"]} == {"finished"}
    assert tables(run._replace(path=tmp_path / run.name) for run in swept) == tables(swept)


def wait_for_worker_of_ray(process):
    """A process at work on a task, below the process of the sweep: Ray names it after the function."""
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and process.poll() is None:
        listing = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=False)
        rows = [line.split(None, 2) for line in listing.stdout.splitlines()]
        below = {process.pid}
        for _ in range(4):
            below |= {int(pid) for pid, parent, *_ in rows if int(parent) in below}
        workers = [int(pid) for pid, _, *words in rows if int(pid) in below and words and words[0].startswith("ray::work")]
        if workers:
            return workers[0]
        time.sleep(0.1)
    raise AssertionError("no worker appeared")
