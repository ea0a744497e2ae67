"""Results of other papers: the law of data separation, with the settings of its published code, and residual alignment."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ncollapse.analysis import ResidualAlignment, residual_alignment
from ncollapse.claims.evidence import Value
from ncollapse.data.catalog import load_samples
from ncollapse.data.labeled import LabeledData
from ncollapse.depth import separation_law
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.work import Work, recipe_of
from ncollapse.models import build_model
from ncollapse.probe import measure_features
from ncollapse.recipes.data import DataConfig
from ncollapse.recipes.training import TrainConfig
from ncollapse.train.loop import train

_WIDTH, _SIDE = 100, 10
# Layers in front of the classifier, as in their Figure 1, with the learning rate of their script for SGD with momentum.
_RATES = {3: 0.3, 7: 0.01, 19: 0.001}
_EPOCHS = 600
# Where the correlation is at most this, the law is called right. The bound is ours.
_LINEAR = -0.95


def small_images(data: LabeledData) -> LabeledData:
    """Return square images in 10×10 pixels between -1 and 1."""
    assert data.image_shape is not None
    images = data.inputs.reshape(-1, *data.image_shape)
    low, high = images.min(), images.max()
    sized = interpolate((images - low) / (high - low), size=(_SIDE, _SIDE), mode="bilinear", antialias=True)
    return LabeledData(sized.flatten(1) * 2 - 1, data.labels, data.num_classes, data.name)


def feedforward(depth: int, num_classes: int, seed: int) -> nn.Sequential:
    """Return layers of width 100, each linear, batch normalization, ReLU, and a linear classifier; PyTorch initializes them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = [_SIDE**2, *[_WIDTH] * depth]
        layers = [nn.Sequential(nn.Linear(sizes[i], _WIDTH), nn.BatchNorm1d(_WIDTH), nn.ReLU()) for i in range(depth)]
        return nn.Sequential(*layers, nn.Linear(_WIDTH, num_classes))


def fuzziness(model: nn.Sequential, data: LabeledData) -> list[float]:
    """Return D = tr(SS_w SS_b⁺) of the data and of every layer, normalized by the statistics of the whole training set."""
    features: dict[str, Tensor] = {"data": data.inputs}
    hidden = data.inputs
    model.train()
    with torch.no_grad():
        for index, layer in enumerate(list(model)[:-1]):
            hidden = features[f"layer {index + 1}"] = layer(hidden)
    found = measure_features(features, data.labels, num_classes=data.num_classes, metrics=["separation"], convention="he_su")
    return [float(found.value("separation", layer)) for layer in features]


def _networks(work: Work) -> dict[int, tuple[list[float], list[float]]]:
    """Train the networks, and return D over the layers before and after."""
    data = small_images(load_samples(DataConfig(name="fashion_mnist", per_class=100)))
    found = {}
    for depth, rate in _RATES.items():
        model = feedforward(depth, data.num_classes, work.seed)
        before = fuzziness(model, data)
        config = TrainConfig(epochs=_EPOCHS, batch_size=128, learning_rate=rate, weight_decay=5e-4, decay="all", clip_norm=None)
        for record in train(model, data, config, seed=work.seed, should_stop=work.should_stop):
            work.say(f"{depth} layers: epoch {record.epoch} of {_EPOCHS}")
        found[depth] = (before, fuzziness(model, data))
    return found


def _points(found: dict[int, tuple[list[float], list[float]]]) -> tuple[Point, ...]:
    return tuple(
        Point(_PANELS[depth].title, words, index, y)
        for depth, pair in found.items()
        for words, values in zip(("before training", "after training"), pair, strict=True)
        for index, y in enumerate(values)
    )


def law_of_separation(work: Work) -> Found:
    """Test whether log D falls along a straight line over the layers of all networks, after training and before."""
    found = _networks(work)
    before, after = ([separation_law(pair[when]).correlation <= _LINEAR for pair in found.values()] for when in (0, 1))
    return Found(all(after), _points(found), all(before))


_PANELS = {depth: Panel(f"Separation fuzziness D, {depth} layers", "layer") for depth in _RATES}
_SETTING = (
    "1,000 images of Fashion-MNIST in 10×10 pixels, layers of 100 (linear, batch normalization, ReLU), 600 epochs of SGD with "
    "momentum, weight decay and learning rates of the published code; the same images with every seed. D is of the data and of "
    f"every layer in front of the classifier, networks have {', '.join(map(str, _RATES))} of these."
)

LAW_EXPERIMENTS = (
    Experiment(
        "law:fig1",
        "Figure 1, momentum",
        "The law of data separation",
        "Each layer improves the separation of the classes by one and the same factor: log D falls along a straight line.",
        f"Pearson's correlation of log D with the layer is at most {_LINEAR} in all three networks; the bound is ours. "
        f"{_SETTING}",
        law_of_separation,
        tuple(_PANELS.values()),
        needs=("fashion_mnist",),
    ),
)

# Blocks of the networks of residual alignment; statements about one network are about the middle one, that of the demo.
_BLOCKS = (2, 5, 10)
_PER_CLASS = 2
# What counts as equal steps, as a line, as shared singular vectors, as a rank of K. The bounds are ours.
_EQUAL, _STRAIGHT, _SHARED, _TOP = 1.25, 0.9, 0.5, 0.95
_WHEN = ("before training", "after training")


