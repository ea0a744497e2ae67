"""Networks and data by name, measured and written as run directories."""

import json
import re

import pytest
import torch
from torch import nn

import ncollapse as nc
from ncollapse.cli import main
from ncollapse.data import DataConfig, digits, load_samples
from ncollapse.records import ReportError, read_run
from ncollapse.report import write_report
from ncollapse.studies import RunDirectoryError, override, recipe_by_name, run_recipe
from ncollapse.targets import Target, measure_target, write_measurement

SMALL = [
    "data.per_class=10", "train.epochs=2", "measure.epochs=[0]", "model.width=8", "model.num_blocks=2", "train.batch_size=50",
    "measure.convention=sample", "measure.batch_size=30", "measure.transport_samples=0",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return run_recipe(override(recipe_by_name("demo"), SMALL), tmp_path_factory.mktemp("targets") / "run")


def network():
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))


def test_the_network_and_data_of_a_run_are_those_that_it_measured(run):
    model, data = nc.load_network(run, device="cpu"), nc.load_data(run)
    assert (data.num_classes, data.split, [len(labels) for _, labels in data]) == (10, "train", [30, 30, 30, 10])
    rows = nc.measure(model, data, num_classes=10, convention="sample").rows
    last = {(row.layer, row.metric): row.value for row in read_run(run).rows if row.epoch == 2}
    assert {(row.layer, row.metric): row.value for row in rows} == pytest.approx(last, nan_ok=True)
    assert measure_target(Target(str(run)), device="cpu").rows == rows


def test_a_network_is_the_same_in_every_call_and_leaves_the_random_state(tmp_path, monkeypatch):
    (tmp_path / "made_in_tests.py").write_text("from torch import nn\n\ndef build():\n    return nn.Linear(3, 2)\n")
    monkeypatch.syspath_prepend(tmp_path)
    before = torch.random.get_rng_state()
    first, second = (nc.load_network("made_in_tests:build") for _ in range(2))
    assert torch.equal(first.weight, second.weight)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.save({"weight": torch.ones(2, 3), "bias": torch.zeros(2)}, tmp_path / "weights.pt")
    loaded = nc.load_network("made_in_tests:build", checkpoint=tmp_path / "weights.pt")
    assert loaded.weight.tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nothing", {}, r"A network must be a run directory, module:function, .* got 'nothing'"),
        ("torch:rand", {}, r"calling torch:rand raised|rand\(\) received"),
        ("nothing.net", {}, r"got 'nothing\.net'\. Write nothing:net\."),
        ("mine/nets.py:net", {}, r"named as in an import, got the file mine/nets\.py\. Write mine\.nets:net\."),
        ("textwrap:indent", {}, r"textwrap:indent must be .* without arguments, got indent\(text, prefix, .*\)\. Write a func"),
        ("math:pi", {}, "math:pi must name a function of module 'math', got float. Write a function that"),
        ("torch.nn:Identity", {"device": "nowhere"}, "device must be one that is available here, got 'nowhere'"),
        ("torch.nn:Identity", {"device": "cuda:99"}, r"available here, got 'cuda:99'\. Use auto or cpu\."),
    ],
)
def test_networks_that_are_not_there(name, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        nc.load_network(name, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("diggits", {}, r"Data must be a data set, .*got 'diggits'\. Near ones: digits\. `ncollapse doctor`"),
        ("digits", {"num_classes": 10}, r"--num-classes is for batches of a module:function, digits has its own"),
        ("digits", {"input_shape": (1, 9, 9)}, r"input_shape \(1, 9, 9\) must hold the 64 numbers"),
        ("named.batches", {"num_classes": 10}, r"or a run directory, got 'named\.batches'\. Write named:batches\."),
        ("os:listdir", {}, r"Data os:listdir does not say how many classes it has\. Pass --num-classes K\."),
        (
            "os:listdir",
            {"num_classes": 3, "batch_size": 3, "input_shape": (3,)},
            r"gives batches as they are, got --input-shape and --batch-size\. Let the function make them so\.",
        ),
    ],
)
def test_data_that_is_not_there(name, options, message):
    with pytest.raises(ValueError, match=message):
        nc.load_data(name, **options)


def test_the_test_split_of_a_run(tmp_path):
    recipe = override(recipe_by_name("demo"), [*SMALL, "data.name=gaussian_mixture", "train.epochs=1"])
    path = run_recipe(recipe, tmp_path / "run")
    samples = load_samples(DataConfig("gaussian_mixture", split="test"))
    assert sum(len(labels) for _, labels in nc.load_data(path, split="test")) == samples.num_samples
    with pytest.raises(RunDirectoryError, match=r"holds no run \(no recipe.json\)\. Name the folder that `ncollapse run` or"):
        nc.load_data(tmp_path)


