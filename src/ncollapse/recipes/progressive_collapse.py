"""Progressive feedforward collapse (arXiv 2405.00985) and its small stand-ins: the experiments, as data.

The docstring of a recipe is its description: what is expected, on which hardware, in how many minutes, from how many seeds.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from ncollapse.recipes.data import DataConfig, DataName
from ncollapse.recipes.networks import ConvResNetConfig, FCResNetConfig
from ncollapse.recipes.recipe import MeasureConfig, Recipe
from ncollapse.recipes.training import TrainConfig


def demo() -> Recipe:
    """Progressive feedforward collapse on handwritten digits.

    1,740 real 8×8 digits (174 per class), 5 blocks of two linear layers, width 64, 150 epochs.

    Measured with seeds 0 to 4, 13 to 20 seconds each on one core of an AMD EPYC: train accuracy 1 first at measured epoch 43 to
    57; at the end, from the stem to the last block, PFC1 falls from 0.59–0.65 to 0.026–0.032, PFC2 from 0.77–0.81 to 0.24–0.32
    and the NCC error from 0.064–0.068 to 0, without a rise at any layer and seed. RMS of the straight line's PFC1 over the
    interior layers 0.06 decades, of the log-linear baseline 0.22–0.25.
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

    500 images per class, 5 blocks of two linear layers, width 128, 150 epochs.

    Measured with seeds 0 to 4, 1.3 to 2.3 minutes each on one busy core of an AMD EPYC: train accuracy 1 first at measured
    epoch 105 to 115; at the end, from the stem to the last block, PFC1 falls from 0.74–0.83 to 0.014–0.015, PFC2 from 0.89–0.96
    to 0.25–0.31 and the NCC error from 0.24–0.25 to 0, without a rise at any layer and seed. RMS of the straight line's PFC1
    over the interior layers 0.23–0.26 decades, of the log-linear baseline 0.36–0.39.
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


def fc_mnist_small() -> Recipe:
    """Progressive feedforward collapse on 5,000 images of MNIST.

    The settings of fc_fashion_mnist_small, on the first 500 images per class of MNIST. Needs the MNIST files.

    Measured with seeds 100 to 111, 53 seconds on one core of an AMD EPYC: train accuracy 1 first at measured epoch 57 to 68; at
    the end, from the stem to the last block, PFC1 falls from 1.44–1.53 to 0.012–0.013, PFC2 from 0.72–0.76 to 0.21–0.26 and the
    NCC error from 0.16–0.17 to 0, without a rise at any layer and seed. RMS of the straight line's PFC1 over the interior
    layers 0.14–0.16 decades, of the log-linear baseline 0.50–0.52.
    """
    return replace(
        fc_fashion_mnist_small(),
        name="fc_mnist_small",
        title="Progressive feedforward collapse on 5,000 images of MNIST",
        description=_words(fc_mnist_small),
        data=DataConfig(name="mnist", per_class=500),
    )


def fc_mnist_1d() -> Recipe:
    """Progressive feedforward collapse on MNIST-1D, whose classes separate layer by layer.

    394 signals of length 40 per class, 5 double blocks of width 128, 150 epochs. Drawn, needs no files.

    Measured with seed 0, 1.6 minutes on one busy core of an AMD EPYC: train accuracy 1 first at measured epoch 125; at the end,
    from the stem to the last block, PFC1 falls from 6.0 to 0.027, PFC2 from 1.15 to 0.59, and the NCC error from 0.66 over 0.30
    and 0.017 to 0 at the third block, without a rise at any layer.
    """
    return replace(
        fc_fashion_mnist_small(),
        name="fc_mnist_1d",
        title="Progressive feedforward collapse on MNIST-1D",
        description=_words(fc_mnist_1d),
        data=DataConfig(name="mnist_1d", per_class=394),
    )


def conv_fashion_mnist() -> Recipe:
    """The paper's convolutional setting on Fashion-MNIST: two stages of 5 and 4 blocks, 350 epochs.

    Not run yet; for a GPU. All 60,000 images, 64 channels at 28×28, then 128 at 14×14, where the layers are measured: the entry
    of the stage and its 4 blocks, flattened. Batch 128, momentum 0.9, weight decay 5e-4 on all parameters, learning rate 0.1
    divided by 10 after epochs 116 and 233. Numbers of channels, initial rate, and that a stage's entry is no block are assumed:
    the text of the paper does not give them.
    """
    return _paper(conv_fashion_mnist, "Fashion-MNIST", "fashion_mnist", ConvResNetConfig(channels=(64, 128), blocks=(5, 4)))


def conv_cifar10() -> Recipe:
    """The paper's convolutional setting on CIFAR-10: three stages of 2, 3 and 4 blocks, 350 epochs.

    Not run yet; for a GPU, and needs the CIFAR-10 files. 64 channels at 32×32, 128 at 16×16, 256 at 8×8, measured in the last
    stage. Training and assumptions as in conv_fashion_mnist; no augmentation.
    """
    return _paper(conv_cifar10, "CIFAR-10", "cifar10", ConvResNetConfig(channels=(64, 128, 256), blocks=(2, 3, 4)))


