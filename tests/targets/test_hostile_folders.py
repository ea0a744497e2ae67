"""Folders from anybody as targets: a configuration runs no code, a recipe downloads nothing and asks for no huge network."""

import sys
import types

import pytest

from ncollapse.cli import main
from ncollapse.recipes import RecipeError, override, recipe_by_name
from ncollapse.targets import load_network
from ncollapse.targets.named_data import _of_run


class PreTrainedModel:
    pass


def fake_transformers(architectures, asked):
    """The part of the library that is called, with a note of what it was asked."""

    class Network(PreTrainedModel):
        @classmethod
        def from_pretrained(cls, name, **options):
            asked.append(options)
            import torch

            return torch.nn.Identity()

    class AutoConfig:
        @staticmethod
        def from_pretrained(name, **options):
            asked.append(options)
            return types.SimpleNamespace(architectures=architectures)

    logging = types.SimpleNamespace(is_progress_bar_enabled=bool, disable_progress_bar=bool, enable_progress_bar=bool)
    library = types.ModuleType("transformers")
    library.__dict__.update(Network=Network, AutoConfig=AutoConfig, PreTrainedModel=PreTrainedModel, pipeline=asked.append)
    library.utils = types.SimpleNamespace(logging=logging)
    return library


def test_a_folder_of_transformers_runs_none_of_its_code(monkeypatch):
    asked = []
    monkeypatch.setitem(sys.modules, "transformers", fake_transformers(["Network"], asked))
    load_network("transformers:folder", device="cpu")
    assert [options["trust_remote_code"] for options in asked] == [False, False]
    assert [options["local_files_only"] for options in asked] == [True, True]
    assert asked[1]["use_safetensors"] is True


NO_ARCHITECTURES = [None, [], "Network", [5], ["pipeline"], ["AutoConfig"], ["__doc__"], ["x" * 10_000], {"a": 1}]


@pytest.mark.parametrize("architectures", NO_ARCHITECTURES)
def test_any_name_of_the_library_is_no_architecture(monkeypatch, architectures):
    asked = []
    monkeypatch.setitem(sys.modules, "transformers", fake_transformers(architectures, asked))
    with pytest.raises(ValueError, match=r"in 'folder' must name an architecture of transformers, got .{1,100}\. "):
        load_network("transformers:folder", device="cpu")
    assert len(asked) == 1


@pytest.mark.parametrize(
    "setting",
    [
        "model.num_blocks=1000000000000",
        "model.width=1000000000",
        "data.per_class=1000000000000",
        "data.length=1000000000000",
        "data.vocabulary=1000000000000",
        "seed=100000000000000000000000000000000",
        "data.seed=100000000000000000000000000000000",
        "threads=1000000000",
    ],
)
def test_a_recipe_asks_for_no_more_than_a_computer_has(setting):
    with pytest.raises(RecipeError, match=r"must be at most \d+, got \d[^ ]*\. Pass a smaller number"):
        override(recipe_by_name("demo"), [setting])


@pytest.mark.parametrize("setting", ["model.channels=60000,60000", "model.blocks=1000000,4"])
def test_convolutions_are_bounded_too(setting):
    recipe = recipe_by_name("conv_fashion_mnist_small")
    with pytest.raises(RecipeError, match=r"The number of (weights|blocks) must be at most"):
        override(recipe, [setting])


def test_measuring_a_run_downloads_nothing(tmp_path):
    recipe = override(recipe_by_name("fc_fashion_mnist_small"), ["data.download=true", f"data.root={tmp_path / 'planted'}"])
    (tmp_path / "recipe.json").write_text(recipe.to_json())
    assert _of_run(tmp_path, "train")[0].download is False
    assert _of_run(tmp_path, "test")[0].download is False


def test_files_of_a_folder_pass_as_no_library(tmp_path, monkeypatch, capsys):
    """Measuring a run in its own folder must not import what lies there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    (tmp_path / "timm.py").write_text("from pathlib import Path; Path('ran').touch()")
    (tmp_path / "recipe.json").write_text("{}")
    for target in (["."], ["timm:resnet18", "--data", "digits"]):
        with pytest.raises(SystemExit, match="2"):
            main(["measure", *target])
        assert "" not in sys.path
    assert not (tmp_path / "ran").exists()
