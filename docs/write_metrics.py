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

Each metric has an entry below with its formula, range and flags. [How to choose](how-to-choose.md) says which metric
answers which question. The functions that compute them are in the [reference](reference/metrics.md). `make docs-pages`
writes this page from the code.

`measure` computes all metrics by default, except

- those that need a d×d scatter matrix: `rank_total` and the other ranks of Σ_T;
- those that repeat another metric on the same data: `separation`, `pfc3_error`, and `strong_collapse` without `reference=`;
- those that hold for the squared loss only: `snc1`, `snc2` and `snc3`;
- those that compare with another frame than the simplex ETF: `pfc2_tight_frame`, `pfc2_orthoplex`, `pfc2_seli` and
  `softmax_code`, for [more classes than dimensions](how-to-choose.md#more-classes-than-dimensions) and unequal counts;
- estimates for the population that the samples come from, such as `pfc1.population`, `cdnv.low` and `pfc3.leave_one_out`: see
  [sampling noise](sampling.md).

To get these too, name them in `metrics=[...]`. The list may also hold `Metric` values of your own and three words: "core",
"all" (all without a scatter matrix and without estimates) and "population" (all estimates). A measurement prints its core
metrics:
{core}.
Metrics of the classifier belong to the layer that feeds it.

**Symbols.** h_i are the features of sample i and y_i its class. K is the number of classes, N the number of samples and d
the dimension of the features. μ_k are the class means, n_k the counts and α_k the class weights (1/K by default). μ is the
global mean, and M̄ has the rows μ_k − μ. Σ_W, Σ_B and Σ_T are the covariances within classes, between classes and in total
([formulas, 1.1](theory.md#1-statistics)), and ⁺ is the pseudo-inverse. SS_w and SS_b are Σ_W and Σ_B with the weights
n_k/N. W has the rows w_k, b is the bias, and z = W h + b are the logits. E_K is the Gram matrix of a simplex ETF, divided
by its norm. λ are eigenvalues, the largest first, and ε is 10 d times the rounding of float64. For `snc1` to `snc3` n is
the number of samples per class. G has the entries ⟨μ_k − μ, μ_l − μ⟩, and P_r projects on its r leading eigenvectors. T_σ is
the Gram matrix of an orthoplex whose antipodal pairs are those of the matching σ, D has the counts on its diagonal, and Π_K =
I − 11ᵀ/K. ρ* is the largest possible value of the minimum. "tr" in an exponent marks the training set.

**Needs.** *Class moments* are counts, class means and variances: one pass over the data. *Final class means*: the features
are looked at again when all class means are known; they are kept in memory for this, or read a second time. *Scatter* is a
d×d matrix. *Four parts of each class* are class moments of four interleaved subsets of its samples.

**Flags** qualify a value, or say why it is nan. [When it refuses](refusals.md#flags) explains each one. Where noise of the
class means can matter, `undersampled` marks values that are mostly noise. It is not repeated in the entries.

| id | what | at collapse |
|---|---|---|
"""
_KINDS = {"centers": "final class means", "parts": "four parts of each class", "left_out": "samples left out of their mean"}


def number(value: float) -> str:
    """Write a bound or a value at collapse."""
    return f"{value:.4g}".replace("inf", "∞")


def collapsed(metric: Metric) -> str:
    """Write the value at collapse, which is K − 1 for ranks of a simplex ETF."""
    if metric.at_collapse is not None:
        return number(metric.at_collapse)
    if metric.id == "hyperspherical_energy":
        return "−½ log(2K/(K−1))"
    if metric.id == "pfc2_orthoplex":
        return "√(2 − √(2K/(K−1))) at a simplex ETF, 0 at an orthoplex"
    return "no value of its own" if metric.id.endswith(".noise") else "K − 1"


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
    kinds = sorted(metric.invariant)
    flags = sorted(metric.undefined_when | metric.flagged_when | {metric.nan_flag})
    end = "]" if high < float("inf") else ")"
    lines = [
        f"- Range: [{number(low)}, {number(high)}{end}. At collapse: {collapsed(metric)}.",
        f"- Needs: {needs}. Unchanged by {' and '.join(filter(None, [', '.join(kinds[:-1]), kinds[-1]]))} of the features.",
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
    rows = [f"| [{m.id}](#{slug(m.id)}) | {m.title} | {collapsed(m)} |" for m in METRICS.values()]
    entries = "\n".join(entry(metric) for metric in METRICS.values())
    core = ", ".join(f"`{name}`" for name in CORE)
    return HEADER.format(core=core) + "\n".join(rows) + "\n\n## Entries\n\n" + entries


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(render())
