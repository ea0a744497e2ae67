"""``ncollapse measure`` of networks, weights and batches that are named."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_main import failing
from torch import nn

from ncollapse.cli import main
from ncollapse.data import DataConfig, load_samples
from ncollapse.probe import measure
from ncollapse.records import read_run
from ncollapse.targets import load_network

MODULE = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4))

def convolutional():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))

def wrong():
    return 3

def raising():
    raise RuntimeError('no\\nGPU')

def narrow():
    return nn.Sequential(nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 4))

def others():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(30, 20, generator=generator), torch.arange(30) % 4)]

def batches():
    generator = torch.Generator().manual_seed(0)
    for i in range(5):
        yield torch.randn(20 + i, 20, generator=generator), torch.arange(20 + i) % 4
"""
WORDS = ["measure", "named_in_tests:build", "--data", "gaussian_mixture"]
OWN = ["measure", "named_in_tests:build", "--data", "named_in_tests:batches", "--num-classes", "4"]


@pytest.fixture
def net(tmp_path, monkeypatch):
    """A network, a module that can build it, and files of its weights, in the current folder."""
    (tmp_path / "named_in_tests.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sys.modules.pop("named_in_tests", None)
    net = nn.Sequential(nn.Linear(20, 8), nn.ReLU(), nn.Linear(8, 4))
    save_file(net.state_dict(), "weights.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{name}": value for name, value in net.state_dict().items()}}, "weights.pt")
    return net


def printed_values(capsys, *arguments):
    main([*arguments, "--json"])
    return {(row["layer"], row["metric"]): row["value"] for row in json.loads(capsys.readouterr().out)}


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pt"])
def test_weights_from_a_file(net, file, capsys):
    data = load_samples(DataConfig("gaussian_mixture"))
    expected = measure(net, [(data.inputs, data.labels)], num_classes=4, layers=["1"])
    rows = printed_values(capsys, *WORDS, "--checkpoint", file, "--layers", "1")
    assert rows["1", "pfc1"] == pytest.approx(expected.value("pfc1"))
    main([*WORDS, "--checkpoint", file, "--split", "test", "--json"])
    printed = capsys.readouterr()
    assert {row["split"] for row in json.loads(printed.out)} == {"test"}
    assert printed.err == ""


def test_weights_that_were_drawn_are_said_and_always_the_same(net, capsys):
    torch.manual_seed(4)
    first = load_network("named_in_tests:build")
    drawn = torch.rand(1)
    torch.manual_seed(4)
    assert torch.equal(torch.rand(1), drawn)
    second = load_network("named_in_tests:build")
    assert all(torch.equal(*pair) for pair in zip(first.parameters(), second.parameters(), strict=True))
    main(WORDS)
    told = "Weights: those that named_in_tests:build gave the network; no --checkpoint was named.\n"
    assert capsys.readouterr().out.startswith(told)
    main([*WORDS, "--json"])
    printed = capsys.readouterr()
    assert json.loads(printed.out)
    assert printed.err == told


def test_what_does_not_fit_is_one_line(net, tmp_path, capsys):
    raised = failing(capsys, "measure", "named_in_tests:raising", *WORDS[2:])
    assert raised == "ncollapse: error: calling named_in_tests:raising raised RuntimeError: no GPU\n"
    raised = failing(capsys, "measure", "named_in_tests:narrow", *WORDS[2:])
    assert "measuring named_in_tests:narrow raised RuntimeError: mat1 and mat2 shapes cannot be multiplied" in raised
    assert "It was given samples as vectors; if it takes another shape, name that with --input-shape." in raised
    raised = failing(capsys, "measure", "named_in_tests:wrong", *WORDS[2:])
    assert "must return a torch.nn.Module, got int" in raised
    raised = failing(capsys, "measure", "named_in_tests:biuld", *WORDS[2:])
    assert "must name a function of module 'named_in_tests', got none of that name. Near ones: build." in raised
    assert "needs --data" in failing(capsys, *WORDS[:2])
    raised = failing(capsys, "measure", "nothing", *WORDS[2:])
    assert "module:function, torchvision:NAME, timm:NAME or transformers:FOLDER, got 'nothing'" in raised
    raised = failing(capsys, *WORDS, "--device", "nowhere")
    assert "device must be one that is available here, got 'nowhere'. Use auto or cpu." in raised


