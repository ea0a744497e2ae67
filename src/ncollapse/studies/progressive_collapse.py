"""Progressive feedforward collapse (arXiv 2405.00985) and its small stand-ins: the experiments, as data.

The docstring of a recipe is its description: what is expected, on which hardware, in how many minutes, from how many seeds.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import replace

from ncollapse.data.catalog import DataConfig
from ncollapse.models.fc_resnet import FCResNetConfig
from ncollapse.studies.recipe import Recipe, RecipeError, differences
from ncollapse.train.schedule import TrainConfig


def demo() -> Recipe:
    """Progressive feedforward collapse on handwritten digits.

    1,740 real 8×8 digits (174 a class), 5 double blocks of width 64, 150 epochs.

    Measured with seeds 0 to 4, 13 to 20 seconds each on one core of an AMD EPYC: train accuracy 1 first at measured epoch 43 to
    57; at the end, from the stem to the last block, PFC1 falls from 0.59–0.65 to 0.026–0.032, PFC2 from 0.77–0.81 to 0.24–0.32
    and the NCC error from 0.064–0.068 to 0, without a rise at any layer and seed. RMS of the straight line's PFC1 over the
    interior layers 0.06 decades, of the log-linear null 0.22–0.25.
    """
    return Recipe(
        name="demo",
        title="Progressive feedforward collapse on handwritten digits",
        description=_words(demo),
        data=DataConfig(name="digits", per_class=174),
        model=FCResNetConfig(width=64, num_blocks=5),
        train=TrainConfig(epochs=150, learning_rate=0.1, weight_decay=1e-2),
    )


def fc_fashion_mnist_small() -> Recipe:
    """Progressive feedforward collapse on 5,000 images of Fashion-MNIST.

    500 images a class, 5 double blocks of width 128, 150 epochs.

    Measured with seeds 0 to 4, 1.3 to 2.3 minutes each on one busy core of an AMD EPYC: train accuracy 1 first at measured
    epoch 105 to 115; at the end, from the stem to the last block, PFC1 falls from 0.74–0.83 to 0.014–0.015, PFC2 from 0.89–0.96
    to 0.25–0.31 and the NCC error from 0.24–0.25 to 0, without a rise at any layer and seed. RMS of the straight line's PFC1
    over the interior layers 0.23–0.26 decades, of the log-linear null 0.36–0.39.
    """
    return Recipe(
        name="fc_fashion_mnist_small",
        title="Progressive feedforward collapse on 5,000 images of Fashion-MNIST",
        description=_words(fc_fashion_mnist_small),
        data=DataConfig(name="fashion_mnist", per_class=500),
        model=FCResNetConfig(width=128, num_blocks=5),
        train=TrainConfig(epochs=150, learning_rate=0.05, weight_decay=1e-2),
    )


def fc_mnist() -> Recipe:
    """The paper's fully connected setting: all of MNIST, width 1000, 10 blocks without normalization, 350 epochs.

    Not run yet. Batch 128, momentum 0.9, weight decay 5e-4 on all parameters, learning rate 0.01 divided by 10 after epochs
    116 and 233; the last two numbers that the text of the paper does not give (initial rate, block type) are assumed. Needs
    the MNIST files. For 60,000 images of Fashion-MNIST instead: --set data.name=fashion_mnist.
    """
    return Recipe(
        name="fc_mnist",
        title="Progressive feedforward collapse on MNIST, the paper's fully connected setting",
        description=_words(fc_mnist),
        data=DataConfig(name="mnist", scaling="standard"),
        model=FCResNetConfig(width=1000, num_blocks=10, normalization="none"),
        train=TrainConfig(epochs=350, learning_rate=0.01, weight_decay=5e-4, decay="all", clip_norm=None),
    )


def _words(recipe: Callable[[], Recipe]) -> str:
    return inspect.getdoc(recipe) or ""


RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function for function in (demo, fc_fashion_mnist_small, fc_mnist)
}


def recipe_by_name(name: str) -> Recipe:
    """Look a recipe up.

    Args:
        name: As listed by ``ncollapse recipes``.

    Returns:
        The recipe.

    Raises:
        RecipeError: If there is none of that name; near ones are named.
    """
    if name not in RECIPES:
        near = difflib.get_close_matches(name, RECIPES, n=3)
        words = f"Near ones: {', '.join(near)}. " if near else ""
        raise RecipeError(f"No recipe {name!r}. {words}List all with: ncollapse recipes.")
    return RECIPES[name]()


def changes(recipe: Recipe) -> list[str]:
    """What a recipe sets differently from the one that it is named after, whose words then do not hold for it.

    Args:
        recipe: The recipe.

    Returns:
        Items such as "train.epochs=20", the seed left out; none for a recipe of another name.
    """
    if recipe.name not in RECIPES:
        return []
    return differences(replace(recipe, seed=0), RECIPES[recipe.name]())
