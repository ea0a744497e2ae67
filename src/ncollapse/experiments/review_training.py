"""Collapse in training, sections 3.1.4 and 3.1.5 of the review (arXiv 2206.04041): normalization, and complexity of data."""

from __future__ import annotations

import math

from scipy import stats

from ncollapse.experiments.experiment import Experiment, Found, Panel, Point
from ncollapse.experiments.review_testing import at_end
from ncollapse.experiments.work import Work
from ncollapse.records.reading import Run

_NORMALIZED = {"with batch normalization": "mid", "without normalization": "none"}
# Five tokens an image, as the 8×8 digits have in patches of 4×4, and eight words a gloss.
_DATA = {
    "digits": ("data.name=digits",),
    "MNIST": ("data.name=mnist", "model.patch=14"),
    "Fashion-MNIST": ("data.name=fashion_mnist", "model.patch=14"),
    "glosses": ("data.name=wordnet", "data.largest_classes=10", "data.vocabulary=2000", "data.length=8"),
}
_SMALL = ("data.per_class=40", "train.epochs=60", "measure.epochs=0,3,10,30", "measure.transport_samples=0")


def _over_epochs(run: Run, panel: Panel, line: str) -> list[Point]:
    return [Point(panel.title, line, epoch, at_end(run, "pfc1", "train", epoch)) for epoch in run.epochs]


def _normalization(work: Work) -> Found:
    falls, points = [], []
    for name, kind in _NORMALIZED.items():
        run = work.run("demo", "measure.epochs=0,3,10,30,100", f"model.normalization={kind}")
        falls.append(math.log10(at_end(run, "pfc1", "train", 0) / at_end(run, "pfc1")))
        points += _over_epochs(run, _BY_NORMALIZATION, name)
    return Found(min(falls) - 1, tuple(points))


def _complexity(work: Work) -> Found:
    errors, collapses, points = [], [], []
    for name, settings in _DATA.items():
        run = work.run("vit_digits", *settings, *_SMALL, "measure.test=true", "model.num_blocks=3")
        errors.append(1 - at_end(run, "accuracy", "test"))
        collapses.append(at_end(run, "pfc1"))
        points += [*_over_epochs(run, _BY_DATA, name), Point(_BY_ERROR.title, name, errors[-1], collapses[-1])]
    return Found(float(stats.kendalltau(errors, collapses).statistic), tuple(points))


_BY_NORMALIZATION = Panel("PFC1 of the last layer", "epoch", log_x=True)
_BY_DATA, _BY_ERROR = Panel("PFC1 in training", "epoch", log_x=True), Panel("PFC1 at the end", "test error")

TRAINING_EXPERIMENTS = (
    Experiment(
        "review:fig4",
        "Figure 4",
        "Complex data collapses less",
        "The extent of variability collapse on training data falls with the complexity of the data.",
        "Kendall's τ of PFC1 at the end of training with the test error, which stands for complexity, over digits, MNIST, "
        "Fashion-MNIST and glosses of WordNet: one transformer of three blocks, 400 samples, 60 epochs each.",
        _complexity,
        (_BY_DATA, _BY_ERROR),
        needs=("mnist", "fashion_mnist", "wordnet"),
    ),
    Experiment(
        "review:sec3.1.4",
        "Section 3.1.4",
        "Networks with and without batch normalization",
        "Batch normalization helps collapse but does not decide it: networks without it collapse too.",
        "Decades by which PFC1 of the last layer falls in training, the smaller of both networks, minus one: positive if it "
        "falls to less than a tenth with batch normalization and without. 1,740 digits, 150 epochs.",
        _normalization,
        (_BY_NORMALIZATION,),
    ),
)