def test_checkpoints_that_do_not_fit_are_one_line(net, tmp_path, capsys):
    (tmp_path / "weights.pt").write_bytes(b"PK")
    raised = failing(capsys, *WORDS, "--checkpoint", "weights.pt")
    assert "must hold weights alone, got other Python objects or a damaged file" in raised
    (tmp_path / "damaged.safetensors").write_bytes(b"PK")
    raised = failing(capsys, *WORDS, "--checkpoint", "damaged.safetensors")
    assert "Give weights that torch.save wrote a name ending in .pt" in raised
    torch.save({"0.weight": torch.zeros(8, 21), "2.bias": torch.zeros(4)}, "other.pt")
    raised = failing(capsys, *WORDS, "--checkpoint", "other.pt")
    assert "which has '0.bias' as (8,) torch.float32, got nothing, and 2 more differ. Build the model" in raised
    torch.save(net, "whole.pt")
    assert "read it with --unsafe-pickle" in failing(capsys, *WORDS, "--checkpoint", "whole.pt")
    trusted = printed_values(capsys, *WORDS, "--checkpoint", "whole.pt", "--unsafe-pickle")
    assert trusted == printed_values(capsys, *WORDS, "--checkpoint", "weights.safetensors")


def test_batches_of_your_own(net, capsys):
    main([*OWN, "--checkpoint", "weights.pt", "--layers", "1"])
    assert "1 layer, 110 samples of 4 classes" in capsys.readouterr().out
    # A generator is begun anew for the second pass.
    main([*OWN, "--memory-budget", "0"])
    assert "110 samples of 4 classes, split train, convention class, 2 passes" in capsys.readouterr().out
    assert "does not say how many classes it has. Pass --num-classes K." in failing(capsys, *OWN[:4])
    raised = failing(capsys, *OWN, "--split", "test")
    assert "The test split of named_in_tests:batches is not known. Name a function that returns its batches" in raised
    raised = failing(capsys, *WORDS, "--num-classes", "10")
    assert "--num-classes is for batches of a module:function" in raised
    raised = failing(capsys, *OWN[:3], "named_in_tests:wrong", *OWN[4:])
    assert "named_in_tests:wrong must return batches, such as a list or a DataLoader, got int" in raised


def test_a_test_split_of_your_own_is_decided_by_the_training_means(net, capsys, tmp_path):
    out = tmp_path / "out"
    words = ["--checkpoint", "weights.pt", "--layers", "1"]
    main([*OWN, *words, "--test-data", "named_in_tests:others", "--out", str(out)])
    assert "1 layer, 30 samples of 4 classes, split test" in capsys.readouterr().out
    import named_in_tests

    train, test = list(named_in_tests.batches()), list(named_in_tests.others())
    reference = measure(net, train, num_classes=4, layers=["1"])
    expected = measure(net, test, num_classes=4, layers=["1"], split="test", reference=reference)
    assert expected.value("pfc3") != measure(net, test, num_classes=4, layers=["1"], split="test").value("pfc3")
    rows = printed_values(capsys, *OWN, *words, "--test-data", "named_in_tests:others")
    found = read_run(out)
    assert {row.split for row in found.rows} == {"train", "test"}
    assert [row.value for row in found.rows if (row.split, row.metric) == ("train", "pfc1")] == [
        pytest.approx(reference.value("pfc1"), abs=1e-12)
    ]
    assert found.environment["test_data"] == "named_in_tests:others"
    for id in ("pfc1", "pfc3", "nc4"):
        written = [row.value for row in found.rows if (row.split, row.metric) == ("test", id)]
        assert [rows["1", id]] == written == [pytest.approx(expected.value(id), abs=1e-12)]
    # A data set may be the training set of batches.
    own = ["measure", "named_in_tests:build", "--checkpoint", "weights.pt", "--layers", "1"]
    mixed = printed_values(capsys, *own, "--data", "gaussian_mixture", "--test-data", "named_in_tests:others")
    assert mixed["1", "pfc1"] == rows["1", "pfc1"]
    assert mixed["1", "pfc3"] != rows["1", "pfc3"]
    raised = failing(capsys, *OWN, "--test-data", "geo_mnist")
    assert "--test-data must have 4 classes like the training data, got 3 of geo_mnist." in raised


