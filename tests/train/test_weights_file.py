"""Checkpoints as people write them: keys, prefixes, values beside the weights; no code of a file runs."""

import argparse
import json
import pathlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ncollapse.train import CheckpointError, load_weights


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(OrderedDict(body=nn.Linear(3, 4), norm=nn.BatchNorm1d(4), head=nn.Linear(4, 2)))


WEIGHTS = network(5).state_dict()


def under(prefix, more=None):
    return {f"{prefix}{name}": value for name, value in WEIGHTS.items()} | (more or {})


RAN = []


def run_code(word):
    RAN.append(word)


class Runs:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return run_code, ("code",)


class RunsMethod:
    """Runs a method of an object of this module."""

    def __reduce__(self):
        return RAN.append, ("code",)


class Settings(dict):
    """As of a library that keeps settings in a class of its own."""


FILES = {
    "kuangliu": (
        {"net": under("module."), "acc": np.float64(95.2), "epoch": 3},
        "weights under 'net', prefix 'module.' dropped",
    ),
    "lightning": (
        {"state_dict": under("model."), "hyper_parameters": {"lr": 0.1}, "callbacks": {}, "epoch": 3},
        "weights under 'state_dict', prefix 'model.' dropped",
    ),
    "lightning and a loss": (
        {"state_dict": under("model.", {"loss.weight": torch.ones(2)})},
        "weights under 'state_dict', prefix 'model.' dropped",
    ),
    "compiled and parallel": (
        {"model": under("module._orig_mod.")},
        "weights under 'model', prefix '_orig_mod., module.' dropped",
    ),
    "compiled inside": (under("net._orig_mod."), "prefix 'net._orig_mod.' dropped"),
    "arguments": ({"model": WEIGHTS, "args": argparse.Namespace(lr=0.1), "path": pathlib.Path("a")}, "weights under 'model'"),
    "nested": ({"model": {"state_dict": WEIGHTS}, "best": np.int64(3)}, "weights under 'model.state_dict'"),
    "arrays": ({"net": WEIGHTS, "history": np.arange(4.0)}, "weights under 'net'"),
    "values among the weights": ({**WEIGHTS, "version": 3, "name": "a"}, ""),
    "code": ({"net": WEIGHTS, "extra": Runs()}, "weights under 'net'"),
    "plain": (WEIGHTS, ""),
    "settings under a name of weights": ({"model": {"name": "mlp", "width": 4}, "net": WEIGHTS}, "weights under 'net'"),
    "averaged by PyTorch": (torch.optim.swa_utils.AveragedModel(network(5)).state_dict(), "prefix 'module.' dropped"),
    "moving average of BasicSR": ({"params": WEIGHTS, "params_ema": network(6).state_dict()},
                                  "weights under 'params', not those under 'params_ema'"),
    "in a checkpoint": ({"checkpoint": {"model": {"state_dict": WEIGHTS}}}, "weights under 'checkpoint.model.state_dict'"),
    "moving average": (
        {"model": WEIGHTS, "ema": {"decay": 0.9, "module": network(6).state_dict()}, "optimizer": {"state": {0: {"step": 3}}}},
        "weights under 'model', not those under 'ema'",
    ),
    "double": ({name: value.double() if value.is_floating_point() else value for name, value in WEIGHTS.items()},
               "converted from torch.float64"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_have_the_values_of_the_file(tmp_path, dtype):
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in under("model.").items()}
    save_file(half, tmp_path / "half.safetensors")
    model = network()
    assert load_weights(tmp_path / "half.safetensors", model) == f"prefix 'model.' dropped, converted from {dtype}"
    for name, value in model.state_dict().items():
        assert value.dtype == WEIGHTS[name].dtype
        assert torch.equal(value.double(), half[f"model.{name}"].double())


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_weights_in_several_files(tmp_path, form):
    names, files = sorted(WEIGHTS), [f"model-0000{i}-of-00002.{form}" for i in (1, 2)]
    weight_map = {name: files[i % 2] for i, name in enumerate(names)}
    for file in files:
        part = {name: WEIGHTS[name] for name in names if weight_map[name] == file}
        (save_file if form == "safetensors" else torch.save)(part, tmp_path / file)
    index = tmp_path / f"model.{form}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    model = network()
    load_weights(index, model)
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in model.state_dict().items())
    (tmp_path / files[1]).unlink()
    with pytest.raises(FileNotFoundError, match=files[1]):
        load_weights(index, model)


