"""The main findings of a run as cells, to set runs side by side."""

from typing import NamedTuple

from ncollapse.drawing.theory_sentences import compare_errors
from ncollapse.drawing.wording import listed, number, percent
from ncollapse.records.depth import EffectiveDepth
from ncollapse.records.reading import Run

SHORT = {"pfc1": "PFC1", "pfc2": "PFC2", "pfc3_error": "nearest-center error"}


class Finding(NamedTuple):
    """One cell of the comparison between runs: what it is about, the value, and a remark (may be empty)."""

    name: str
    value: str
    remark: str


def findings(run: Run, position: str = "projection") -> list[Finding]:
    """Say what the run found at its last measured epoch in a few cells."""
    last = run.last
    straight = last.straightness.mean if last.straightness else None
    efficiency = last.energy.efficiency if last.energy else None
    accuracy = _accuracy_cell(run)
    cells = [_progression_cell(run, metric) for metric in SHORT]
    if not run.has_depth:
        return [accuracy, *cells]
    cells += [
        Finding("Effective depth", *depth_cell(run.effective_depth)),
        Finding("Straightness", number(straight), f"energy efficiency {number(efficiency)}"),
    ]
    for metric in ("pfc1", "pfc2"):
        line, baseline = run.prediction_errors(metric, position)
        has_interior = len(run.layers) > 2
        value = f"{number(line)} decades" if has_interior else "–"
        said = (
            f"baseline {number(baseline)}: {compare_errors(line, baseline)}"
            if has_interior
            else "no layer between first and last"
        )
        cells.append(Finding(f"{SHORT[metric]}: error of the straight line", value, said))
    part = part_followed(run)
    return [accuracy, *(cell._replace(remark="; ".join(filter(None, (cell.remark, part)))) for cell in cells)]


def part_followed(run: Run) -> str:
    """Say which of the measured layers the path runs through, if not all of the network."""
    if run.layers in {run.measured_layers, run.measured_layers[:-1]}:
        return ""
    return f"{len(run.layers)} of {len(run.measured_layers)} layers, {run.layers[0]} to {run.layers[-1]}"


def held_out_accuracy(run: Run) -> float | None:
    """Return the test accuracy of a training that measured it."""
    return None if run.is_measured_only else run.value("accuracy", len(run.measured_layers) - 1, split="test")


def _accuracy_cell(run: Run) -> Finding:
    perfect = run.status.first_perfect_epoch
    remark = f"perfect at no measured {run.unit}" if perfect is None else f"first perfect at measured {run.unit} {perfect}"
    remark += "" if (held := held_out_accuracy(run)) is None else f"; {percent(held)} on test"
    return Finding(
        "Train accuracy", percent(run.status.train_accuracy), "measured, not trained here" if run.is_measured_only else remark
    )


def _progression_cell(run: Run, metric: str) -> Finding:
    values, progression = run.over_depth(metric), run.last.progression.get(metric)
    name = SHORT[metric].replace("nearest", "Nearest")
    value = f"{number(values[0])} → {number(values[-1])}"
    if not run.has_depth:
        return Finding(name, value, "first and last layer")
    if progression is None or any(item is None for item in values):
        return Finding(name, value, "undefined at some layer")
    rises = progression.violations
    into = f"rises into layer{'s' if len(rises) > 1 else ''} {listed(list(rises))}"
    return Finding(name, value, into if rises else "never rises over depth")


def depth_cell(item: EffectiveDepth | None) -> tuple[str, str]:
    """Return the effective depth and its threshold in words."""
    if item is None:
        return "undefined", ""
    return (str(item.depth) if item.reached else "not reached"), f"nearest-center error at most {number(item.epsilon)}"
