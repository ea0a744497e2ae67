"""The command line: what it prints, its exit codes, its one-line errors."""

import json
import subprocess
import sys

import pytest
import torch

from ncollapse.cli import main
from ncollapse.data import DataConfig, load_data
from ncollapse.studies import measure_run

SMALL = [
    "data.per_class=20", "train.epochs=3", "model.width=16", "model.num_blocks=2", "train.batch_size=50",
    "measure.transport_samples=50",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_directory(tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    main(["run", "demo", "--set", *SMALL, "--out", str(out)])
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


def test_run_writes_everything_and_says_what_was_found(run_directory, capsys, tmp_path):
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


def test_run_json_and_resume(run_directory, capsys):
    main(["run", "demo", "--set", *SMALL, "--out", str(run_directory), "--resume", "--json"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["recipe"], printed["seed"], printed["state"], printed["epoch"]) == ("demo", 0, "finished", 3)
    assert printed["report"] == str(run_directory / "report.html")


def test_demo_replaces_an_earlier_demo(run_directory, tmp_path, monkeypatch, capsys):
    import ncollapse.studies.progressive_collapse as recipes
    from ncollapse.studies import override

    short = override(recipes.demo(), SMALL)
    monkeypatch.setitem(recipes.RECIPES, "demo", lambda: short)
    for _ in range(2):
        main(["demo", "--out", str(tmp_path / "demo")])
    assert capsys.readouterr().out.count("Page: ") == 2


def test_measure_a_run_directory(run_directory, capsys):
    main(["measure", str(run_directory), "--json"])
    rows = json.loads(capsys.readouterr().out)
    expected = measure_run(run_directory)
    assert [(row["layer"], row["metric"]) for row in rows] == [(row.layer, row.metric) for row in expected.rows]
    assert rows[0]["value"] == expected.rows[0].value
    main(["measure", str(run_directory), "--memory-budget", "0"])
    assert "2 passes" in capsys.readouterr().out
    main(["measure", str(run_directory), "--layers", "blocks.1", "--batch-size", "7", "--json"])
    assert {row["layer"] for row in json.loads(capsys.readouterr().out)} == {"blocks.1"}
    for words in (["--data", "digits"], ["--checkpoint", "x.safetensors"]):
        raised = failing(capsys, "measure", str(run_directory), *words)
        assert f"is a run directory, which has its own data and checkpoint; got {words[0]}. Leave it out" in raised


def test_changed_settings_are_said(run_directory, capsys):
    main(["run", "demo", "--set", *SMALL, "--out", str(run_directory), "--resume"])
    printed = capsys.readouterr()
    changed = "data.per_class=20, model.width=16, model.num_blocks=2, train.epochs=3, train.batch_size=50"
    assert printed.out.splitlines()[0].startswith(
        f"- Changed relative to the recipe demo: {changed}, measure.transport_samples"
    )
    assert "handwritten digits" not in printed.out + printed.err
    main(["run", "demo", "--set", *SMALL, "--out", str(run_directory), "--resume", "--json"])
    assert json.loads(capsys.readouterr().out)["changed"][:2] == ["data.per_class=20", "model.width=16"]


def test_demo_does_not_replace_a_run_with_other_settings(run_directory, capsys):
    before = (run_directory / "measurements.csv").read_bytes()
    raised = failing(capsys, "demo", "--out", str(run_directory))
    assert "holds a run of 'demo' with data.per_class=20" in raised
    assert "Choose another place with --out" in raised
    assert (run_directory / "measurements.csv").read_bytes() == before


def test_measure_your_own_network(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_network_for_cli_test.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4))\n"
        "\ndef wrong():\n    return 3\n"
        "\ndef raising():\n    raise RuntimeError('no\\nGPU')\n"
        "\ndef narrow():\n    return nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 4))\n"
    )
    monkeypatch.chdir(tmp_path)
    from safetensors.torch import save_file

    from ncollapse.probe import measure

    net = torch.nn.Sequential(torch.nn.Linear(20, 8), torch.nn.ReLU(), torch.nn.Linear(8, 4))
    save_file(net.state_dict(), tmp_path / "weights.safetensors")
    words = ["measure", "own_network_for_cli_test:build", "--data", "gaussian_mixture", "--checkpoint", "weights.safetensors"]
    main([*words, "--layers", "1", "--json"])
    rows = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)}
    data = load_data(DataConfig("gaussian_mixture"))
    expected = measure(net, [(data.inputs, data.labels)], num_classes=4, layers=["1"])
    assert rows["pfc1"] == pytest.approx(expected.value("pfc1"))
    main([*words, "--split", "test", "--json"])
    printed = capsys.readouterr()
    assert {row["split"] for row in json.loads(printed.out)} == {"test"}
    assert printed.err == ""
    main(words[:4])
    told = "Weights: those that own_network_for_cli_test:build gave the network; no --checkpoint was named.\n"
    assert capsys.readouterr().out.startswith(told)
    main([*words[:4], "--json"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert printed.err == told
    raised = failing(capsys, "measure", "own_network_for_cli_test:raising", *words[2:])
    assert raised == "ncollapse: error: calling own_network_for_cli_test:raising raised RuntimeError: no GPU\n"
    raised = failing(capsys, "measure", "own_network_for_cli_test:narrow", *words[2:4])
    assert "measuring own_network_for_cli_test:narrow raised RuntimeError: mat1 and mat2 shapes cannot be multiplied" in raised
    (tmp_path / "weights.pt").write_bytes(b"PK")
    raised = failing(capsys, *words[:4], "--checkpoint", "weights.pt")
    assert "weights alone were needed, this file holds other Python objects or is damaged" in raised
    (tmp_path / "damaged.safetensors").write_bytes(b"PK")
    raised = failing(capsys, *words[:4], "--checkpoint", "damaged.safetensors")
    assert "Give weights that torch.save wrote a name ending in .pt" in raised
    raised = failing(capsys, "measure", "own_network_for_cli_test:wrong", *words[2:])
    assert "must return a torch.nn.Module, got int" in raised
    assert "has no 'absent'" in failing(capsys, "measure", "own_network_for_cli_test:absent", *words[2:])
    assert "needs --data" in failing(capsys, "measure", "own_network_for_cli_test:build")
    raised = failing(capsys, "measure", "nothing", *words[2:])
    assert "module:function, torchvision:NAME, timm:NAME or transformers:NAME, got 'nothing'" in raised


def test_report_of_several_runs(run_directory, tmp_path, capsys):
    page = tmp_path / "page.html"
    main(["report", str(run_directory), str(run_directory), "--out", str(page)])
    assert capsys.readouterr().out == f"Page: {page}\n"
    assert page.stat().st_size < 2**20


def test_recipes(capsys):
    main(["recipes", "--json"])
    assert [recipe["name"] for recipe in json.loads(capsys.readouterr().out)] == ["demo", "fc_fashion_mnist_small", "fc_mnist"]
    main(["recipes"])
    assert "fc_mnist\n    " in capsys.readouterr().out


def test_fields_of_a_recipe(capsys):
    from ncollapse.studies import Recipe, override, recipe_by_name

    recipe = recipe_by_name("demo")
    main(["recipes", "demo"])
    printed = capsys.readouterr().out
    assert printed.startswith(recipe.description)
    fields = [line.strip() for line in printed.partition("Fields, as --set takes them:\n")[2].splitlines()]
    assert "train.epochs=150" in fields
    assert "measure.epochs=null" in fields
    assert override(recipe_by_name("fc_mnist"), fields).fingerprint() == recipe.fingerprint()
    main(["recipes", "demo", "--json"])
    assert Recipe.from_json(capsys.readouterr().out) == recipe


def test_doctor(capsys):
    main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert found["torch"] == torch.__version__
    assert found["data digits"] == "1797 samples, 10 classes"
    main(["doctor"])
    assert "data mnist" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "demoo"], "No recipe 'demoo'. Near ones: demo"),
        (["run", "demo", "--set", "train.epoch=3"], "no field 'train.epoch'. Near ones: train.epochs"),
        (["run", "demo", "--out", "/proc/ncollapse-run"], "the run directory cannot be made"),
        (["report", "no-such-run"], "no-such-run"),
        (["measure", "no_such_module_anywhere:net", "--data", "digits"], "No module named 'no_such_module_anywhere'"),
        (["run", "demo", "--set", "train.epochs=0"], "error: train.epochs must be an integer of 1 or more, got 0. Pass"),
        (["demo", "--seed", "-1"], "error: seed must be at least 0 and threads at least 1, got -1 and 1. (set by seed=-1)"),
        (["recipes", "demoo"], "No recipe 'demoo'. Near ones: demo"),
        (["measure", "x", "--memory-budget", "-5"], "must be an integer of 0 or more, got '-5'"),
        (["measure", "x", "--batch-size", "0"], "must be an integer of 1 or more, got '0'"),
        (["frobnicate"], "invalid choice: 'frobnicate'"),
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
    assert "continue with --resume" in capsys.readouterr().err


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


