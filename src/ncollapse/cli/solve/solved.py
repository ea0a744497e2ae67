"""What all models of ``ncollapse solve`` share: their options, and a solution as text, JSON and figure."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ncollapse.cli.options import file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ncollapse.surrogates import Solution

# torch takes seconds to import: every model imports what it needs, so that --help answers at once.


@dataclass(frozen=True)
class Solved:
    """What a model's command found."""

    solution: Solution
    draw: Callable[[], Figure]
    numbers: dict[str, float] = field(default_factory=dict)


def add_model(models: Any, name: str, text: str, call: Callable[[argparse.Namespace], Solved]) -> argparse.ArgumentParser:
    """Add a model and the options that every model has."""
    model: argparse.ArgumentParser = models.add_parser(name, help=text, description=text)
    model.add_argument("--figure", type=file, metavar="FILE", help="also draw the solution, as .png or .svg")
    model.add_argument("--json", action="store_true", help="print an object")
    model.set_defaults(call=lambda options: _report(options, call))
    return model


def gram_figure(solution: Solution) -> Figure:
    """Draw the inner products of class means and of classifier rows."""
    from ncollapse.drawing.surrogates import plot_grams
    from ncollapse.statistics import ClassMoments

    features, weight = solution.variables["features"], solution.variables["weight"]
    means = ClassMoments.from_batch(features, solution.labels, len(weight)).means
    return plot_grams({"class means": (means @ means.T).tolist(), "classifier rows": (weight @ weight.T).tolist()})


def _report(options: argparse.Namespace, call: Callable[[argparse.Namespace], Solved]) -> None:
    """Print and draw; a solver that stopped early is told in the status and by exit code 1."""
    if options.figure is not None and options.figure.suffix not in {".png", ".svg"}:
        raise ValueError(f"--figure needs a name that ends in .png or .svg, got {str(options.figure)!r}.")
    solved = call(options)
    solution, inequality = solved.solution, solved.solution.certificate.inequality
    found = {
        **{"value": solution.value, "lower_bound": solution.certificate.lower_bound, "gap": solution.gap},
        **solved.numbers,
    }
    metrics = solution.metrics()
    if options.json:
        words = {"model": options.model, "status": solution.status, "certified": solution.certified}
        branch = {"text": inequality.text, "left": inequality.left, "right": inequality.right, "holds": inequality.holds}
        print(json.dumps({**words, **_known(found), "inequality": _known(branch), "metrics": _known(metrics)}))
    else:
        print(f"{solution.status}\n{inequality}")
        for name, value in [*found.items(), *metrics.items()]:
            print(f"{name:<28}{value:.12g}")
    if options.figure is not None:
        _write_figure(solved.draw(), options.figure)
    if not solution.converged:
        raise SystemExit(1)


def _write_figure(figure: Figure, path: Path) -> None:
    from ncollapse.drawing.figures import render
    from ncollapse.records.files import write_whole

    write_whole(path, render(figure, path.suffix.removeprefix(".")))


def _known(values: dict[str, Any]) -> dict[str, Any]:
    """JSON has no nan and no infinity."""
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in values.items()}
