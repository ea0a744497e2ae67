"""Recipes: JSON form, typed overrides, fingerprints."""

import math
from dataclasses import replace
from typing import get_args

import pytest
import torch

from ncollapse.models import ConvResNetConfig, build_model
from ncollapse.recipes import RECIPES, Recipe, RecipeError, changes, override, recipe_by_name
from ncollapse.recipes.recipe import Convention
from ncollapse.recipes.settings import differences
from ncollapse.statistics.conventions import CONVENTIONS


def test_the_conventions_of_recipes_are_those_of_the_statistics():
    assert set(get_args(Convention)) == set(CONVENTIONS)


@pytest.mark.parametrize("name", RECIPES)
def test_json_round_trip(name):
    recipe = recipe_by_name(name)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.description


def test_overrides_are_typed():
    changed = override(
        recipe_by_name("demo"),
        [
            "train.epochs=50",
            "seed=3",
            "train.clip_norm=null",
            "train.milestones=[0.5]",
            "data.name=fashion_mnist",
            "model.zero_bias=false",
        ],
    )
    assert (changed.train.epochs, changed.seed, changed.train.clip_norm) == (50, 3, None)
    assert (changed.train.milestones, changed.data.name, changed.model.zero_bias) == ((0.5,), "fashion_mnist", False)
    assert override(recipe_by_name("demo"), ["measure.epochs=[0,5]"]).measure.epochs == (0, 5)


@pytest.mark.parametrize(
    ("text", "milestones"), [("0.5", (0.5,)), ("0.5,0.8", (0.5, 0.8)), ("[0.5, 0.8]", (0.5, 0.8)), ("", ()), ("[]", ())]
)
def test_lists_need_no_brackets(text, milestones):
    assert override(recipe_by_name("demo"), [f"train.milestones={text}"]).train.milestones == milestones


def test_lists_that_may_be_left_out_need_no_brackets():
    recipe = override(recipe_by_name("demo"), ["measure.epochs=0,5"])
    assert recipe.measure.epochs == (0, 5)
    assert override(recipe, ["measure.epochs=null"]).measure.epochs is None


def test_a_shorter_training_is_measured_at_the_listed_epochs_that_it_reaches():
    recipe = recipe_by_name("deep_rn1_small")
    assert recipe.measure.epochs == (0, 500, 1000)
    assert override(recipe, ["train.epochs=500"]).measure.epochs == (0, 500)
    assert override(recipe, ["train.epochs=9000"]) == replace(recipe, train=replace(recipe.train, epochs=9000))
    assert override(recipe_by_name("demo"), ["train.epochs=20"]).measure.epochs is None
    # Epochs that a shorter training leaves out were not set by anybody; others were.
    assert changes(override(recipe, ["train.epochs=500"])) == ["train.epochs=500"]
    assert changes(override(recipe, ["train.epochs=500", "measure.epochs=0"])) == ["train.epochs=500", "measure.epochs=[0]"]
    assert changes(override(recipe, ["measure.epochs=[0,500]"])) == ["measure.epochs=[0, 500]"]
    with pytest.raises(RecipeError, match=r"measure earlier: measure\.epochs=\[0\]"):
        override(recipe, ["train.epochs=20", "measure.epochs=[0,30]"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("train.epochs", r"must look like train\.epochs=50, got 'train\.epochs'"),
        ("train.epoch=5", r"no field 'train\.epoch'\. Near ones: train\.epochs"),
        ("quux=5", r"no field 'quux'\. See all with: ncollapse recipes demo\.$"),
        ("epochs=5", r"no field 'epochs'\. Near ones: train\.epochs, measure\.epochs\. See all"),
        ("train.epochs=many", r"train\.epochs must be a valid integer.*got 'many'"),
        ("train.epochs=0", r"^train\.epochs must be an integer of 1 or more, got 0\. Pass such a number\. \(set by"),
        ("train.epochs=true", r"^train\.epochs must be a valid integer, got True"),
        ("train.learning_rate=true", r"train\.learning_rate must be a valid number, got True"),
        ("train.loss=hinge", r"train\.loss must be 'cross_entropy', 'mse', 'dot_regression' or 'mcr2', got 'hinge'"),
        ("data.name=imagenet", r"data\.name must be 'digits'"),
        ("data.name=digit", r"or 'images', got 'digit'\. Near ones: digits\. \(set by"),
        ("seed=-1", r"^seed must be 0 or more, got -1\. Pass a larger integer\. \(set by seed=-1\)$"),
        ("measure.epochs=[0,-3]", r"measure\.epochs must be 0 \(before training\) or more, got -3"),
        ("measure.epochs=[999]", r"measure\.epochs must be at most train\.epochs = 150, got 999"),
        ("measure.epochs=[0,5,999]", r"Train longer, or measure earlier: measure\.epochs=\[0,5\]\. \(set by"),
        ("measure.batch_size=0", r"measure\.batch_size must be 1 or more, got 0"),
    ],
)
def test_bad_overrides(setting, message):
    with pytest.raises(RecipeError, match=message):
        override(recipe_by_name("demo"), [setting])


