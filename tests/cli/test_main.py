"""The command line: what it prints, its exit codes, its one-line errors."""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch

from distributed import launch
from ncollapse.cli import main
from ncollapse.cli.main import _EXAMPLES, _parser
from ncollapse.cli.options import as_options
from ncollapse.studies import override, recipe_by_name, run_recipe, sweep
from ncollapse.studies.workers import work
from ncollapse.targets import Target, measure_target

SMALL = [
    "data.per_class=20", "train.epochs=3", "model.width=16", "model.num_blocks=2", "train.batch_size=50",
    "measure.transport_samples=50",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    run_recipe(override(recipe_by_name("demo"), SMALL), out)
    return out


def failing(capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    captured = capsys.readouterr()
    assert caught.value.code == 2
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert "Traceback" not in captured.err
    return captured.err


def test_run_writes_everything_and_says_what_was_found(capsys, tmp_path):
    main(["run", "demo", "--set", *SMALL, "--out", str(tmp_path / "run")])
    printed = capsys.readouterr()
    assert "PFC1" in printed.out
    assert printed.out.splitlines()[-1] == f"Page: {tmp_path / 'run' / 'report.html'}"
    assert "epoch 3/3, loss" in printed.err
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names >= {"report.html", "recipe.json", "measurements.csv", "history.csv", "depth.json", "checkpoint.safetensors"}
    figures = sorted(path.name for path in (tmp_path / "run" / "figures").iterdir())
    assert figures == [
        f"{name}.{kind}" for name in ("nc_last_layer", "pfc_over_depth", "pfc_over_epochs") for kind in ("png", "svg")
    ]


def test_run_json_and_resume(run_directory, capsys, without_drawings):
    main(["run", "demo", "--set", *SMALL, "--out", str(run_directory), "--resume", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recipe"], printed["seed"], printed["state"], printed["epoch"]) == ("demo", 0, "finished", 3)
    assert printed["report"] == str(run_directory / "report.html")


def test_demo_replaces_an_earlier_demo(tmp_path, monkeypatch, capsys, without_drawings):
    import ncollapse.recipes.catalog as recipes

    short = override(recipes.recipe_by_name("demo"), SMALL)
    monkeypatch.setitem(recipes.RECIPES, "demo", lambda: short)
    for _ in range(2):
        main(["demo", "--out", str(tmp_path / "demo")])
    assert capsys.readouterr().out.count("Page: ") == 2


def test_measure_a_run_directory(run_directory, capsys):
    main(["measure", str(run_directory), "--json"])
    rows = json.loads(capsys.readouterr().out)
    expected = measure_target(Target(str(run_directory)))
    assert [(row["layer"], row["metric"]) for row in rows] == [(row.layer, row.metric) for row in expected.rows]
    assert rows[0]["value"] == expected.rows[0].value
    main(["measure", str(run_directory), "--memory-budget", "0"])
    assert "2 passes" in capsys.readouterr().out
    main(["measure", str(run_directory), "--layers", "blocks.1", "--batch-size", "7", "--json"])
    assert {row["layer"] for row in json.loads(capsys.readouterr().out)} == {"blocks.1"}
    for words in (["--data", "digits"], ["--checkpoint", "x.safetensors"], ["--input-shape", "8", "8"], ["--unsafe-pickle"]):
        raised = failing(capsys, "measure", str(run_directory), *words)
        assert f"is a run directory, which has its own data and checkpoint; got {words[0]}. Leave it out" in raised


def test_changed_settings_are_said(run_directory, capsys, without_drawings):
    main(["run", "demo", "--set", *SMALL, "--out", str(run_directory), "--resume"])
    printed = capsys.readouterr()
    changed = "data.per_class=20, model.width=16, model.num_blocks=2, train.epochs=3, train.batch_size=50"
    assert printed.out.splitlines()[0].startswith(
        f"- Changed relative to the recipe demo: {changed}, measure.transport_samples"
    )
    assert "handwritten digits" not in printed.out + printed.err
    main(["run", "demo", "--set", *SMALL, "--out", str(run_directory), "--resume", "--json"])
    assert json.loads(capsys.readouterr().out)["changed"][:2] == ["data.per_class=20", "model.width=16"]


@pytest.mark.parametrize(
    ("words", "written"),
    [
        ("Measure again with path=True.", "Measure again with --path."),
        ("Pass num_classes=4, or", "Pass --num-classes 4, or"),
        ("Try layers=['stem.2', 'blocks.*'].", "Try --layers stem.2 blocks.*."),
        ("Pass layers=.", "Pass --layers."),
        ("Pass memory_budget=0 for", "Pass --memory-budget 0 for"),
        ("set by train.path=3 and other=4, --path=5", "set by train.path=3 and other=4, --path=5"),
    ],
)
def test_errors_name_options_as_they_are_typed(words, written):
    assert as_options(words, ["path", "num_classes", "layers", "memory_budget"]) == written


def test_a_comparison_needs_two_runs(run_directory, capsys):
    raised = failing(capsys, "compare", str(run_directory))
    assert f"A comparison needs two runs or more, or a sweep, got {run_directory} alone. `ncollapse report`" in raised


def test_a_folder_that_holds_no_run_is_told(tmp_path, capsys):
    raised = failing(capsys, "report", str(tmp_path))
    assert f"{tmp_path}: needed a run directory or a sweep, found neither. Name a folder that `ncollapse run`" in raised


def test_a_resume_names_the_settings_that_differ(run_directory, capsys):
    raised = failing(capsys, "run", "demo", "--set", *SMALL, "train.epochs=9", "--out", str(run_directory), "--resume")
    assert "holds a run of 'demo' with train.epochs=3, got train.epochs=9. A finished run is not extended" in raised
    raised = failing(capsys, "run", "demo", "--set", *SMALL, "seed=2", "--out", str(run_directory), "--resume")
    assert "holds a run of 'demo' with seed=0, got seed=2. Resume it with its own settings, or" in raised
    raised = failing(capsys, "run", "deep_rn1_small", "--set", "data.name=digits", "--out", str(run_directory), "--resume")
    assert "holds a run of 'demo', got 'deep_rn1_small' with" in raised


def test_demo_does_not_replace_a_run_with_other_settings(run_directory, capsys):
    before = (run_directory / "measurements.csv").read_bytes()
    raised = failing(capsys, "demo", "--out", str(run_directory))
    assert "holds a run of 'demo' with data.per_class=20" in raised
    assert "Choose another place with --out" in raised
    assert (run_directory / "measurements.csv").read_bytes() == before


def test_report_of_several_runs(run_directory, tmp_path, capsys, without_drawings):
    page = tmp_path / "run.html"
    other = shutil.copytree(run_directory, tmp_path / "other")
    main(["report", str(run_directory), str(other), "--out", str(page)])
    assert capsys.readouterr().out == f"Page: {page}\n"
    assert page.stat().st_size < 2**20


@pytest.mark.parametrize("command", ["report", "compare", "claims"])
def test_one_directory_is_named_once(command, run_directory, capsys):
    again = run_directory / ".." / run_directory.name
    raised = failing(capsys, command, str(run_directory), str(again))
    assert f"Every DIR must be another one, got one twice: {run_directory} and {again}. Name it once." in raised


def test_report_does_not_mix_runs_and_sweeps(run_directory, tmp_path, capsys):
    (tmp_path / "sweep.json").write_text("{}")
    for folders in ([tmp_path, run_directory], [run_directory, tmp_path]):
        raised = failing(capsys, "report", *map(str, folders))
        assert f"got both: {tmp_path} is a sweep, {run_directory} is a run. Name one kind at a time" in raised
        assert "`ncollapse compare` and `ncollapse claims` accept both" in raised


@pytest.mark.parametrize(
    ("command", "needed"),
    [
        *(([name, "demo"], "folder") for name in ("run", "sweep")),
        *(([name, "a-run"], "file") for name in ("report", "compare", "claims")),
        (["demo"], "folder"),
    ],
)
def test_out_is_a_folder_or_a_file(command, needed, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    there = "file" if needed == "folder" else "folder"
    assert f"must be a {needed}, {there} is a {there}; " in failing(capsys, *command, "--out", there)
    raised = failing(capsys, *command, "--out", "file/x")
    assert "must lie in a folder, got file/x, and file is a file; choose another place" in raised


def test_what_is_set_for_all_runs_is_not_swept(tmp_path, capsys):
    words = ["--set", "model.num_blocks=4", "--over", "model.num_blocks=1,2"]
    raised = failing(capsys, "sweep", "demo", *words, "--out", str(tmp_path / "x"))
    assert "got model.num_blocks in both (--set model.num_blocks=4). Leave it out of one" in raised
    assert not (tmp_path / "x").exists()


def test_a_failed_run_is_not_promised_to_go_on(tmp_path, capsys, monkeypatch):
    # In this process: to start another takes seconds.
    monkeypatch.setattr(sweep, "run_locally", lambda tasks, *_: [work(task) for task in tasks])
    out = tmp_path / "x"
    diverging = [*SMALL, "model.normalization=none", "train.clip_norm=null", "train.learning_rate=1e30"]
    with pytest.raises(SystemExit) as caught:
        main(["sweep", "demo", "--set", *diverging, "--out", str(out)])
    raised = capsys.readouterr().err.splitlines()[-1]
    assert caught.value.code == 2
    assert "1 of 1 runs are not finished. Correct what is named here; runs that were interrupted go on when" in raised
    assert "finite losses" in raised


def options_of(parser, names=()):
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield from options_of(below, (*names, name))
        else:
            yield " ".join((*names, action.metavar or action.dest)), action.help


def test_every_argument_is_described():
    from ncollapse.cli.main import _parser

    described = list(options_of(_parser()))
    assert len(described) > 50
    assert [name for name, words in described if not words] == []


def test_recipes(capsys):
    from ncollapse.studies import RECIPES

    main(["recipes", "--json"])
    assert [recipe["name"] for recipe in json.loads(capsys.readouterr().out)] == list(RECIPES)
    main(["recipes"])
    assert "fc_mnist\n    " in capsys.readouterr().out


def test_fields_of_a_recipe(capsys):
    from ncollapse.studies import Recipe, override, recipe_by_name

    recipe = recipe_by_name("demo")
    main(["recipes", "demo"])
    printed = capsys.readouterr().out
    assert printed.startswith(recipe.description)
    lines = printed.partition("Fields, as --set takes them:\n")[2].splitlines()
    fields = [line[4:].partition("  ")[0] for line in lines if not line.startswith(" " * 5)]
    assert re.search(
        r"train\.optimizer=sgd +sgd, adam, or these with decoupled weight decay: sgdw, adamw\. lbfgs takes", printed
    )
    assert re.search(r"no effect\. \(sgd,\s+adam,\s+sgdw,\s+adamw,\s+lbfgs\)\n", printed)
    assert re.search(r"seed=0 +Decides the initial weights", printed)
    assert "train.epochs=150" in fields
    assert "measure.epochs=null" in fields
    assert override(recipe_by_name("fc_mnist"), fields).fingerprint() == recipe.fingerprint()
    main(["recipes", "demo", "--json"])
    assert Recipe.from_json(capsys.readouterr().out) == recipe


def test_doctor(capsys):
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    # Wheels of older versions leave out of their metadata for which GPU they were built.
    assert found["torch"] == torch.__version__ or found["torch"] == torch.__version__.partition("+")[0]
    assert found["data digits"] == "ships with scikit-learn"
    assert found["data gaussian_mixture"] == "drawn, needs no files"
    assert found["cvxpy (extra)"][0].isdigit()
    main(["doctor"])
    assert "data mnist" in capsys.readouterr().out


def test_doctor_names_the_place_of_a_data_set(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("NCOLLAPSE_DATA", str(tmp_path))
    (tmp_path / "mnist.npz").touch()
    (tmp_path / "cifar10.npz").touch()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "train.csv").touch()
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["data mnist"] == f"found: {tmp_path / 'mnist.npz'}"
    assert found["data cifar10"] == f"found: {tmp_path / 'cifar10.npz'}"
    assert found["data texts"] == f"found: {tmp_path / 'texts'}"
    assert found["data stl10"].startswith(f"not found in {tmp_path}, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demoo"], "No recipe 'demoo'. Near ones: demo"),
        (["run", "demo", "--set", "train.epoch=3"], "no field 'train.epoch'. Near ones: train.epochs"),
        (["run", "demo", "--out", "/proc/ncollapse-run"], "the folder cannot be made"),
        (["report", "no-such-run"], "no-such-run"),
        (["measure", "no_such_module_anywhere:net", "--data", "digits"], "No module named 'no_such_module_anywhere'"),
        (["run", "demo", "--set", "train.epochs=0"], "error: train.epochs must be an integer of 1 or more, got 0. Pass"),
        (["demo", "--seed", "-1"], "error: seed must be 0 or more, got -1. Pass a larger integer. (set by --seed -1)"),
        (["recipes", "demoo"], "No recipe 'demoo'. Near ones: demo"),
        (["measure", "torch.nn:Identity", "--data", "diggits"], "run directory, got 'diggits'. Near ones: digits. `ncollapse"),
        (
            ["claim", "x"],
            "must be one of measure, layers, demo, run, recipes, sweep, reproduce, runs, report, claims, compare, animate, "
            "verify, repair, import, solve, doctor, completion, got 'claim'.",
        ),
        (["claim", "x"], "Near ones: claims. See ncollapse --help."),
        (
            ["measure", "torch.nn:Identity", "--data", "gaussian_mixture", "--memory-budget", "-5"],
            "memory_budget must be a number of bytes, at least 0, or a size such as '2GiB' or '500MB', got '-5'",
        ),
        (["measure", "x", "--metrisc", "pfc1"], "ncollapse measure: error: unrecognized arguments: --metrisc"),
        (["measure", "x", "--metrisc", "pfc1"], ". Near ones: --metrics. See ncollapse measure --help."),
        (["runs", "x", "--jsn"], "ncollapse runs: error: unrecognized arguments: --jsn. Near ones: --json. See ncollapse runs"),
        (["doctor", "--debgu"], "Near ones: --debug. See ncollapse doctor --help."),
        (["doctor", "y"], "ncollapse doctor: error: unrecognized arguments: y. See ncollapse doctor --help."),
        (["measure", "x", "--batch-size", "0"], "must be an integer of 1 or more, got '0'"),
        (["frobnicate"], "COMMAND: must be one of measure, layers, demo, run, recipes, sweep, reproduce, runs, report"),
        (["run"], "the following arguments are required: RECIPE"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_errors_are_one_line_and_exit_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in failing(capsys, *arguments)


def test_debug_shows_the_traceback(capsys):
    with pytest.raises(SystemExit):
        main(["--debug", "run", "demoo"])
    assert "Traceback" in capsys.readouterr().err


def test_interrupt_says_how_to_go_on(monkeypatch, capsys, tmp_path):
    import ncollapse.studies

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(ncollapse.studies, "run_recipe", interrupted)
    with pytest.raises(SystemExit) as caught:
        main(["demo", "--out", str(tmp_path / "x")])
    assert caught.value.code == 130
    assert "Continue a run with --resume" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MemoryError(), "The memory of the computer is used up (MemoryError). Name fewer folders, or a smaller problem."),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate\n2 GiB."),
            "The memory of the GPU is used up (CUDA out of memory. Tried to allocate 2 GiB). Name fewer folders, or a smaller "
            "problem.",
        ),
        (
            RecursionError("maximum recursion depth exceeded"),
            "Python's recursion limit is reached (maximum recursion depth exceeded). Modules or a file are nested too deeply, "
            "or a function calls itself: put --debug after ncollapse to see which, and flatten it.",
        ),
        (ValueError(), "ValueError: no words. Put --debug after ncollapse to see where."),
        (RuntimeError("no\nkernel."), "RuntimeError: no kernel. Put --debug after ncollapse to see where."),
        (KeyError("a word"), "a word"),
    ],
)
def test_errors_of_any_type_are_one_line(error, told, monkeypatch, capsys, tmp_path):
    def raising(*_args, **_kwargs):
        raise error

    monkeypatch.setattr("ncollapse.studies.run_recipe", raising)
    assert failing(capsys, "demo", "--out", str(tmp_path / "x")) == f"ncollapse: error: {told}\n"
    with pytest.raises(SystemExit) as caught:
        main(["--debug", "demo", "--out", str(tmp_path / "x")])
    assert caught.value.code == 2
    assert f"{type(error).__name__}" in capsys.readouterr().err


def test_a_signal_stops_a_run_which_is_saved(tmp_path):
    out = tmp_path / "run"
    words = ["run", "demo", "--out", str(out), "--set", *SMALL, "train.epochs=100000", "measure.epochs=[0]"]
    process = launch.started(["-m", "ncollapse", *words], tmp_path)
    deadline = time.monotonic() + 120
    while not (out / "status.json").exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGUSR1)
    process.join()
    told = (tmp_path / "err-0").read_text()
    assert process.exitcode == 128 + signal.SIGUSR1
    line = f"ncollapse: stopped by SIGUSR1: {out} is saved in epoch "
    assert told.splitlines()[-1].startswith(line)
    assert told.endswith(" of 4. Continue it with --resume.\n")
    assert "Traceback" not in told
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "stopped"
    assert f"in epoch {status['epoch'] + 1}, after batch " in status["reason"]


def test_a_signal_outside_training_ends_a_command(monkeypatch, capsys, tmp_path):
    def ended(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGXCPU)

    monkeypatch.setattr("ncollapse.report.write_report", ended)
    with pytest.raises(SystemExit) as caught:
        main(["report", str(tmp_path)])
    assert caught.value.code == 128 + signal.SIGXCPU
    assert capsys.readouterr().err.startswith("ncollapse: ended by SIGXCPU. What was finished is kept. Continue a run with")


def test_a_reader_that_stops_reading_is_no_error():
    command = [sys.executable, "-m", "ncollapse", "recipes", "demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


def test_as_module():
    result = subprocess.run([sys.executable, "-m", "ncollapse", "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("ncollapse ")


def test_each_help_begins_with_a_sentence_and_its_examples_can_be_parsed():
    parser = _parser()
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        assert re.match(r"[A-Z].*\.$", command.description, re.DOTALL), name
    assert set(commands.choices) >= set(_EXAMPLES)
    for name, lines in _EXAMPLES.items():
        assert commands.choices[name].epilog.splitlines()[1:] == [f"  {line}" for line in lines]
        for line in lines:
            assert parser.parse_args(shlex.split(line)[1:]).command == name
