"""Write docs/reproduced.md from what the project recorded; with a folder, record its seeds first.

``python docs/write_reproduced.py [reproduced]``
"""

import sys
from collections import Counter
from pathlib import Path

from ncollapse.experiments import EXPERIMENTS, PAPERS, Place, SeedFile, Standing, recorded, standings
from ncollapse.experiments.page import minutes_words, value_words
from ncollapse.experiments.standing import RECORD
from ncollapse.records.json_files import encode
from ncollapse.studies import RECIPES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "reproduced.md"
RECORDED = ROOT / "src" / "ncollapse" / "experiments" / RECORD

_IN_A_TALLY = {
    "holds": "hold",
    "fails": "fail",
    "undecided": "are undecided",
    "check passed": "passed as a check",
    "not run": "were not run",
}
HEADER = """# What is reproduced

Each row is a figure or a statement of one of these papers: its place and title, and in *italics* what the paper says, in our
words. `ncollapse reproduce` lists the same rows, and shows your own runs in place of ours where you have some.

{papers}

{tally}

- **Verdicts** follow the rules of the [ledger](claims.md) in part
  ([what is the same, and what not](findings.md#figures-and-statements-one-by-one)).
  They need twelve seeds, and the rows of one paper are corrected
  together. With fewer seeds a row is *undecided*, and says in how many seeds the statement was right. A *check* tests a
  theorem: if it fails, the code is wrong. It says nothing about networks.
- **Value** is the number of seeds in which the statement is right, or a mean, with its 95 % interval. The page of each command
  says what the number is.
- **Size**: all rows are of the small versions, on {machine}.
- **Time** is that of all seeds of the row, on two cores that up to eight processes shared. One seed of `pfc:fig2` took 3.5
  minutes there, and takes 53 seconds on a core of its own. `ncollapse reproduce NAME` runs fewer seeds by default.

This page is written by `docs/write_reproduced.py` from the seeds that the project ran.

| what | verdict | value | seeds | time | command |
|---|---|---|---|---|---|
"""

SIZES = """
## Recipes

Run by the project, with seeds, hardware and minutes in `ncollapse recipes`: {run}.

**Not run**, because they have the papers' sizes or need data that we do not have: {waiting}.

Not in the table: Table 2 of the review. It lists implementations by others and has nothing to compute.
"""


def record(folder: Path) -> dict[str, tuple[SeedFile, ...]]:
    """Return the seeds of a folder of ``ncollapse reproduce`` without what is drawn, beside those recorded before."""
    place, found = Place(folder), {}
    for name, experiment in EXPERIMENTS.items():
        seeds = place.seeds(experiment) or recorded().get(name, ())
        found[name] = tuple(SeedFile(s.seed, s.value, s.before, seconds=round(s.seconds, 1), machine=s.machine) for s in seeds)
    return {name: seeds for name, seeds in found.items() if seeds}


def row(name: str, standing: Standing) -> str:
    """Write the row of an experiment."""
    item = EXPERIMENTS[name]
    n = 0 if standing.row is None else standing.row.estimate.n
    why = f"<br>{standing.why}" if standing.why else ""
    # With a space that does not break a line.
    minutes = minutes_words(standing.seconds / 60).replace(" ", "\u00a0") if n else "–"
    what = f"**{item.item}**: {item.title}{'' if item.title.endswith('?') else '.'}<br>*{item.says}*"
    cells = (what, standing.state + why, value_words(standing) or "–", n or "–", minutes)
    return f"| {' | '.join(str(cell).replace('|', '/') for cell in cells)} | `ncollapse reproduce {name}` |\n"


def code(name: str) -> str:
    """Write a name as code."""
    return f"`{name}`"


def render() -> str:
    """Write the page."""
    found = standings(recorded(), EXPERIMENTS.values())
    counts = Counter(standing.state for standing in found.values())
    tally = ", ".join(f"{count} {_IN_A_TALLY.get(state, state)}" for state, count in counts.most_common())
    machines = {f"torch {item.machine['torch']} on {item.machine['device']}" for seeds in recorded().values() for item in seeds}
    papers = "\n".join(f"- `{source}`: {paper}" for source, paper in PAPERS.items())
    waiting = [name for name, recipe in RECIPES.items() if "Not run yet" in " ".join(recipe().description.split())]
    run = [name for name in RECIPES if name not in waiting]
    sizes = SIZES.format(run=", ".join(map(code, run)), waiting=", ".join(map(code, waiting)))
    head = HEADER.format(papers=papers, tally=f"Of {len(found)} rows: {tally}.", machine=" and ".join(sorted(machines)))
    return head + "".join(row(name, standing) for name, standing in found.items()) + sizes


if __name__ == "__main__":
    for name in sys.argv[1:]:
        RECORDED.write_bytes(encode(record(Path(name)), indent=False))
    PAGE.write_text(render())
