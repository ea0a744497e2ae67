"""Write docs/metrics.md from the registry: ``make docs``."""

from pathlib import Path

from ncollapse import FLAGS, METRICS

HEADER = """# Metrics

Made from the registry by `make docs`; the functions' docstrings hold equations and degenerate cases. `measure` reports all but
those that need a scatter matrix: name them in `metrics=[...]`. Metrics of the classifier belong to the layer that feeds it.

| id | what | at collapse | range | needs | unchanged by | source |
|---|---|---|---|---|---|---|
"""


def number(value: float | None) -> str:
    """A bound or a value at collapse, in words where it is none."""
    return "depends on K" if value is None else f"{value:.4g}".replace("inf", "∞")


def render() -> str:
    """The page as Markdown."""
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
    return HEADER + "\n".join(lines) + "\n\n## Flags\n\n" + flags + "\n"


if __name__ == "__main__":
    Path(__file__).with_name("metrics.md").write_text(render())
