"""Which layers paths run through: the longest run of one dimension, or those that are named."""

import pytest

from ncollapse.measurement.path_choice import check_path, path_layers, path_words

# As torchvision's resnet18: a stem, four stages of two blocks, pooling.
RESNET = {"maxpool": 8, "layer1.0": 8, "layer1.1": 8, "layer2.0": 6, "layer2.1": 6, "layer3.0:mean": 4, "layer3.1:mean": 4}
RESNET |= {"avgpool": 3, "fc.input": 3}


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ({"a": 5, "b": 5}, "ab"),
        ({"a": 5, "b": 5, "c": 5, "d": 2}, "abc"),
        ({"a": 9, "b": 5, "c": 5, "d": 2}, "bc"),
        ({"a": 5, "b": 5, "c": 2, "d": 2}, "cd"),  # equally long: the deepest
        ({"a": 5, "b": 2, "c": 2, "d": 2, "e": 5, "f": 5}, "bcd"),
        ({"a": 5, "b": 5, "c": 2, "d": 5}, "ab"),  # in a row only
    ],
)
def test_true_takes_the_longest_run_of_one_dimension(dims, expected):
    assert path_layers(dims) == tuple(expected)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("layer1", ["layer1.0", "layer1.1"]),
        (["layer1", "maxpool"], ["maxpool", "layer1.0", "layer1.1"]),
        ("layer3", ["layer3.0:mean", "layer3.1:mean"]),
        (("layer3.1", "layer3.0:mean"), ["layer3.0:mean", "layer3.1:mean"]),
        (["maxpool", "layer1.1"], ["maxpool", "layer1.1"]),  # not in a row
        (["fc", "avgpool"], ["avgpool", "fc.input"]),
    ],
)
def test_names_choose_layers_or_what_lies_inside_of_modules(choice, expected):
    assert list(path_layers(RESNET, choice)) == expected


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            "layer",
            r"path must name measured layers or modules around them, got 'layer'\. Layers measured: maxpool, ",
        ),
        (
            "avgpool",
            r"at least two layers of one dimension, got \{'avgpool': 3\}\. Choose layers .*, such as maxpool",
        ),
        (["maxpool", "layer2"], r"got \{'maxpool': 8, 'layer2\.0': 6, 'layer2\.1': 6\}"),
    ],
)
def test_names_that_make_no_path_are_refused(choice, words):
    with pytest.raises(ValueError, match=words):
        path_layers(RESNET, choice)


def test_layers_without_a_run_are_refused_with_advice():
    with pytest.raises(ValueError, match=r"one dimension in a row, got \{'a': 5, 'b': 2, 'c': 5\}\..* such as a, c\."):
        path_layers({"a": 5, "b": 2, "c": 5})


@pytest.mark.parametrize("choice", ["", [], [""], ()])
def test_an_empty_choice_is_refused(choice):
    with pytest.raises(ValueError, match=r"path must name layers, got"):
        check_path(choice)


@pytest.mark.parametrize("choice", [1, None, [1], {"a"}, b"a"])
def test_a_choice_of_another_type_is_refused(choice):
    with pytest.raises(TypeError, match=r"path must be True, False, or names of layers, got"):
        check_path(choice)


def test_words_say_which_layers_of_how_many():
    assert path_words(RESNET, path_layers(RESNET)) == "path through 3 of 9 layers, maxpool to layer1.1 (dimension 8)"
    assert path_words({"a": 5, "b": 5}, ("a", "b")) == path_words(RESNET, ()) == ""
