"""Settings of runs by their dotted names, as text, and what several runs set differently."""

import shutil

from ncollapse.records import read_run
from ncollapse.records.recipe_settings import differing_settings, flatten_settings, setting, setting_text, settings_in_words


def test_a_setting_is_found_by_its_dotted_name(shared_run):
    run = read_run(shared_run)
    assert (setting(run, "seed"), setting(run, "train.epochs"), setting(run, "measure.epsilons")) == (
        0,
        150,
        [0.0, 0.005, 0.05],
    )
    assert setting(run, "train.none") is setting(run, "none.epochs") is setting(run, "none") is setting(run, "seed.x") is None


def test_values_as_text():
    values = {"a": 1 / 3, "b": {"c": [0.1, 2, "x"], "d": {"e": None}}, "f": True, "g": "word", "h": 12345678}
    assert flatten_settings(values) == [
        ("a", "0.333333"), ("b.c", "0.1, 2, x"), ("b.d.e", "null"), ("f", "true"), ("g", "word"), ("h", "12345678"),
    ]  # fmt: skip
    assert setting_text(1e-7) == "1e-07"


def test_what_an_old_recipe_does_not_say_is_known(shared_run):
    found = settings_in_words(read_run(shared_run))
    assert (found["train.epochs"], found["train.optimizer"], found["data.vocabulary"]) == ("150", "sgd", "10000")


def test_runs_differ_in_settings_but_not_in_seeds_and_names(make_run, edit, tmp_path):
    one, two, bare = make_run("one"), make_run("two"), make_run("bare")
    (bare / "recipe.json").unlink()

    def change(recipe):
        recipe.update(seed=7, name="other", title="Other", description="other")
        recipe["train"].update(epochs=99, keep=3)
        recipe["model"]["connections"] = "plain"

    assert settings_in_words(read_run(bare)) == {}
    edit(two / "recipe.json", change)
    runs = [read_run(path) for path in (one, two, bare)]
    # The name of the recipe tells runs apart that differ in nothing else; its words and its seed do not.
    assert differing_settings(runs) == [
        [("model.connections", "residual"), ("name", "demo"), ("train.epochs", "150")],
        [("model.connections", "plain"), ("name", "other"), ("train.epochs", "99")],
        [],
    ]
    same = shutil.copytree(one, tmp_path / "same")
    assert differing_settings([runs[0], read_run(same)]) == [[], []]
