"""Checkpoints as people write them: keys, prefixes, values beside the weights; no code of a file runs."""

import argparse
import pathlib
from collections import OrderedDict

import numpy as np
import pytest
import torch
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
}


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