def test_a_module_that_is_missing_inside_a_module_is_named_itself(tmp_path, monkeypatch):
    (tmp_path / "needs_more.py").write_text("import no_such_library\n\ndef build(): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImportError, match=r"^No module named 'no_such_library'$"):
        nc.load_network("needs_more:build")
    with pytest.raises(ImportError, match=r"No module named 'needs_mor' in the current .*Near ones: needs_more\.$"):
        nc.load_network("needs_mor:build")
    with pytest.raises(ImportError, match=r"No module named 'quux' in the current folder, .*Check the spelling and the folder"):
        nc.load_network("quux:build")


def test_options_of_the_command_are_those_of_measure(run, capsys):
    words = ["measure", str(run), "--metrics", "NC1", "pfc1", "--convention", "class", "--classifier", "head", "--json"]
    main([*words, "--memory-budget", "2GiB", "--device", "cpu"])
    rows = json.loads(capsys.readouterr().out)
    model, data = nc.load_network(run, device="cpu"), nc.load_data(run)
    expected = nc.measure(model, data, num_classes=10, metrics=["nc1", "pfc1"], convention="class", classifier="head")
    assert [(row["metric"], row["layer"], row["value"]) for row in rows] == [
        (row.metric, row.layer, row.value) for row in expected.rows
    ]
    main(["measure", str(run), "--path"])
    assert str(measure_target(Target(str(run)), path=True).path) in capsys.readouterr().out


def test_a_measurement_is_written_as_a_run_directory(run, tmp_path, capsys):
    out = tmp_path / "out"
    main(["measure", str(run), "--path", "--out", str(out)])
    assert f"Run directory: {out}" in capsys.readouterr().out
    names = {path.name for path in out.iterdir()}
    assert names == {
        *("measurements.csv", "depth.json", "environment.json", "glossary.json", "history.csv", "status.json", "manifest.json"),
        "samples.safetensors",
    }
    found, original = read_run(out), read_run(run)
    assert found.epochs == (2,)
    assert found.environment["network"] == str(run)
    assert {(row.layer, row.metric): row.value for row in found.rows} == pytest.approx(
        {(row.layer, row.metric): row.value for row in original.rows if row.epoch == 2}, nan_ok=True
    )
    assert found.last.positions == original.last.positions
    main(["report", str(out)])
    assert (out / "report.html").stat().st_size > 1000
    with pytest.raises(RunDirectoryError, match=rf"It holds a measurement of the network {run}: name that network"):
        nc.load_network(out)


def test_a_measurement_without_paths_is_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr("ncollapse.targets.networks.import_function", lambda name: network)
    target = Target("some:network", "gaussian_mixture")
    out = write_measurement(measure_target(target, device="cpu"), target, tmp_path / "out", device="cpu")
    assert not (out / "depth.json").exists()
    assert "pfc1" in (out / "measurements.csv").read_text()
    assert json.loads((out / "environment.json").read_text())["device"] == "cpu"
    found = read_run(out)
    assert (found.has_depth, found.epochs, found.layers) == (False, (0,), ("1", "3"))
    page = write_report([out]).read_text()
    assert "Results over depth are missing because the samples were not followed through the layers." in page
    assert "<code>ncollapse measure ... --path --out DIR</code>" in page
    assert page.count("<svg") == 2  # the K-gon of two layers
    assert re.search(r"<summary>Split train: \d+ metrics at 2 layers</summary>", page)
    assert not (out / "figures").exists()
    with pytest.raises(ReportError, match=r"needed results over depth, found none\. Results .*--path --out DIR"):
        write_report([out, out])


def test_results_are_not_replaced(run, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        main(["measure", str(run), "--out", str(tmp_path)])
    assert "is not empty. Choose another place with --out." in capsys.readouterr().err


def test_a_choice_of_classes_reaches_the_command_the_record_and_the_page(run, tmp_path, capsys, without_drawings):
    out = tmp_path / "chosen"
    main(["measure", str(run), "--classes", "1", "4", "7", "--path", "--out", str(out)])
    assert "samples of 3 of 10 classes" in capsys.readouterr().out
    expected = nc.measure(nc.load_network(run, device="cpu"), nc.load_data(run), num_classes=10, classes=[1, 4, 7], path=True)
    found = read_run(out)
    assert [row.value for row in found.rows] == pytest.approx([row.value for row in expected.rows], nan_ok=True)
    assert found.environment["classes"] == [1, 4, 7]
    assert found.environment["chosen"] == expected.chosen
    assert "3 of 10 classes (1, 4, 7); left out: 7 not named" in expected.chosen
    main(["report", str(out)])
    page = (out / "report.html").read_text()
    assert "3 of 10 classes (1, 4, 7); left out: 7 not named" in page
    main(["measure", str(run), "--classes", "present", "--min-per-class", "2", "--metrics", "pfc3", "--json"])
    rows = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert {row["metric"] for row in rows} == {"pfc3"}
    for words in (["some"], ["present", "3"], ["3"]):
        with pytest.raises(SystemExit) as error:
            main(["measure", str(run), "--classes", *words])
        assert error.value.code == 2
        assert "Traceback" not in capsys.readouterr().err


def test_data_is_fetched_only_where_the_user_says_so(monkeypatch):
    asked = []
    monkeypatch.setattr("ncollapse.targets.named_data.load_samples", lambda config: asked.append(config.download) or digits())
    for options in ({}, {"download": True}):
        nc.load_data("fashion_mnist", **options)
    assert asked == [False, True]
