"""Write docs/records.md and the marked figures of other pages from docs/records.json: ``make docs-pages``.

A figure is marked by comments around it: ``<!--ratio ROW: NAME-->1.1<!--/-->``. Besides ``ratio`` there are ``times`` (one over
the ratio), ``seconds ROW: CALL`` and ``peak ROW: CALL``.
"""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "docs" / "records.json"
# Pages with marked figures.
PAGES = ("README.md", "docs/comparison.md", "docs/how-to-choose.md", "docs/surrogates.md")
MARK = re.compile(r"<!--(ratio|times|seconds|peak) (\w+): ([^>]+?)-->(.*?)<!--/-->", flags=re.DOTALL)

HEADER = """# Records

How much time and memory the library takes beside simple rivals. `make bench` measures all rows again, except those that take
minutes, and `make bench ROWS="NAME NAME"` those that you name; `make docs-pages` writes this page. Machine: {machine}.

Each row is one process, which runs all of its calls in turn, several times.

- **Time ratio**: the time of what is *measured* over the time of what it is measured *against*; below 1 it is faster. It is
  the median over pairs of calls, with the smallest and the largest ratio in brackets. *Goal* is the ratio that we aimed for.
- **Seconds**: medians of CPU time with one thread. With two threads the ratios are of wall time.
- **MiB**: how much the process grew during our call, as the operating system reports it. Features in memory do not count.
- **Load**: the number of processes that wanted to run when the row began. If there are more than cores, they share caches, and
  the ratios are more reliable than the seconds.
- **Commit**: the state of the code; `+` means with changes that were not committed yet.

The rivals are in `benchmarks/rivals.py`. *limit* is the one matrix product that every method needs, in float32. *by hand* is
what a user writes in a few lines, with fewer metrics and without protection against rounding. *as published* does what
published codes do: three loops over batches of 128, a d×d covariance with its pseudo-inverse, and differences of all pairs of
classes. The rivals of surrogate models know the minimum and stop as soon as they are near it; ours ends with a certificate.

On a GPU, `python benchmarks/gpu.py` checks values and cost. It was not run on one yet, so this page has no figures of a GPU.

| command | work | measured | against | time ratio | goal | seconds | others, s | MiB | load | commit |
|---|---|---|---|---|---|---|---|---|---|---|
"""


def number(value: float) -> str:
    """Write three digits."""
    return f"{value + 0.0:.3g}" if value < 1000 else f"{value:,.0f}"


def lines(name: str, row: dict[str, Any]) -> list[str]:
    """Write the lines of one row of the table, one for each ratio."""
    found = []
    # A row that compares nothing has a line for each of our calls.
    alone = [call for call in row["cpu"] if call == "ours" or "ours" not in row["cpu"]]
    for item in row["ratios"].values() or [{"ours": call, "against": "", "ratio": None} for call in alone]:
        own = item["ours"]
        others = ", ".join(f"{call} {number(value)}" for call, value in row["cpu"].items() if call != own) if not found else "″"
        ratio, wanted = "", "–"
        if item["ratio"] is not None:
            low, high = item["spread"]
            ratio = f"**{number(item['ratio'])}** ({number(low)} to {number(high)})"
        if item.get("wanted"):
            wanted = f"≤ {item['wanted']:g}: {'reached' if item['ratio'] <= item['wanted'] else 'missed'}"
        peak = number(row["peak_mib"][own]) if own in row["peak_mib"] else ""
        work = f"{row['title']}{', 2 threads' if row['threads'] == 2 else ''}" if not found else "″"
        cells = [
            "″" if found else f"`make bench ROWS={name}`",
            work,
            own,
            item["against"],
            ratio,
            wanted,
            number(row["cpu"][own]),
            others,
            peak,
            row["load"],
            row["commit"],
        ]
        found.append(f"| {' | '.join(map(str, cells))} |")
    return found


def figure(records: dict[str, Any], kind: str, row: str, name: str) -> str:
    """Write a marked figure."""
    found = records["rows"][row]
    if kind in {"ratio", "times"}:
        ratio = found["ratios"][name]["ratio"]
        return number(ratio if kind == "ratio" else 1 / ratio)
    return number(found["cpu" if kind == "seconds" else "peak_mib"][name])


def render(path: Path = RECORDS) -> dict[Path, str]:
    """Return the text of every page."""
    records = json.loads(path.read_text())
    machine = records["machine"]
    words = f"{machine['processor']}, {machine['cores']} cores, Python {machine['python']}, torch {machine['torch']}"
    table = [line for name, row in records["rows"].items() for line in lines(name, row)]
    texts = {ROOT / "docs" / "records.md": HEADER.format(machine=words) + "\n".join(table) + "\n"}

    def marked(match: re.Match[str]) -> str:
        kind, row, name, _ = match.groups()
        return f"<!--{kind} {row}: {name}-->{figure(records, kind, row, name)}<!--/-->"

    return texts | {ROOT / page: MARK.sub(marked, (ROOT / page).read_text()) for page in PAGES}


if __name__ == "__main__":
    for path, text in render().items():
        path.write_text(text)