def test_samples_take_a_shape(net, capsys):
    words = ["measure", "named_in_tests:convolutional", "--data", "digits", "--input-shape"]
    rows = printed_values(capsys, *words, "3", "8", "8", "--layers", "0")
    data = load_samples(DataConfig("digits"))
    images = data.inputs.reshape(-1, 1, 8, 8).expand(-1, 3, 8, 8)
    network = load_network("named_in_tests:convolutional")
    expected = measure(network, [(images, data.labels)], num_classes=10, layers=["0"])
    assert rows["0", "pfc1"] == pytest.approx(expected.value("pfc1", "0"), rel=1e-6)
    assert "input_shape (3, 9, 9) must hold the 64 numbers of a sample" in failing(capsys, *words, "3", "9", "9")
    raised = failing(capsys, *words, "1", "8", "8")
    assert "It was given samples in the shape (1, 8, 8); if it takes another" in raised


@pytest.mark.parametrize(("name", "extra"), [("torchvision", "vision"), ("timm", "vision"), ("transformers", "text")])
def test_libraries_that_are_missing_are_named(name, extra, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    raised = failing(capsys, "measure", f"{name}:resnet18", "--data", "digits")
    needed = f"A network {name}:NAME needs {name}, which is not installed. Install it with: pip install -e"
    assert f'{needed} ".[{extra}]" in the checkout' in raised


def library_of(known):
    """What torchvision and timm have in common with what is used of them; theirs do not install beside every torch."""

    def make(name, num_classes, **options):
        assert options in ({"weights": None}, {"pretrained": False})
        return nn.Sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, num_classes))

    library = types.ModuleType("library")
    library.list_models, library.get_model, library.create_model = (lambda: known), make, make
    library.models = library
    return library


@pytest.mark.parametrize("name", ["torchvision", "timm"])
def test_networks_of_libraries(name, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, name, library_of(["resnet18", "vit_b_16"]))
    main(["measure", f"{name}:resnet18", "--data", "digits"])
    printed = capsys.readouterr().out
    assert printed.startswith("Weights: drawn with seed 0; no --checkpoint was named.\n")
    assert "1797 samples of 10 classes" in printed
    assert "nc3" in printed
    raised = failing(capsys, "measure", f"{name}:resnet81", "--data", "digits")
    assert f"{name} has no network 'resnet81'. Near ones: resnet18" in raised


def test_pretrained_weights_of_timm_are_not_taken_silently(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", library_of(["resnet18"]))
    raised = failing(capsys, "measure", "timm:resnet18.a1_in1k", "--data", "digits")
    assert "The weights that it names are not downloaded: take 'resnet18' and --checkpoint." in raised


TOKENS = """
import torch

def others():
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(30, 20, generator=generator), torch.arange(30) % 4)]

def batches():
    ids = torch.randint(0, 50, (3, 9, 12), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": part, "attention_mask": torch.ones_like(part), "labels": part[:, 0] % 3} for part in ids]
"""


@pytest.fixture
def bert(tmp_path, monkeypatch):
    transformers = pytest.importorskip("transformers", reason="the extra text is not installed")
    (tmp_path / "tokens_in_tests.py").write_text(TOKENS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 50}
    bert = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=3, **sizes)).eval()
    bert.save_pretrained("bert")
    return bert


def test_folders_of_transformers(bert, capsys):
    import tokens_in_tests

    words = ["--data", "tokens_in_tests:batches", "--num-classes", "3"]
    rows = printed_values(capsys, "measure", "transformers:bert", *words)
    expected = measure(bert, tokens_in_tests.batches(), num_classes=3)
    assert rows["bert.pooler.activation", "nc3"] == expected.value("nc3", "bert.pooler.activation")
    raised = failing(capsys, "measure", "transformers:bret", *words)
    assert "transformers:FOLDER needs a folder that save_pretrained wrote, or a model of the hub that was downloaded" in raised
    config = Path("bert/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "architectures": ["Mine"]}))
    raised = failing(capsys, "measure", "transformers:bert", *words)
    assert "The configuration in 'bert' must name an architecture of transformers, got Mine." in raised