def _first_of_each_class(data: LabeledData) -> Tensor:
    return torch.cat([data.inputs[data.labels == k][:_PER_CLASS] for k in range(data.num_classes)])


def _aligned(work: Work, blocks: int) -> dict[str, ResidualAlignment]:
    """Return the alignment of the blocks of a network before training and after."""
    run = work.run("demo", f"model.num_blocks={blocks}")
    data, recipe = work.samples(run), recipe_of(run)
    untrained = build_model(recipe.model, data.sample_shape, data.num_classes, recipe.seed).eval()
    names, inputs = [f"blocks.{index}" for index in range(blocks)], _first_of_each_class(data)
    return {
        words: residual_alignment(model, inputs, blocks=names, num_directions=data.num_classes)
        for words, model in zip(_WHEN, (untrained, work.network(run)), strict=True)
    }


def steps_are_equal(found: ResidualAlignment) -> bool:
    """Return whether the steps are equal and on a line (RA1)."""
    ratios = found.step_ratios
    return bool(ratios.max() <= _EQUAL and ratios.min() >= 1 / _EQUAL and found.straightness >= _STRAIGHT)


def _one_network(
    work: Work, panel: Panel, value: Callable[[ResidualAlignment], Value], by_block: Callable[[ResidualAlignment], Tensor]
) -> Found:
    """Test a statement about the blocks of one network; draw a number of each block."""
    pair = _aligned(work, _BLOCKS[1])
    points = [Point(panel.title, words, i, y) for words, found in pair.items() for i, y in enumerate(by_block(found).tolist())]
    before, after = (value(pair[words]) for words in _WHEN)
    return Found(after, tuple(points), before)


def _mean_share(found: ResidualAlignment) -> Tensor:
    """Return for each block the mean share of its energy on the frames of the others."""
    return (found.shared.sum(dim=1) - found.top_energy) / (len(found.blocks) - 1)


def top_values(work: Work) -> Found:
    """Compare the fall of the largest singular value with the number of blocks L with 1/L and with none."""
    pairs = {blocks: _aligned(work, blocks) for blocks in _BLOCKS}
    tops = {words: [float(pairs[blocks][words].top_value.mean()) for blocks in _BLOCKS] for words in _WHEN}
    points = [Point(_VALUES.title, words, x, y) for words in _WHEN for x, y in zip(_BLOCKS, tops[words], strict=True)]
    # The slope in logarithms is -1 for 1/L and 0 for no fall.
    before, after = (-float(np.polyfit(np.log(_BLOCKS), np.log(tops[words]), 1)[0]) - 0.5 for words in _WHEN)
    return Found(after, tuple(points), before)


def _alignment(name: str, title: str, says: str, tested: str, measure: Callable[[Work], Found], panel: Panel) -> Experiment:
    tag = name.partition(":")[2].upper()
    return Experiment(name, tag, title, says, f"{tested} {_BEFORE}", measure, (panel,))


_STEPS, _FRAMES = Panel("Steps over their mean", "block"), Panel("Energy on the frames of other blocks", "block")
_ENERGY, _VALUES = Panel("Energy in the leading directions", "block"), Panel("Largest singular value", "blocks L", log_x=True)
_BEFORE = f"{_PER_CLASS} training samples of each class; the base rate is that before training."
_DEMO = f"The bound is ours. A network of the demo, {_BLOCKS[1]} blocks of width 64 on 1,740 digits;"

ALIGNMENT_EXPERIMENTS = (
    _alignment(
        "alignment:ra1",
        "The layers of a sample are equally spaced on a line",
        "Through the blocks, the features of a sample move by equal steps along a straight line.",
        f"Each step over its sample's mean step is between 1/{_EQUAL} and {_EQUAL}, on average over samples, and the sum of "
        f"the steps has at least {_STRAIGHT} of their joint length. {_DEMO}",
        partial(_one_network, panel=_STEPS, value=steps_are_equal, by_block=lambda found: found.step_ratios),
        _STEPS,
    ),
    _alignment(
        "alignment:ra2",
        "The blocks share singular vectors",
        "The leading left and right singular vectors of the Jacobians of all blocks are the same.",
        "Share of the energy of a block's Jacobian on the diagonal of the frames of another block (K leading singular "
        f"vectors), mean over all pairs, minus {_SHARED}. {_DEMO}",
        partial(_one_network, panel=_FRAMES, value=lambda found: found.off_diagonal - _SHARED, by_block=_mean_share),
        _FRAMES,
    ),
    _alignment(
        "alignment:ra3",
        "The Jacobians have as many directions as there are classes",
        "The Jacobian of a block has at most rank K.",
        f"Share of the energy in the K leading singular values, in the block where it is smallest, minus {_TOP}. {_DEMO}",
        partial(
            _one_network,
            panel=_ENERGY,
            value=lambda found: float(found.top_energy.min()) - _TOP,
            by_block=lambda found: found.top_energy,
        ),
        _ENERGY,
    ),
    _alignment(
        "alignment:ra4",
        "The largest singular value falls as one over the depth",
        "The largest singular values of the Jacobians fall in proportion to 1/L.",
        "Minus the slope of the logarithm of the largest singular value (mean over blocks and samples) with the logarithm of "
        "L, minus ½: positive if it is nearer to 1/L than to no fall. Networks of the demo with "
        f"{', '.join(map(str, _BLOCKS))} blocks;",
        top_values,
        _VALUES,
    ),
)
