"""Collapse of deep regularized ResNets and transformers against their depth (arXiv 2505.15239): the experiments, as data.

Each recipe is one architecture at one depth; ``ncollapse sweep RECIPE --over model.num_blocks=1,2,4,8,16,32 --seeds 5`` makes
its row of the paper's figures. The docstring of a recipe is its description.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace

from ncollapse.recipes.data import DataConfig
from ncollapse.recipes.networks import LayerNormResNetConfig, TransformerConfig
from ncollapse.recipes.recipe import MeasureConfig, Recipe
from ncollapse.recipes.training import TrainConfig

# All samples in one step; cosine down to 1e-5.
_FULL_BATCH = TrainConfig(
    epochs=1500,
    batch_size=1_000_000,
    learning_rate=0.005,
    weight_decay=0.005,
    gamma=0.002,
    clip_norm=None,
    optimizer="adam",
    schedule="cosine",
    checkpoint_every=500,
)
_T11 = TransformerConfig()


def deep_rn1() -> Recipe:
    """L-RN1 on MNIST, the paper's setting: one linear layer per block, λ = 0.005 at every depth.

    Not run yet; for a GPU, and needs the MNIST files. Width 64, learning rate 0.005 and 5000 epochs as a summary of the paper
    has them; Adam, batches of 512, a cosine to 1e-5 and 1,000 images per class are assumed. Expected: NC1, NC2 and NC3 fall as
    the number of blocks grows. For CIFAR-10: --set data.name=cifar10.
    """
    return _paper(deep_rn1, "L-RN1 on MNIST", LayerNormResNetConfig())


def deep_rn2() -> Recipe:
    """L-RN2 on MNIST, the paper's setting: two linear layers per block, λ = 0.005/L.

    Not run yet; settings and assumptions as in deep_rn1. Expected: NC1, NC2 and NC3 fall as the number of blocks grows.
    """
    return replace(
        _paper(deep_rn2, "L-RN2 with λ = 0.005/L on MNIST", LayerNormResNetConfig(linear_layers=2)), decay_over_blocks=True
    )


def deep_rn2_constant() -> Recipe:
    """L-RN2 on MNIST with constant λ = 0.0025, the paper's negative control.

    Not run yet; settings and assumptions as in deep_rn1. Expected: no improvement as the number of blocks grows.
    """
    recipe = _paper(deep_rn2_constant, "L-RN2 with constant λ on MNIST", LayerNormResNetConfig(linear_layers=2))
    return replace(recipe, train=replace(recipe.train, weight_decay=0.0025))


def deep_t11() -> Recipe:
    """L-T11 on MNIST, the paper's setting: value attention and one linear layer per block, λ = 0.005 at every depth.

    Not run yet; settings and assumptions as in deep_rn1, images in 16 patches of 7×7 behind a class token. Expected: NC1, NC2
    and NC3 fall as the number of blocks grows.
    """
    return _paper(deep_t11, "L-T11 on MNIST", replace(_T11, patch=7))


def deep_preln_t11() -> Recipe:
    """Pre-LN L-T11 on IMDB, the paper's setting: λ = 0.005 at every depth.

    Not run yet; for a GPU, and needs the IMDB files. Learning rate 0.001; 10,000 words, 256 per text, 1,000 texts per class
    (assumed, as in deep_rn1). Expected: NC1, NC2 and NC3 fall as the number of blocks grows.
    """
    recipe = _paper(deep_preln_t11, "pre-LN L-T11 on IMDB", replace(_T11, norm="pre"))
    return replace(recipe, data=DataConfig(name="imdb", per_class=1000), train=replace(recipe.train, learning_rate=0.001))


def deep_rn1_small() -> Recipe:
    """L-RN1 on 200 handwritten digits: one linear layer per block, λ = 0.005 at every depth.

    20 digits per class, width 64, 1500 steps of Adam on all samples, a cosine from 0.002 to 4e-6.

    Measured with seeds 0 to 4 at L = 1, 2, 4, 8, 16, 32, 4 to 37 seconds each on a busy core of an AMD EPYC: from L = 1 to 32
    the means of log10 NC1 fall from -1.21 to -2.24, of log10 NC2 from -1.22 to -1.52, of log10 NC3 from -1.51 to -2.50, and of
    the objective from 0.5172 to 0.4856, its floor being 0.4753; train accuracy 1. Log-log slopes with L, mean over the seeds:
    NC1 -0.63 (95 % interval -0.66 to -0.60), NC2 -0.17 (-0.23 to -0.10), NC3 -0.61 (-0.64 to -0.58). With learning rate 0.005
    NC2 falls more up to L = 16, -0.62 (-0.86 to -0.38), but three of five seeds fail at L = 32.
    """
    return _small(deep_rn1_small, "L-RN1", LayerNormResNetConfig())


def deep_rn1_plain() -> Recipe:
    """L-RN1 on 200 handwritten digits without biases in the blocks and without a trained stem: the depth-aware floor applies.

    The settings of deep_rn1_small; the 64 pixels, normalized, are the first layer. The objective of no such network of L blocks
    is below the floor that knows L and the data (docs/theory.md, 5.7). Measured with seed 0 at L = 1 and 4: objective 0.6771
    and 0.5648, that floor 0.47594 and 0.47547, the floor without depth 0.47532; train accuracy 1.
    """
    return _small(
        deep_rn1_plain, "L-RN1 without block biases and stem", LayerNormResNetConfig(embedding="none", block_biases=False)
    )


def deep_rn2_small() -> Recipe:
    """L-RN2 on 200 handwritten digits: two linear layers per block, λ = 0.005/L.

    The settings of deep_rn1_small. Measured with seeds 0 to 4 at L = 1, 2, 4, 8, 16, 32, 4 to 46 s each on one core of an AMD
    EPYC: from L = 1 to 32 the excess of the objective over its floor falls from 0.0315 to 0.0164, but the means of log10
    NC1 rise from -2.50 to -2.21 (-1.97 at L = 8), of log10 NC2 from -1.41 to -0.72 and of log10 NC3 from -2.72 to -1.81: with λ
    the pull towards collapse falls too, and the paper's trend is not seen. Nor is it after 6000 steps at a learning rate of
    0.001, where the excess falls from 0.0275 to 0.0047 (log-log slope -0.54), but log10 NC1 rises from -2.83 to -2.00, NC2 from
    -1.80 to -0.87 and NC3 from -3.09 to -1.88; at 0.002 all three seeds fail at L = 32 in those steps. Train accuracy 1 else.
    """
    recipe = _small(deep_rn2_small, "L-RN2 with λ = 0.005/L", LayerNormResNetConfig(linear_layers=2))
    return replace(recipe, decay_over_blocks=True)


def deep_rn2_constant_small() -> Recipe:
    """L-RN2 on 200 handwritten digits with constant λ = 0.0025, the negative control.

    The settings of deep_rn1_small. Measured with seeds 0 to 4 at L = 1, 2, 4, 8, 16, 32, 4 to 48 s each on one core of an AMD
    EPYC: from L = 1 to 32 the means of log10 NC1 rise from -2.57 to -1.55, of log10 NC3 from -2.49 to -1.79 and of the
    objective from 0.3195 to 0.3306, its floor being 0.3003; log10 NC2 stays at -1.1; train accuracy 1.
    """
    recipe = _small(deep_rn2_constant_small, "L-RN2 with constant λ", LayerNormResNetConfig(linear_layers=2))
    return replace(recipe, train=replace(recipe.train, weight_decay=0.0025))


def deep_t11_small() -> Recipe:
    """L-T11 on 200 handwritten digits: value attention and one linear layer per block, λ = 0.005 at every depth.

    The settings of deep_rn1_small but for a learning rate of 0.001; digits in 4 patches of 4×4 behind a class token. Measured
    with seeds 0 to 4 at L = 1, 2, 4, 8, 16, 32, 11 to 268 seconds each on one core of an AMD EPYC: from L = 1 to 16 the means
    of log10 NC1 fall from -0.77 to -2.37, of log10 NC2 from -0.30 to -0.87, of log10 NC3 from -1.09 to -2.20, and of the
    objective from 0.6202 to 0.5024, its floor being 0.4753; at L = 32 they are -2.30, -0.84, -2.11 and 0.5065; train accuracy
    1. Log-log slopes with L, mean over the seeds: NC1 -0.98 (95 % interval -1.12 to -0.84), NC2 -0.34 (-0.38 to -0.29), NC3
    -0.62 (-0.68 to -0.55). With learning rate 0.002 NC2 falls further up to L = 16, to log10 -1.43, but one of five seeds fails
    at L = 32.
    """
    recipe = _small(deep_t11_small, "L-T11", _T11)
    return replace(recipe, train=replace(recipe.train, learning_rate=0.001))


def deep_preln_t11_small() -> Recipe:
    """Pre-LN L-T11 on 200 glosses of WordNet, 20 of each of the 10 largest lexicographer files, λ = 0.005 at every depth.

    The first 12 words of a gloss, of the 2,000 most frequent. Needs WordNet's files (Debian: apt-get install wordnet-base).
    Measured with seeds 0 to 4 at L = 1, 2, 4, 8, 16, 16 to 252 seconds each on one core of an AMD EPYC: at L = 1 the means of
    log10 NC1, NC2 and NC3 are -3.11, -0.83 and -2.45 and that of the objective is 0.4988, its floor being 0.4753; at L = 16
    they are -2.97, -0.80, -2.28 and 0.5078, and with seeds 0 to 2 at L = 32, 7 minutes per run, -2.82, -0.73, -2.29 and 0.5131:
    deeper networks are farther from their floor after the same steps, and the paper's trend is not seen. Train accuracy 1.
    """
    recipe = _small(deep_preln_t11_small, "pre-LN L-T11", replace(_T11, norm="pre"), what="glosses of WordNet")
    return replace(
        recipe,
        data=DataConfig(name="wordnet", per_class=20, largest_classes=10, vocabulary=2000, length=12),
        train=replace(recipe.train, learning_rate=0.001),
    )


def vit_digits() -> Recipe:
    """Collapse from layer to layer of a pre-norm transformer on handwritten digits in patches.

    870 digits (87 per class), 4 patches of 4×4, 5 blocks of width 64 with two linear layers in attention and in the multilayer
    part, normalization to √d, the mean of the tokens read out, 150 epochs of Adam. For post-norm: --set model.norm=post.

    Measured with seeds 0 to 4, 33 to 35 seconds each on one busy core of an AMD EPYC: train accuracy 1 first at measured epoch
    10 to 13; at the end, from the embedding to the last normalization, PFC1 falls from 1.38–1.54 to 0.14–0.15 and the NCC error
    from 0.21–0.22 to 0 without a rise at any layer and seed; PFC2 falls from 0.82–0.84 to 0.05–0.08, but rises by up to 0.011
    at one of the first two blocks in three of the five seeds.
    """
    return Recipe(
        name="vit_digits",
        title="Collapse from layer to layer of a transformer on handwritten digits",
        description=_words(vit_digits),
        data=DataConfig(name="digits", per_class=87),
        model=TransformerConfig(num_blocks=5, attention_layers=2, mlp_layers=2, norm="pre", norm_scale="sqrt_d", pool="mean"),
        train=TrainConfig(epochs=150, learning_rate=1e-3, weight_decay=1e-3, gamma=0.01, optimizer="adam", schedule="cosine"),
    )


def _paper(function: Callable[[], Recipe], title: str, model: LayerNormResNetConfig | TransformerConfig) -> Recipe:
    """Return what all full settings share."""
    return Recipe(
        name=function.__name__,
        title=f"Deep regularized training of {title}, the paper's setting",
        description=_words(function),
        data=DataConfig(name="mnist", per_class=1000, scaling="standard"),
        model=model,
        train=replace(_FULL_BATCH, epochs=5000, batch_size=512),
        measure=MeasureConfig(epochs=(0, 1, 10, 100, 1000), transport_samples=0),
    )


def _small(
    function: Callable[[], Recipe],
    title: str,
    model: LayerNormResNetConfig | TransformerConfig,
    what: str = "handwritten digits",
) -> Recipe:
    """For two CPU cores: one step per epoch on few samples, measured four times."""
    return Recipe(
        name=function.__name__,
        title=f"Deep regularized training of {title} on 200 {what}",
        description=_words(function),
        data=DataConfig(name="digits", per_class=20),
        model=model,
        train=replace(_FULL_BATCH, learning_rate=0.002),
        measure=MeasureConfig(epochs=(0, 500, 1000), transport_samples=0),
    )


def _words(recipe: Callable[[], Recipe]) -> str:
    return inspect.getdoc(recipe) or ""


DEEP_RECIPES: dict[str, Callable[[], Recipe]] = {
    function.__name__: function
    for function in (
        deep_rn1_small,
        deep_rn1_plain,
        deep_rn2_small,
        deep_rn2_constant_small,
        deep_t11_small,
        deep_preln_t11_small,
        vit_digits,
        deep_rn1,
        deep_rn2,
        deep_rn2_constant,
        deep_t11,
        deep_preln_t11,
    )
}
