"""Write docs/metrics.md from the registry: ``make docs``."""

from pathlib import Path

from ncollapse import FLAGS, METRICS
from ncollapse.metrics import CORE

HEADER = """# Metrics

Made from the registry by `make docs`; the functions' docstrings hold equations and degenerate cases. `measure` computes all
metrics by default, except

- those that need a d×d scatter matrix: `rank_total` and the other ranks of Σ_T;
- those that repeat another metric on the same data: `separation`, `pfc3_error`, and `strong_collapse` without `reference=`;
- those that hold for the squared loss only: `snc1`, `snc2` and `snc3`;
- estimates for the population that the samples come from, such as `pfc1.population`, `cdnv.low` and `pfc3.leave_one_out`: see
  [sampling noise](sampling.md).

Name these in `metrics=[...]`. The words "core", "all" (all without a scatter matrix and without estimates), "population"
(all estimates) and `Metric` values of your own are allowed there too. A measurement prints its core metrics:
{core}.
Metrics of the classifier belong to the layer that feeds it.

| id | what | at collapse | range | needs | unchanged by | source |
|---|---|---|---|---|---|---|
"""


def number(value: float | None) -> str:
    """Write a bound or a value at collapse, in words where it is none."""
    return "depends on K" if value is None else f"{value:.4g}".replace("inf", "∞")


def render() -> str:
    """Write the page as Markdown."""
    lines = []
    for metric in METRICS.values():
        low, high = metric.bounds
        cells = (
            f"`{metric.id}`",
            metric.title,
            number(metric.at_collapse),
            f"[{number(low)}, {number(high)}{']' if high < float('inf') else ')'}",
            ", ".join(sorted(metric.needs)) or "moments",
            ", ".join(sorted(metric.invariant)),
            metric.reference,
        )
        lines.append("| " + " | ".join(cells) + " |")
    flags = "\n".join(f"- `{flag}`: {words}." for flag, words in FLAGS.items())
    return HEADER.format(core=", ".join(f"`{name}`" for name in CORE)) + "\n".join(lines) + "\n\n## Flags\n\n" + flags + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(render())
