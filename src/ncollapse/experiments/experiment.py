"""An experiment of a paper: what one seed gives, how that is drawn, and the statement that it decides."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ncollapse.claims.evidence import BEFORE_TRAINING, Value
from ncollapse.experiments.work import Work
from ncollapse.recipes.data import DataName

Source = Literal["pfc", "deep", "review", "law", "alignment", "language"]
PAPERS: dict[Source, str] = {
    "pfc": "Wang et al., Progressive Feedforward Collapse of ResNet Training, arXiv 2405.00985",
    "deep": "Súkeník et al., Neural Collapse is Globally Optimal in Deep Regularized ResNets and Transformers, "
    "arXiv 2505.15239",
    "review": "Kothapalli et al., Neural Collapse: A Review on Modelling Principles and Generalization, arXiv 2206.04041",
    "law": "He and Su, A Law of Data Separation in Deep Learning, PNAS 2023, arXiv 2210.17020, on its own setting",
    "alignment": "Li and Papyan, Residual Alignment: Uncovering the Mechanisms of Residual Networks, NeurIPS 2023",
    "language": "Wu and Papyan, Linguistic Collapse: Neural Collapse in (Large) Language Models, NeurIPS 2024",
}


class Point(NamedTuple):
    """A number in the figure: its panel, the line it is on, where on the x axis (a number or a word), and its value."""

    panel: str
    line: str
    x: float | str
    y: float | None


class Panel(NamedTuple):
    """A panel of the figure: its title, by which points name it, and the words and the scale of its x axis."""

    title: str
    x: str
    log_x: bool = False


@dataclass(frozen=True)
class Found:
    """The result of one seed.

    Attributes:
        value: Whether the statement is right, or a number that is positive if it is right; None if there is nothing to test.
        points: What is drawn.
        before: The base rate: the same value without the cause in question. None if there is none.
    """

    value: Value | None
    points: tuple[Point, ...] = ()
    before: Value | None = None


def least(gains: Iterable[float]) -> float:
    """Return the least of several gains; nan where one is undefined, which ``min`` may pass over."""
    found = list(gains)
    return math.nan if any(map(math.isnan, found)) else min(found)


@dataclass(frozen=True)
class Experiment:
    """A figure or a statement of a paper as an experiment.

    Attributes:
        name: Paper and item, such as ``pfc:fig2``.
        item: Its place in the paper, such as a figure or a theorem.
        title: Its subject in a few words.
        says: The paper's statement, in our words.
        tested: The part of it that is tested on each seed, in words.
        measure: Function that runs one seed and returns what it found.
        panels: Panels of its figure, in order.
        seeds: Number of seeds of the small version, chosen so that it ends within ten minutes on two cores.
        needs: Names of the data sets it needs.
        checks_code: Whether a theorem proves it, so that it checks the code and says nothing about networks.
        base: Words for the base rate, such as "before training": the test must give more than there.
        has_paper_size: Whether it can be run at the paper's size; else the small version is the whole.
        takes_least: Whether the value is the least of several gains: its mean is below zero where there is no effect, so that
            it can show that all are gains, but not that one is none.
    """

    name: str
    item: str
    title: str
    says: str
    tested: str
    measure: Callable[[Work], Found]
    panels: tuple[Panel, ...] = ()
    seeds: int = 3
    needs: tuple[DataName, ...] = ()
    checks_code: bool = False
    base: str = BEFORE_TRAINING
    has_paper_size: bool = False
    takes_least: bool = False

    @property
    def source(self) -> Source:
        """The paper, by its short name."""
        return next(source for source in PAPERS if source == self.name.partition(":")[0])

    @property
    def folder(self) -> str:
        """The name of its folder."""
        return self.name.replace(":", "-")


@dataclass(frozen=True)
class SeedFile:
    """``seed=N.json``: the result of one seed of an experiment, and how it was made.

    Attributes:
        runs: Run directories behind it, from the folder of the experiment.
        seconds: Seconds of computing, including those of its runs, whichever experiment made them.
        machine: Versions, platform and device.
    """

    seed: int
    value: Value | None
    before: Value | None = None
    points: tuple[Point, ...] = ()
    runs: tuple[str, ...] = ()
    seconds: float = math.nan
    machine: dict[str, str] = field(default_factory=dict)