@pytest.mark.parametrize(
    ("settings", "culprits"),
    [
        (["seed=3", "train.epochs=0", "model.width=8"], r"train\.epochs=0"),
        (["seed=3", "measure.epochs=[9]", "train.epochs=5"], r"measure\.epochs=\[9\], train\.epochs=5"),
        # Either alone would be refused.
        (["seed=-1", "train.epochs=0"], r"seed=-1, train\.epochs=0"),
    ],
)
def test_errors_name_the_settings_without_which_the_others_fit(settings, culprits):
    with pytest.raises(RecipeError, match=rf"\(set by {culprits}\)$"):
        override(recipe_by_name("demo"), settings)


def test_unknown_recipe_names_near_ones():
    with pytest.raises(RecipeError, match=r"No recipe 'fc_minst'\. Near ones: fc_mnist"):
        recipe_by_name("fc_minst")
    with pytest.raises(RecipeError, match=r"No recipe 'quux'\. List all with: ncollapse recipes\.$"):
        recipe_by_name("quux")


def test_fingerprint_depends_on_numbers_not_on_words():
    recipe = recipe_by_name("demo")
    assert override(recipe, ["title=other"]).fingerprint() == recipe.fingerprint()
    for setting in (
        *("seed=1", "train.epochs=151", "data.per_class=173", "threads=2"),
        *("train.precision=bfloat16", "train.deterministic=true", "train.compiled=true"),
    ):
        assert override(recipe, [setting]).fingerprint() != recipe.fingerprint()


def test_fingerprint_is_the_same_after_a_way_through_json():
    recipe = recipe_by_name("demo")
    whole = replace(recipe, train=replace(recipe.train, learning_rate=1, milestones=()))
    assert whole.to_json() != Recipe.from_json(whole.to_json()).to_json()
    assert whole.fingerprint() == Recipe.from_json(whole.to_json()).fingerprint()


def test_differences_are_settings_that_lead_from_one_to_the_other():
    recipe = recipe_by_name("demo")
    words = ["data.name=gaussian_mixture", "train.milestones=[0.5]", "train.clip_norm=null", "seed=3"]
    changed = override(recipe, [*words, "title=other"])
    assert differences(changed, recipe) == words
    assert override(recipe, differences(changed, recipe)).fingerprint() == changed.fingerprint()


@pytest.mark.parametrize(
    ("name", "fingerprint"),
    [("demo", "22f0102d2c610a4c"), ("fc_fashion_mnist_small", "32e4bdfdb442b1ff"), ("fc_mnist", "e955e30f463100e0")],
)
def test_fingerprints_of_runs_on_users_disks_stay(name, fingerprint):
    """Of the version in which these recipes were made: with another one their runs would not resume."""
    assert recipe_by_name(name).fingerprint() == fingerprint
    assert "kind" not in recipe_by_name(name).to_json()


def conv():
    return replace(recipe_by_name("demo"), model=ConvResNetConfig(channels=(4, 8), blocks=(1, 2)))


def test_a_network_of_another_kind_goes_through_json_and_overrides():
    assert Recipe.from_json(conv().to_json()) == conv()
    changed = override(conv(), ["model.blocks=[2,3]", "model.stem_pool=true", "model.block=pre"])
    assert changed.model == ConvResNetConfig(channels=(4, 8), blocks=(2, 3), stem_pool=True, block="pre")
    assert changed.fingerprint() != conv().fingerprint() != recipe_by_name("demo").fingerprint()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("model.width=64", r"no field 'model\.width'\. See all"),
        ("model.block=[1,2]", r"^model\.block must be 'basic', 'post_relu' or 'pre'\. \(set by"),
        ("model.blocks=[1,2.5]", r"^model\.blocks\.1 must be a valid integer"),
        (
            "model.blocks=[1]",
            r"^model\.channels and model\.blocks must have one number for every stage, got \[4, 8\] and \[1\]",
        ),
        ("model.kind=fc_resnet", r"^model\.kind must be 'conv_resnet', got 'fc_resnet'"),
    ],
)
def test_bad_overrides_of_a_network_of_another_kind(setting, message):
    with pytest.raises(RecipeError, match=message):
        override(conv(), [setting])