def conv_stl10() -> Recipe:
    """The paper's convolutional setting on STL-10: four stages of 5 blocks each, 350 epochs.

    Not run yet; for a GPU, and needs the STL-10 files. The stem halves the 96×96 pixels twice (stride and pooling): 64 channels
    at 24×24, then 128, 256, and 512 at 3×3, measured in the last stage. Training and assumptions as in conv_fashion_mnist.
    """
    config = ConvResNetConfig(channels=(64, 128, 256, 512), blocks=(5, 5, 5, 5), stem_stride=2, stem_pool=True)
    return _paper(conv_stl10, "STL-10", "stl10", config)


def conv_cifar100() -> Recipe:
    """The paper's convolutional setting on CIFAR-100: four stages of 3, 3, 4 and 4 blocks, 350 epochs.

    Not run yet; for a GPU, and needs the CIFAR-100 files. 64 channels at 32×32, then 128, 256, and 512 at 4×4, measured in the
    last stage. Training and assumptions as in conv_fashion_mnist.
    """
    config = ConvResNetConfig(channels=(64, 128, 256, 512), blocks=(3, 3, 4, 4))
    return _paper(conv_cifar100, "CIFAR-100", "cifar100", config)


def _paper(function: Callable[[], Recipe], title: str, data: DataName, model: ConvResNetConfig) -> Recipe:
    """Table I of the paper, with the training that all convolutional networks share."""
    return Recipe(
        name=function.__name__,
        title=f"Progressive feedforward collapse on {title}, the paper's convolutional setting",
        description=_words(function),
        data=DataConfig(name=data, scaling="standard"),
        model=model,
        train=TrainConfig(epochs=350, learning_rate=0.1, weight_decay=5e-4, decay="all", clip_norm=None),
        # Five layers of 25,088 numbers per sample: smaller batches keep the measurement within some GB.
        measure=MeasureConfig(batch_size=250),
    )


def conv_fashion_mnist_small() -> Recipe:
    """Progressive feedforward collapse of a convolutional network on 2,000 images of Fashion-MNIST.

    200 images per class; 24 channels at 7×7, then 48 at 4×4, where the entry of the stage and its 4 blocks are measured;
    60 epochs.

    Measured with seeds 0 to 4, 1.9 to 4.0 minutes each on one busy core of an AMD EPYC (seed 0 was looked at while the
    settings were chosen): train accuracy 1 first at measured epoch 23 to 25; at the end, from the entry to the last block,
    PFC1 falls from 1.79–1.91 to 0.31–0.35, PFC2 from 0.72–0.77 to 0.29–0.37 and the NCC error from 0.08–0.11 to 0, without
    a rise at any of these layers and seeds. Behind the pooling PFC1 is 0.12–0.13. The baseline predicts PFC1 of the interior
    layers better than the straight line, by 0.08 to 0.10 decades (interval over the seeds).
    """
    return _small(conv_fashion_mnist_small, "2,000 images of Fashion-MNIST", DataConfig("fashion_mnist", per_class=200))


def conv_cifar10_small() -> Recipe:
    """Progressive feedforward collapse of a convolutional network on 2,000 images of CIFAR-10.

    Not run yet: the settings of conv_fashion_mnist_small, on the first 200 images per class. Needs the CIFAR-10 files.
    """
    return _small(conv_cifar10_small, "2,000 images of CIFAR-10", DataConfig("cifar10", per_class=200))


def conv_stl10_small() -> Recipe:
    """Progressive feedforward collapse of a convolutional network on 2,000 images of STL-10.

    Not run yet: the settings of conv_fashion_mnist_small with a stem of stride 4, on the first 200 images per class. Needs the
    STL-10 files.
    """
    recipe = _small(conv_stl10_small, "2,000 images of STL-10", DataConfig("stl10", per_class=200))
    return replace(recipe, model=ConvResNetConfig(channels=(24, 48), blocks=(1, 4), stem_stride=4, stem_pool=True))


def conv_cifar100_small() -> Recipe:
    """Progressive feedforward collapse of a convolutional network on 2,000 images of CIFAR-100.

    Not run yet: the settings of conv_fashion_mnist_small, on the first 20 images per class. Needs the CIFAR-100 files.
    """
    return _small(conv_cifar100_small, "2,000 images of CIFAR-100", DataConfig("cifar100", per_class=20))


def _small(function: Callable[[], Recipe], title: str, data: DataConfig) -> Recipe:
    """For two CPU cores: few images, which a small network fits to the last one in minutes."""
    return Recipe(
        name=function.__name__,
        title=f"Progressive feedforward collapse of a convolutional network on {title}",
        description=_words(function),
        data=replace(data, scaling="standard"),
        model=ConvResNetConfig(channels=(24, 48), blocks=(1, 4), stem_stride=2, stem_pool=True),
        train=TrainConfig(epochs=60, learning_rate=0.05, weight_decay=1e-2),
    )


def _words(recipe: Callable[[], Recipe]) -> str:
    return inspect.getdoc(recipe) or ""


PFC_RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (
        demo,
        fc_fashion_mnist_small,
        fc_mnist_small,
        fc_mnist_1d,
        conv_fashion_mnist_small,
        conv_cifar10_small,
        conv_stl10_small,
        conv_cifar100_small,
        fc_mnist,
        conv_fashion_mnist,
        conv_cifar10,
        conv_stl10,
        conv_cifar100,
    )
}
