"""A result of others on its own setting: He and Su's law of data separation, with the settings of their published code."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ncollapse.data.catalog import load_samples
from ncollapse.data.labeled import LabeledData
from ncollapse.depth import separation_law
from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.work import Work
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
