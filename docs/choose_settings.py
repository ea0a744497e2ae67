"""Choose the settings on which Conjecture 1 is tested, from sweeps of a grid: ``python docs/choose_settings.py DIR...``.

Frozen on 2026-11-29, before the first run of the grid. The conjecture is about the layers before the effective depth. In most
networks that is one step or two, too few to test an order. So settings are chosen in which it is deep. The choice may look at
training accuracy, the weight-decay time, the effective depth (nearest-center errors) and time, never at PFC1, PFC2 or the line:

1. The grid is run with seed 0. A setting is a candidate if the run is in the terminal phase (no training error at the end and
   at an earlier measured epoch, τ ≥ 2) and its effective depth is reached, at 3 blocks or more.
2. Candidates are ordered: first those whose last layer is separable while no earlier one is, then deeper effective depth, then
   less time.
3. In that order they are run with seeds 1 to 4. The first that is a candidate for all five seeds is chosen. After five that are
   not, there is no such setting.
4. The chosen setting is run on twelve seeds never used before, and reported whatever comes: digits 5 to 16, MNIST 17 to 28,
   Fashion-MNIST 29 to 40, MNIST-1D 41 to 52.

The grid of MNIST had no candidate: no network of five blocks has an effective depth above 2, and those without normalization
are not separable at the last layer after 150 epochs. On the same day, having looked at nothing else, the grids of 10 blocks and
300 epochs were added, and the five-block grid of Fashion-MNIST was dropped without a run. Later that day, when this library
could draw MNIST-1D, its grid was added before the first run of it.
"""

import sys
from pathlib import Path
from typing import NamedTuple

from ncollapse.claims.rules import RULES, is_terminal
from ncollapse.records.reading import Run
from ncollapse.records.sweep import read_sweep

_SHAPES = "model.block=double,single model.normalization=none,pre"
_LIGHT = "measure.epochs=[0,75,100,125] measure.transport_samples=0"
_DEEPER = (
    f"--over {_SHAPES} model.width=16,32 --set model.num_blocks=10 train.weight_decay=5e-3 train.epochs=300 data.per_class=200 "
    "measure.epochs=[0,150,200,250] measure.transport_samples=0"
)
GRID = {
    "digits": f"ncollapse sweep demo --over {_SHAPES} model.width=16,32,64 model.num_blocks=5,10 train.weight_decay=3e-3,1e-2 "
    f"--set {_LIGHT} --out runs/choose_digits",
    "mnist": f"ncollapse sweep fc_mnist_small --over {_SHAPES} model.width=32,64,128 train.weight_decay=5e-3,1e-2 "
    f"--set {_LIGHT} data.per_class=200 --out runs/choose_mnist",
    "mnist, deeper": f"ncollapse sweep fc_mnist_small {_DEEPER} --out runs/choose_mnist_10",
    "mnist_1d": f"ncollapse sweep fc_mnist_1d --over {_SHAPES} model.width=64,128 model.num_blocks=5,10 --set {_LIGHT} "
    "--out runs/choose_mnist_1d",
    "fashion_mnist": f"ncollapse sweep fc_fashion_mnist_small {_DEEPER} --out runs/choose_fashion_mnist_10",
}


class Look(NamedTuple):
    """All that the choice may look at."""

    name: str
    terminal: bool
    depth: int
    num_blocks: int
    seconds: float

    @property
    def is_candidate(self) -> bool:
        """Whether the conjecture can be tested on the run."""
        return self.terminal and self.depth >= RULES.least_steps


def look(run: Run) -> Look:
    """Look at a run. A depth that is not reached is 0."""
    found = run.effective_depth
    depth = found.depth if found is not None and found.reached else 0
    return Look(run.path.name, is_terminal(run), depth, len(run.depths) - 1, run.status.seconds or 0.0)


def ordered(looks: list[Look]) -> list[Look]:
    """Put candidates in the order of the rule."""
    candidates = [found for found in looks if found.is_candidate]
    return sorted(candidates, key=lambda found: (found.depth != found.num_blocks, -found.depth, found.seconds))


if __name__ == "__main__":
    for folder in map(Path, sys.argv[1:]):
        looks = [look(item.run) for item in read_sweep(folder, "ends").runs if item.run is not None]
        print(f"{folder.name}: {len(looks)} finished, {len(ordered(looks))} candidates")
        for found in ordered(looks):
            print(f"  effective depth {found.depth} of {found.num_blocks}, {found.seconds:.0f} s: {found.name}")
