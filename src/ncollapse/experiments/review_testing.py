"""The review's experiments on held-out data (arXiv 2206.04041, Section 4.1.1), small: 1,000 images of Fashion-MNIST."""

from __future__ import annotations

import math
from functools import partial
from statistics import fmean

import numpy as np
from scipy import stats

from ncollapse.experiments.experiment import Experiment, Found, Panel, Point, least
from ncollapse.experiments.work import Work
from ncollapse.records.reading import Run

_EPOCHS = (0, 2, 5, 10, 20, 40, 80)
_SMALL = (
    "data.per_class=100",
    "model.width=64",
    "train.epochs=80",
    f"measure.epochs={list(_EPOCHS)}".replace(" ", ""),
    "measure.test=true",
    "measure.transport_samples=0",
)
# Optimizers by name, each with its learning rate. An epoch of L-BFGS is 20 steps on all samples, with a line search each.
_OPTIMIZERS = {
    "SGD": (),
    "Adam": ("train.optimizer=adam", "train.learning_rate=0.002"),
    "L-BFGS": (
        "train.optimizer=lbfgs",
        "train.learning_rate=1",
        "train.batch_size=1000",
        "train.clip_norm=null",
        "train.milestones=[]",
        "train.epochs=10",
        "measure.epochs=[0,2,5,10]",
    ),
}
# Networks that differ in one setting.
_NETWORKS = {
    "SGD": _OPTIMIZERS["SGD"],
    "Adam": _OPTIMIZERS["Adam"],
    "2 blocks": ("model.num_blocks=2",),
    "10 blocks": ("model.num_blocks=10",),
    "width 16": ("model.width=16",),
    "weight decay 0.001": ("train.weight_decay=0.001",),
    "no skip connections": ("model.connections=plain",),
    "no normalization": ("model.normalization=none", "train.learning_rate=0.01"),
}
# How many classes of Fashion-MNIST, the first ones, a source network is trained on.
SOURCES = (2, 4, 6, 10)


def small_run(work: Work, *settings: str, random: bool = False) -> Run:
    """Return the run that the review's experiments share, with true or with random labels on the training set."""
    drawn = ("data.corrupt=1.0", f"data.seed={work.seed}") if random else ()
    return work.run("fc_fashion_mnist_small", *_SMALL, *drawn, *settings)


def at_end(run: Run, metric: str, split: str = "train", epoch: int | None = None) -> float:
    """Return a metric of the last layer, after training unless said; nan where it is undefined."""
    value = run.value(metric, run.depths[-1], epoch, split)
    return math.nan if value is None else value


def of_sources(work: Work, count: int) -> Run:
    """Return a run on the first so many classes."""
    return small_run(work, *(() if count == 10 else (f"data.largest_classes={count}",)))


def test_collapse(work: Work, metric: str) -> Found:
    """Compare the weak or the strong collapse of the test set with that of the training set."""
    run = small_run(work)
    lines = {
        "train": ("pfc1", "train"),
        "weak, test": ("weak_collapse", "test"),
        "strong, test": ("strong_collapse", "test"),
    }
    points = [
        Point(_FIG7.title, line, epoch, at_end(run, *what, epoch)) for line, what in lines.items() for epoch in run.epochs
    ]
    points += [
        Point(_ACCURACY.title, split, epoch, at_end(run, "accuracy", split, epoch))
        for split in ("train", "test")
        for epoch in run.epochs
    ]
    return Found(_less_on_test(run, metric), tuple(points), _less_on_test(run, metric, 0))


def _less_on_test(run: Run, metric: str, epoch: int | None = None) -> float:
    """Return by how many decades test samples lie farther from the training means."""
    # On the training set itself strong collapse is PFC1, under which runs keep it.
    on_train = "pfc1" if metric == "strong_collapse" else metric
    return math.log10(at_end(run, metric, "test", epoch) / at_end(run, on_train, "train", epoch))