NETWORK = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 10))

def convolutional():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

def batches():
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(20 + i, 64, generator=generator), torch.arange(20 + i) % 10) for i in range(5)]
"""


@pytest.fixture
def own_network(tmp_path, monkeypatch):
    (tmp_path / "network_for_cli.py").write_text(NETWORK)
    monkeypatch.chdir(tmp_path)
    net = torch.nn.Sequential(torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10))
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, "weights.pt")
    return net


def test_torchrun_gives_the_table_of_one_process_once(own_network, capsys):
    words = [
        "measure",
        "network_for_cli:build",
        "--data",
        "digits",
        "--checkpoint",
        "weights.pt",
        "--batch-size",
        "100",
        "--json",
    ]
    main(words)
    expected = json.loads(capsys.readouterr().out)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "ncollapse"]
    result = subprocess.run([*torchrun, *words], capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    rows = json.loads(result.stdout)
    assert [row["metric"] for row in rows] == [row["metric"] for row in expected]
    # The network itself computes in float32, where other batches may round otherwise.
    assert [row["value"] for row in rows] == pytest.approx([row["value"] for row in expected], rel=1e-5, abs=1e-6)
    result = subprocess.run([*torchrun, *words[:-1], "--layers", "nope"], capture_output=True, text=True, check=False)
    assert result.returncode != 0
    assert result.stdout == ""
    assert result.stderr.count("ncollapse: error: Rank 0 of 2: No module named or matching 'nope'") == 1


def test_batches_of_your_own(own_network, capsys):
    words = ["measure", "network_for_cli:build", "--data", "network_for_cli:batches", "--checkpoint", "weights.pt"]
    main([*words, "--num-classes", "10", "--layers", "1"])
    assert "1 layer, 110 samples of 10 classes" in capsys.readouterr().out
    assert "needs --num-classes K, and takes no --split" in failing(capsys, *words)
    raised = failing(capsys, *words[:2], "--data", "digits", "--num-classes", "10")
    assert "--num-classes is for batches of a module:function" in raised


def test_samples_take_a_shape(own_network, capsys):
    words = ["measure", "network_for_cli:convolutional", "--data", "digits", "--input-shape"]
    main([*words, "3", "8", "8", "--layers", "0"])
    assert "1797 samples" in capsys.readouterr().out
    assert "input_shape (3, 9, 9) must hold the 64 numbers of a sample" in failing(capsys, *words, "3", "9", "9")


@pytest.mark.parametrize(("name", "extra"), [("torchvision", "vision"), ("timm", "vision"), ("transformers", "text")])
def test_libraries_that_are_missing_are_named(name, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    raised = failing(capsys, "measure", f"{name}:resnet18", "--data", "digits")
    assert raised.endswith(f'needs {name}, which is not installed. Install it with: pip install "ncollapse[{extra}]"\n')


def test_libraries_that_are_there_make_networks(capsys, monkeypatch):
    import types

    def get_model(name, weights, num_classes):
        return torch.nn.Sequential(torch.nn.Linear(64, {"net_a": 8}[name]), torch.nn.ReLU(), torch.nn.Linear(8, num_classes))

    library = types.ModuleType("torchvision")
    library.models = types.SimpleNamespace(get_model=get_model)
    monkeypatch.setitem(sys.modules, "torchvision", library)
    main(["measure", "torchvision:net_a", "--data", "digits"])
    assert "1797 samples of 10 classes" in capsys.readouterr().out
    assert "making torchvision:no raised KeyError: 'no'" in failing(capsys, "measure", "torchvision:no", "--data", "digits")
