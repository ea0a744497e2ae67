"""Recipes: JSON form, typed overrides, fingerprints."""

import pytest

from ncollapse.studies import RECIPES, Recipe, RecipeError, override, recipe_by_name


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
    ("setting", "message"),
    [
        ("train.epochs", r"must look like train\.epochs=50, got 'train\.epochs'"),
        ("train.epoch=5", r"no field 'train\.epoch'\. Near ones: train\.epochs"),
        ("quux=5", r"no field 'quux'\. Near ones: "),
        ("train.epochs=many", r"train\.epochs: Input should be a valid integer.*got 'many'"),
        ("train.epochs=0", r"train: train\.epochs must be an integer of 1 or more, got 0"),
        ("train.loss=hinge", r"train\.loss: Input should be 'cross_entropy' or 'mse', got 'hinge'"),
        ("data.name=imagenet", r"data\.name: Input should be 'digits'"),
        ("seed=-1", r"seed must be at least 0"),
        ("measure.batch_size=0", r"measure\.batch_size must be at least 1, got 0"),
    ],
)
def test_bad_overrides(setting, message):
    with pytest.raises(RecipeError, match=message):
        override(recipe_by_name("demo"), [setting])


def test_unknown_recipe_names_near_ones():
    with pytest.raises(RecipeError, match=r"No recipe 'fc_minst'\. Near ones: fc_mnist"):
        recipe_by_name("fc_minst")


def test_fingerprint_depends_on_numbers_not_on_words():
    recipe = recipe_by_name("demo")
    assert override(recipe, ["title=other"]).fingerprint() == recipe.fingerprint()
    for setting in ("seed=1", "train.epochs=151", "data.per_class=173", "threads=2", "measure.convention=sample"):
        assert override(recipe, [setting]).fingerprint() != recipe.fingerprint()


def test_damaged_json():
    with pytest.raises(RecipeError, match="Not a recipe of this version"):
        Recipe.from_json('{"name": "x"}')
    with pytest.raises(RecipeError, match="Not a recipe of this version"):
        Recipe.from_json("{")