def corner_distances(run: Run, epoch: int) -> list[float]:
    """Return the mean distance of the sample to the corners of its classes at every kept layer, in lengths of the corners."""
    assert run.samples is not None
    found = run.samples.epochs[epoch]
    corners = found.corners.astype(float)[:, found.labels]
    off = np.linalg.norm(found.points.astype(float) - corners, axis=2)
    return list(map(float, (off / np.linalg.norm(corners, axis=2)).mean(axis=1)))


def moving_simplex(work: Work) -> Found:
    """Follow how near the sample of the K-gon is to the corners."""
    run = small_run(work)
    by_epoch = {epoch: corner_distances(run, epoch) for epoch in (0, 10, 80)}
    points = [Point(_FIG1.title, f"epoch {e}", depth, y) for e, layers in by_epoch.items() for depth, y in enumerate(layers)]
    return Found(math.log10(by_epoch[0][-1] / by_epoch[80][-1]), tuple(points))


def optimizers_collapse(work: Work) -> Found:
    """Follow the collapse under each optimizer, with true and with random labels."""
    points, falls = [], []
    for labels in ("true", "random"):
        for name, settings in _OPTIMIZERS.items():
            run = small_run(work, *settings, random=labels == "random")
            ys = [at_end(run, "pfc1", "train", epoch) for epoch in run.epochs]
            points += [Point(_FIG6[labels].title, name, epoch, y) for epoch, y in zip(run.epochs, ys, strict=True)]
            tested = zip(run.epochs, (at_end(run, "accuracy", "test", epoch) for epoch in run.epochs), strict=True)
            points += [Point(_TEST_ACCURACY.title, f"{name}, {labels} labels", epoch, y) for epoch, y in tested]
            falls.append(math.log10(ys[0] / ys[-1]))
    return Found(least(falls) - 1, tuple(points))


def optimizers_test(work: Work) -> Found:
    """Compare the test accuracies of optimizers with those of two runs of SGD."""
    accuracies = {name: at_end(small_run(work, *settings), "accuracy", "test") for name, settings in _OPTIMIZERS.items()}
    again = at_end(small_run(work, "train.batch_size=127"), "accuracy", "test")
    ys = list(accuracies.values())
    differences = [abs(a - b) for index, a in enumerate(ys) for b in ys[:index]]
    points = [Point(_BY_OPTIMIZER.title, "test accuracy", name, y) for name, y in accuracies.items()]
    points.append(Point(_BY_OPTIMIZER.title, "test accuracy", "SGD, batches of 127", again))
    return Found(fmean(differences) - abs(accuracies["SGD"] - again), tuple(points))


def order_of_networks(work: Work) -> Found:
    """Correlate the ranks of networks by collapse with those by test accuracy."""
    runs = {name: small_run(work, *settings) for name, settings in _NETWORKS.items()}
    accuracies = [at_end(run, "accuracy", "test") for run in runs.values()]
    collapses = {
        "strong, test": [at_end(run, "strong_collapse", "test") for run in runs.values()],
        "weak, test": [at_end(run, "weak_collapse", "test") for run in runs.values()],
        "train": [at_end(run, "pfc1", "train") for run in runs.values()],
    }
    points = [Point(_ORDER.title, line, x, y) for line, ys in collapses.items() for x, y in zip(accuracies, ys, strict=True)]
    ranks = {line: -float(stats.spearmanr(ys, accuracies).statistic) for line, ys in collapses.items()}
    return Found(ranks["strong, test"], tuple(points), ranks["train"])


def distance_by_classes(work: Work) -> Found:
    """Follow the class-distance normalized variance of both splits for several numbers of classes."""
    points, falls = [], []
    for count in SOURCES:
        run = of_sources(work, count)
        for split, panel in _FIG8.items():
            points += [Point(panel.title, f"{count} classes", epoch, at_end(run, "cdnv", split, epoch)) for epoch in run.epochs]
        falls.append(math.log10(at_end(run, "cdnv", "test", 0) / at_end(run, "cdnv", "test")))
    return Found(least(falls), tuple(points))


