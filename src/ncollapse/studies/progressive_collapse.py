"""Progressive feedforward collapse (arXiv 2405.00985) and its small stand-ins: the experiments, as data.

The docstring of a recipe is its description: what is expected, on which hardware, in how many minutes, from how many seeds.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

from ncollapse.data.catalog import DataConfig
from ncollapse.models.fc_resnet import FCResNetConfig
from ncollapse.studies.recipe import Recipe, RecipeError
from ncollapse.train.schedule import TrainConfig


def demo() -> Recipe:
    """Progressive feedforward collapse on handwritten digits.

    1,740 real 8×8 digits (174 a class), 5 double blocks of width 64, 150 epochs.
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
    """The same on 5,000 images of Fashion-MNIST, width 128: minutes on a CPU."""
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
        near = difflib.get_close_matches(name, RECIPES, n=3) or list(RECIPES)
        raise RecipeError(f"No recipe {name!r}. Near ones: {', '.join(near)}. List them all with: ncollapse recipes.")
    return RECIPES[name]()