@pytest.mark.parametrize(
    ("name", "sample_shape", "num_classes", "last_stage", "num_layers"),
    [
        ("conv_fashion_mnist", (1, 28, 28), 10, (128, 14, 14), 5),
        ("conv_cifar10", (3, 32, 32), 10, (256, 8, 8), 5),
        ("conv_stl10", (3, 96, 96), 10, (512, 3, 3), 6),
        ("conv_cifar100", (3, 32, 32), 100, (512, 4, 4), 5),
        ("conv_fashion_mnist_small", (1, 28, 28), 10, (48, 4, 4), 5),
        ("conv_cifar10_small", (3, 32, 32), 10, (48, 4, 4), 5),
        ("conv_stl10_small", (3, 96, 96), 10, (48, 6, 6), 5),
        ("conv_cifar100_small", (3, 32, 32), 100, (48, 4, 4), 5),
    ],
)
def test_convolutional_recipes_are_those_of_the_table(name, sample_shape, num_classes, last_stage, num_layers):
    """Table I: blocks of the last stage, behind its entry; the shapes that all measured layers share."""
    recipe = recipe_by_name(name)
    model = build_model(recipe.model, sample_shape, num_classes, recipe.seed).eval()
    shapes = []
    for layer in model.collapse_stages:
        model.get_submodule(layer).register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape[1:])))
    assert model(torch.zeros(1, math.prod(sample_shape))).shape == (1, num_classes)
    assert shapes == [last_stage] * num_layers


@pytest.mark.parametrize("name", ["deep_rn1_small", "deep_rn2_small", "deep_preln_t11_small", "vit_digits"])
def test_networks_with_normalization_go_through_json_and_overrides(name):
    recipe = recipe_by_name(name)
    assert Recipe.from_json(recipe.to_json()) == recipe
    changed = override(recipe, ["model.num_blocks=7", "model.norm_scale=sqrt_d", "train.optimizer=sgd", "data.length=9"])
    assert (changed.model.num_blocks, changed.model.norm_scale) == (7, "sqrt_d")
    assert len({recipe.fingerprint(), changed.fingerprint(), recipe_by_name("demo").fingerprint()}) == 3
    with pytest.raises(RecipeError, match=r"^model\.num_blocks must be a valid integer"):
        override(recipe, ["model.num_blocks=many"])


def test_younger_fields_count_where_they_are_set():
    recipe = recipe_by_name("demo")
    settings = (
        "train.optimizer=adam",
        "train.schedule=cosine",
        "decay_over_blocks=true",
        "data.largest_classes=2",
        "data.length=3",
    )
    for setting in (*settings, "data.vocabulary=5", "data.largest_classes=2"):
        assert override(recipe, [setting]).fingerprint() != recipe.fingerprint()


def test_decay_over_blocks():
    recipe = override(recipe_by_name("deep_rn2_small"), ["model.num_blocks=8"])
    assert recipe.train.weight_decay == 0.005
    assert recipe.training.weight_decay == 0.005 / 8
    control = override(recipe_by_name("deep_rn2_constant_small"), ["model.num_blocks=8"])
    assert control.training == control.train
    for bad in (["model.num_blocks=0"], ["decay_over_blocks=true", "model.num_blocks=0"]):
        with pytest.raises(RecipeError, match=r"decay_over_blocks needs a network with model\.num_blocks of 1 or more"):
            override(recipe, bad)


def test_differences_between_networks_of_two_kinds():
    found = differences(conv(), recipe_by_name("demo"))
    assert found[:3] == ["model.kind=conv_resnet", "model.channels=[4, 8]", "model.blocks=[1, 2]"]
    assert "model.width=64" in differences(recipe_by_name("demo"), conv())


def test_damaged_json():
    with pytest.raises(RecipeError, match="Not a recipe of this version"):
        Recipe.from_json('{"name": "x"}')
    with pytest.raises(RecipeError, match="Not a recipe of this version"):
        Recipe.from_json("{")