_FIG7 = Panel("Distance to class means over their spread", "epoch", log_x=True)
_ACCURACY = Panel("Accuracy", "epoch", log_x=True)
_FIG1 = Panel("Distance to the corners of the simplex", "layer")
_FIG6 = {labels: Panel(f"PFC1, {labels} labels", "epoch", log_x=True) for labels in ("true", "random")}
_TEST_ACCURACY = Panel("Test accuracy", "epoch", log_x=True)
_BY_OPTIMIZER = Panel("Test accuracy after training", "optimizer")
_ORDER = Panel("Collapse", "test accuracy")
_FIG8 = {split: Panel(f"Class-distance normalized variance, {split}", "epoch", log_x=True) for split in ("train", "test")}
_OPEN = "Section 4.1.1, open question"
on_fashion = partial(Experiment, needs=("fashion_mnist",), seeds=3)

TESTING_EXPERIMENTS = (
    on_fashion(
        "review:fig1",
        "Figure 1",
        "Features become the corners of a simplex",
        "Features of the penultimate layer gather at the corners of a simplex while the network is trained.",
        "Decades by which the mean distance of 200 or fewer training samples to the corners of their classes falls from the "
        "start to the end, at the last layer. The K-gon on the page of the run shows the picture.",
        moving_simplex,
        (_FIG1,),
    ),
    on_fashion(
        "review:fig6",
        "Figure 6, and 3.1.5",
        "All optimizers lead to collapse, with random labels too",
        "Networks collapse on the training set whichever optimizer trains them (SGD, Adam or L-BFGS), on random labels too.",
        "Decades by which PFC1 of the last layer falls in training, the smallest over optimizers and over true and random "
        "labels, minus one: positive if it always falls to less than a tenth.",
        optimizers_collapse,
        (*_FIG6.values(), _TEST_ACCURACY),
        takes_least=True,
    ),
    on_fashion(
        "review:fig6-test",
        "Figure 6",
        "Optimizers differ on test data",
        "Networks that collapse alike on the training set differ in test accuracy.",
        "Mean difference in test accuracy between two optimizers, minus that between two trainings by SGD, in batches of 128 "
        "and 127.",
        optimizers_test,
        (_BY_OPTIMIZER,),
    ),
    *(
        on_fashion(
            f"review:fig7-{kind}",
            f"Figure 7, {kind} collapse",
            "Test data collapses less than training data",
            f"Test samples come less near to {to} of the training set than training samples ({kind} collapse).",
            f"Decades by which {kind} collapse of test data is above that of training data at the last layer. At collapse "
            "both are 0.",
            partial(test_collapse, metric=f"{kind}_collapse"),
            (_FIG7, _ACCURACY),
        )
        for kind, to in {"weak": "any of the class means", "strong": "their own class means"}.items()
    ),
    on_fashion(
        "review:order",
        _OPEN,
        "Does test collapse order networks by their test accuracy?",
        "How much test collapse means for generalization is open: how much is enough depends on the data.",
        f"Rank correlation (Spearman) of test accuracy with strong test collapse, over {len(_NETWORKS)} networks of one seed "
        "that differ in one setting; 1 if the network that collapses more on test data is always the better one. The base rate "
        "is that of the collapse on training data.",
        order_of_networks,
        (_ORDER,),
        base="with the collapse on training data",
    ),
    on_fashion(
        "review:fig8",
        "Figure 8",
        "Class-distance normalized variance on test data, by the number of classes",
        "Test data collapses in training too, though less than training data, whatever the number of classes.",
        "Decades by which the class-distance normalized variance of test data falls in training at the last layer; the "
        f"smallest over networks with {', '.join(map(str, SOURCES))} classes.",
        distance_by_classes,
        tuple(_FIG8.values()),
        takes_least=True,
    ),
)