@pytest.mark.parametrize("content", ["{", "[1]", '{"weight_map": {}}', '{"weight_map": {"a": "../other.safetensors"}}', "{}"])
def test_an_index_of_another_kind_is_refused(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="must be an index of weights in several files, with a weight_map, got another"):
        load_weights(tmp_path / "model.safetensors.index.json", network())


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
@pytest.mark.parametrize(
    ("prefix", "dropped"), [("", ""), ("_orig_mod.", "_orig_mod."), ("module.", "module."), ("model.net.", "model.net.")]
)
def test_the_model_may_be_wrapped_too(tmp_path, wrap, prefix, dropped):
    torch.save(under(prefix), tmp_path / "file.pt")
    model = wrap(network())
    wanted = {name: WEIGHTS[name.removeprefix("module.").removeprefix("_orig_mod.")] for name in model.state_dict()}
    assert load_weights(tmp_path / "file.pt", model) == (
        f"prefix '{dropped}' dropped" if dropped and prefix + "head.bias" not in wanted else ""
    )
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


class Tied(nn.Module):
    """Its head has the embedding's weight, and one module has two names."""

    def __init__(self, seed):
        super().__init__()
        torch.manual_seed(seed)
        self.embed, self.middle, self.head = nn.Embedding(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 4, bias=False)
        self.head.weight, self.norm = self.embed.weight, self.middle
        self.middle.running_mean.normal_()


@pytest.mark.parametrize("absent", [[], ["head."], ["embed."], ["head.", "middle."], ["embed.", "norm."]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tensor_of_several_names_may_have_one_in_the_file(tmp_path, absent, dtype):
    whole = {name: value.to(dtype) if value.is_floating_point() else value for name, value in Tied(5).state_dict().items()}
    kept = {name: value.clone() for name, value in whole.items() if not name.startswith(tuple(absent))}
    save_file(kept, tmp_path / "file.safetensors")
    model = Tied(1)
    load_weights(tmp_path / "file.safetensors", model)
    assert model.head.weight is model.embed.weight
    assert all(torch.equal(value, whole[name].to(value.dtype)) for name, value in model.state_dict().items())


@pytest.mark.parametrize("other", ["head.weight", "norm.running_mean"])
def test_several_values_for_one_tensor_are_refused(tmp_path, other):
    whole = Tied(5).state_dict()
    torch.save({**whole, other: whole[other] + 1}, tmp_path / "file.pt")
    model = Tied(1)
    with pytest.raises(
        CheckpointError, match=rf"must hold the same values under .*{other}.*, which are one tensor of the model"
    ):
        load_weights(tmp_path / "file.pt", model)
    assert all(torch.equal(value, Tied(1).state_dict()[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", FILES)
def test_weights_are_found_and_named_without_running_code(tmp_path, kind):
    content, note = FILES[kind]
    torch.save(content, tmp_path / "file.pt")
    model = network()
    assert load_weights(tmp_path / "file.pt", model) == note
    assert all(torch.equal(value, WEIGHTS[name]) for name, value in model.state_dict().items())
    assert RAN == []


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"optimizer": {"lr": 3}, "epoch": 4}, r"Looked for it under state_dict, model_state_dict, model, net, "),
        (under("student.", under("teacher.")), r"got several, under the prefixes student\., teacher\."),
        (under("", under("ema.")), r"got several, under the prefixes '', ema\."),
        ({"state_dict": under("model.", under("ema_model.module."))}, r"under the prefixes model\., ema_model\.module\."),
        (under("", {"body.weight": WEIGHTS["body.weight"].to_sparse()}), r"got \(4, 3\) torch\.float32 torch\.sparse_coo"),
        (torch.optim.Adam(network().parameters()).state_dict(), "must hold a state dict of tensors, got state, param_groups"),
        ([WEIGHTS, WEIGHTS], "must hold a state dict of tensors, got list"),
        (
            {"net": under("module.", {"extra.weight": torch.ones(1)}) | {"module.head.bias": torch.ones(3)}},
            "must fit the model",
        ),
        (Runs(), "must hold weights alone"),
        ({"net": WEIGHTS, "extra": RunsMethod()}, "must hold weights alone"),
        (Settings(net=WEIGHTS), "must hold weights alone"),
    ],
)
def test_what_does_not_fit_is_refused_in_plain_words(tmp_path, content, match):
    torch.save(content, tmp_path / "file.pt")
    model = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=match) as caught:
        load_weights(tmp_path / "file.pt", model)
    assert "\x1b" not in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert RAN == []


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "file.pt").write_bytes(b"PK")
    with pytest.raises(CheckpointError, match="must hold weights alone, got other Python objects or a damaged file"):
        load_weights(tmp_path / "file.pt", network())
