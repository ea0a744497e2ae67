"""An experiment of a paper: what one seed gives, how that is drawn, and the statement that it decides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from ncollapse.claims.evidence import Value
from ncollapse.experiments.work import Work
from ncollapse.recipes.data import DataName

Source = Literal["pfc", "deep", "review", "law"]
PAPERS: dict[Source, str] = {
    "pfc": "Wang et al., Progressive Feedforward Collapse of ResNet Training, arXiv 2405.00985",
    "deep": "Súkeník et al., Neural Collapse is Globally Optimal in Deep Regularized ResNets and Transformers, "
    "arXiv 2505.15239",
    "review": "Kothapalli et al., Neural Collapse: A Review on Modelling Principles and Generalization, arXiv 2206.04041",
    "law": "He and Su, A Law of Data Separation in Deep Learning, PNAS 2023, arXiv 2210.17020, on its own setting",
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
    """What one seed gives.

    Attributes:
        value: Whether the statement is right, or a number that is positive where it is; None if there is nothing to test.
        points: What is drawn.
        before: The same without what the statement is about, such as before training: the base rate. None if there is none.
    """

    value: Value | None
    points: tuple[Point, ...] = ()
    before: Value | None = None


@dataclass(frozen=True)
class Experiment:
    """A figure or a statement of a paper as an experiment.

    Attributes:
        name: Paper and item, such as ``pfc:fig2``.
        item: Where it stands in the paper.
        title: What it is about.
        says: What the paper says, in our words.
        tested: What of it is tested on each seed, in words.
        measure: Gives what one seed says.
        panels: Of its figure, in their order.
        seeds: How many the small version takes, so that it ends within ten minutes on two cores.
        needs: Data sets that it needs.
        checks_code: Whether a theorem leaves no choice, so that it tests the code and nothing about networks.
        has_paper_size: Whether it can be run at the paper's size; else the small version is the whole.
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
    has_paper_size: bool = False

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
    """``seed=N.json``: what one seed of an experiment gave, and how.

    Attributes:
        runs: Run directories behind it, from the folder of the experiment.
        seconds: Of computing, with those of the runs, whichever experiment has made them.
        machine: Versions, platform and device.
    """

    seed: int
    value: Value | None
    before: Value | None = None
    points: tuple[Point, ...] = ()
    runs: tuple[str, ...] = ()
    seconds: float = math.nan
    machine: dict[str, str] = field(default_factory=dict)
