"""Write docs/metrics.md from the registry: ``make docs-pages``."""

import inspect
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from metric_formulas import FORMULAS

from ncollapse import METRICS
from ncollapse import metrics as room
from ncollapse.metrics import CORE, Metric

HEADER = """# Metrics

Made from the registry by `make docs-pages`. Each metric has an entry below with its formula. The
functions that compute them are in the [reference](reference/metrics.md). `measure` computes all metrics by default, except

- those that need a d×d scatter matrix: `rank_total` and the other ranks of Σ_T;
- those that repeat another metric on the same data: `separation`, `pfc3_error`, and `strong_collapse` without `reference=`;
- those that hold for the squared loss only: `snc1`, `snc2` and `snc3`;
- estimates for the population that the samples come from, such as `pfc1.population`, `cdnv.low` and `pfc3.leave_one_out`: see
  [sampling noise](sampling.md).

Name these in `metrics=[...]`. The words "core", "all" (all without a scatter matrix and without estimates), "population"
(all estimates) and `Metric` values of your own are allowed there too. A measurement prints its core metrics:
{core}.
Metrics of the classifier belong to the layer that feeds it.

In the formulas h_i are the features of sample i with the class y_i, μ_k the class means, n_k the counts and α_k the class
weights (1/K by default). μ is the global mean and M̄ holds the rows μ_k − μ. W has the rows w_k, b is the bias and z = W h + b
are the logits. E_K is the Gram matrix of a simplex ETF with norm 1. [How to choose](how-to-choose.md) says which metric answers
which question, and [when it refuses](refusals.md#flags) explains the flags.

| id | what | at collapse |
|---|---|---|
"""
_KINDS = {"centers": "final class means", "parts": "four parts of each class", "left_out": "samples left out of their mean"}


def number(value: float | None) -> str:
    """Write a bound or a value at collapse, in words where it is none."""
    return "depends on K" if value is None else f"{value:.4g}".replace("inf", "∞")


def function_of(metric: Metric) -> Callable[..., Any] | None:
    """Find the documented function that the entry calls: in its closure, or the first that its code names."""
    compute = metric.compute
    for cell in compute.__closure__ or ():
        if inspect.isfunction(cell.cell_contents):
            return cell.cell_contents
    spaces = [{**vars(room), **compute.__globals__}]
    for name in compute.__code__.co_names:
        found = spaces[-1].get(name, spaces[0].get(name))
        if isinstance(found, ModuleType):
            spaces.append(vars(found))
        elif inspect.isfunction(found) and not name.startswith("_"):
            return found
    return {"cdnv": room.cdnv, "gnc2": room.hyperspherical_variation}.get(metric.id)


def formula_of(metric: str) -> str:
    """Write the formula of a metric; values of noise and estimates are explained on a page of their own."""
    if metric in FORMULAS:
        return f"$${FORMULAS[metric]}$$"
    return "How it is computed: [sampling noise](sampling.md)."


def entry(metric: Metric) -> str:
    """Write the section of one metric."""
    low, high = metric.bounds
    function = function_of(metric)
    public = function is not None and function.__name__ in room.__all__ and getattr(room, function.__name__) is function
    needs = ", ".join(_KINDS.get(need, need) for need in sorted(metric.needs)) or "class moments"
    flags = sorted(metric.undefined_when | metric.flagged_when | {metric.nan_flag})
    end = "]" if high < float("inf") else ")"
    lines = [
        f"- Range: [{number(low)}, {number(high)}{end}. At collapse: {number(metric.at_collapse)}.",
        f"- Needs: {needs}. Unchanged by {', '.join(sorted(metric.invariant))} of the features.",
        f"- Flags: {', '.join(f'`{flag}`' for flag in flags)}.",
        f"- Source: {metric.reference.replace('docs/sampling.md', '[sampling noise](sampling.md)')}.",
        *([f"- In Python: `ncollapse.metrics.{function.__name__}`."] if public and function else []),
    ]
    start = 0 if "(" in metric.title.split()[0] else 1
    title = metric.title[:start].upper() + metric.title[start:]
    return f"### {metric.id}\n\n{title}.\n\n{formula_of(metric.id)}\n\n" + "\n".join(lines) + "\n"


def slug(metric: str) -> str:
    """Write the anchor of a metric's heading."""
    return metric.replace(".", "")


def render() -> str:
    """Write the page as Markdown."""
    rows = [f"| [{m.id}](#{slug(m.id)}) | {m.title} | {number(m.at_collapse)} |" for m in METRICS.values()]
    entries = "\n".join(entry(metric) for metric in METRICS.values())
    core = ", ".join(f"`{name}`" for name in CORE)
    return HEADER.format(core=core) + "\n".join(rows) + "\n\n## Entries\n\n" + entries


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(render())
