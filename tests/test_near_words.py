"""Near words: dotted names by their last part, and nothing where nothing is near."""

import pytest

import ncollapse as nc
from ncollapse.near_words import near_words

FIELDS = ("train.epochs", "measure.epochs", "model.num_blocks", "model.width")


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("epochs", "Near ones: train.epochs, measure.epochs. "),
        ("measure.epoch", "Near ones: measure.epochs, train.epochs. "),
        ("train.blocks", "Near ones: model.num_blocks. "),
        ("zz", ""),
    ],
)
def test_near_words(word, said):
    assert near_words(word, FIELDS) == said


def test_of_many_near_words_four_are_named():
    assert near_words("resnet", [f"resnet{i}" for i in range(9)]).count("resnet") == 4


@pytest.mark.parametrize("function", [nc.measure, nc.measure_features, nc.watch, nc.diagnose])
def test_a_misspelled_argument_is_named_with_near_ones(function):
    with pytest.raises(TypeError, match=rf"{function.__name__} has no argument `n_classes`. Near ones: num_classes"):
        function(None, None, n_classes=10)
