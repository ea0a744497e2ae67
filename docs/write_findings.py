"""Write docs/findings.md from docs/ledger.json, which ``python docs/write_claims.py RUNS...`` makes of run directories.

No number is written here: each comes from the ledger. A sentence that interprets a verdict is shown where that is the verdict.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from findings_depth import depth_so_far, listed
from findings_readings import READINGS, chosen_settings, conjecture_elsewhere, facts, law_of_others, named, transport
from findings_tables import cell, depths, falls_with_decay, settings, verdicts

from ncollapse.claims import RULES
from ncollapse.experiments import EXPERIMENTS, PAPERS, recorded, standings
from ncollapse.experiments.page import value_words
from ncollapse.studies import recipe_by_name

DOCS = Path(__file__).parent
LEDGER, PAGE = DOCS / "ledger.json", DOCS / "findings.md"

NEW = """
## What is new

Theorems, each with its proof and a test that breaks if it is false ([theory](theory.md)):

- *Flattening*: PFC2 falls all along the line where the last class means have the singular vectors of the first, and values that
  are more equal in the same order. The transport cost need not be small, and some misalignment is allowed (3.3).
- *PFC1 falls over all layers* of the multilayer model, for any convex loss; the PFC paper leaves this open (5.6).
- *A floor that knows depth and data*, for one linear layer per block, and how fast the excess over the floor without depth can
  fall at best (5.7).
- *Exact optima* of the unconstrained features model with fewer dimensions than targets (5.1).
- *NC0 for every optimizer*: which steps keep the law of the row sums, and which do not (4.3).
- *The flow of class means*, the affine-invariant geodesic, is the path of least squared weights (3.16). As a prediction of PFC2
  it was tested like any other: see the table.
"""

TALLY = {
    "holds": "hold",
    "fails": "fail",
    "depends on the setting": "depend on the setting",
    "undecided": "undecided",
    "not testable here": "not testable",
    "check passed": "passed as a check of the code",
    "check failed": "failed as a check of the code",
}


def tally(rows: Iterable[dict[str, Any]]) -> Counter[str]:
    """Count claims by verdict."""
    return Counter(row["verdict"] for row in rows)


def states_of(found: dict[str, Any], row: str) -> str:
    """Return the verdicts on the three metrics of a row of experiments in a list of words."""
    return listed([f"{found[f'{row}-{name}'].state} for {name.upper()}" for name in ("pfc1", "pfc2", "pfc3")])


def compared(claims: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Say what experiments whose names are like rows of the ledger test, and what those rows do."""
    rows = listed([f"{claims[key]['verdict']} for {key.upper()}" for key in ("pfc1", "pfc2", "pfc3")])
    line, pairing = claims["theorem2_line"], claims["transport_near"]
    return [
        f"`pfc:conj1-*` ({states_of(found, 'pfc:conj1')}) are not the conjecture's rows above. They test whether PFC1, PFC2 "
        "and PFC3 fall over all layers, of `fc_mnist_small`, which separates its classes early. Before the effective depth, "
        f"where the conjecture is about the order of the layers, the ledger has: {rows}. `pfc:conj1-mnist1d-*` "
        f"({states_of(found, 'pfc:conj1-mnist1d')}) test that on MNIST-1D. `pfc:thm2` ({found['pfc:thm2'].state}) tests "
        f"`fc_mnist_small` too; over {line['votes']} settings the row of PFC2 along the straight line is: {line['verdict']}. "
        f"`pfc:prop1` ({found['pfc:prop1'].state}) tests whether the pairing of `fc_mnist_small` is nearly optimal; over "
        f"{pairing['votes']} settings that row is: {pairing['verdict']}."
    ]


def experiments(claims: dict[str, Any]) -> list[str]:
    """Write the experiments' verdicts, which come from the seeds that the package keeps: the rows of docs/reproduced.md."""
    found = standings(recorded(), EXPERIMENTS.values())
    states = Counter(standing.state for standing in found.values())
    said = ", ".join(f"{count} {TALLY.get(state, state)}" for state, count in states.most_common())
    lines = [
        "## Figures and statements, one by one",
        "",
        f"Each is an experiment of one command (`ncollapse reproduce NAME`; [what each tests and how long it takes]"
        f"(reproduced.md)). Of {len(found)}: {said}.",
        "",
        "The rules are in part those of the ledger. The same: each seed counts once, a verdict needs at least "
        f"{RULES.least_draws} seeds, the tests are two-sided, an experiment on training must also do better than before "
        "training where it measured that, the p-values of a paper are corrected after Holm, and intervals are of 95 %. Not "
        "the same: an experiment is about a single setting and says nothing about others; its runs need be neither "
        "stationary nor in the terminal phase unless it says so, and no other bounds of τ are tried; there is no comparison "
        "with layers in random order. Experiments and the rows above are corrected apart.",
        "",
        *(f"{words}\n" for words in compared(claims, found)),
        "| | | verdict | number | seeds |",
        "|---|---|---|---|---|",
    ]
    for name, standing in found.items():
        seeds = standing.row.estimate.n if standing.row else 0
        cells = (f"`{name}`", EXPERIMENTS[name].title, f"**{standing.state}**", value_words(standing), str(seeds))
        lines.append(f"| {' | '.join(item.replace('|', '/') for item in cells)} |")
    return [*lines, "", *(f"- `{source}`: {paper}" for source, paper in PAPERS.items()), ""]


def claims_of(ledger: dict[str, Any]) -> dict[str, Any]:
    """Return the rows of all papers."""
    return dict(sorted((key, row) for part in ledger["papers"].values() for key, row in part["claims"].items()))


def again(ledger: dict[str, Any]) -> list[str]:
    """Write the rows over several settings once more, from runs that were made after the rule on settings."""
    found = ledger.get("again")
    if not found:
        return []
    rows = [(key, row) for key, row in found["claims"].items() if row["votes"] > 1 and "check" not in row["verdict"]]
    claims = claims_of(ledger)
    same = sum(claims[key]["verdict"] == row["verdict"] for key, row in rows)
    repeated = listed([named(name, chosen_settings(ledger)) for sweep in found["sweeps"] for name in sweep["settings"]])
    lines = [
        "## Repeated with new seeds",
        "",
        "The rule on settings was made when all of these seeds had been seen, except for those of Fashion-MNIST, of depth and "
        "of connections. So some settings were run again, with seeds that nobody had used "
        f"({sum(sweep['runs'] for sweep in found['sweeps'])} runs): {repeated}. Of {len(rows)} rows over several settings "
        f"{same} have the same verdict. Fewer settings have a vote here, so that a verdict may differ though no "
        "setting does. The column in the middle has the means of the runs above in these settings alone, which is what the new "
        "runs repeat. The same rules judge all:",
        "",
        "| | runs above | in these settings | new runs |",
        "|---|---|---|---|",
    ]
    for key, row in rows:
        there = [claims[key]["by_setting"][name]["value"] for name in row["by_setting"] if name in claims[key]["by_setting"]]
        mean = math.fsum(there) / len(there)
        own = f"{100 * mean:.3g} %" if row["is_share"] else f"{mean:.3g}"
        lines.append(f"| {row['statement']} | {cell(claims, key)} | {own} | {cell(found['claims'], key)} |")
    return [*lines, "", *before_and_after(found["claims"]["transport_near"]), ""]


def before_and_after(row: dict[str, Any]) -> list[str]:
    """Write in how many seeds of each setting the pairing is nearly optimal, before training and after it."""
    return [
        "Where blocks hardly move the features, any network's own pairing is the best one, so that nearly optimal transport is "
        "a sign of training only in settings without it before training:",
        "",
        "| The network's pairing is nearly optimal, share of seeds | before training | after training |",
        "|---|---|---|",
        *(
            f"| {setting} | {100 * found['before_training']:.3g} % | {100 * found['value']:.3g} % |"
            for setting, found in row["by_setting"].items()
            if found["before_training"] is not None
        ),
    ]


def render(ledger: dict[str, Any]) -> str:
    """Write the page."""
    claims, sweeps = claims_of(ledger), ledger["sweeps"].values()
    runs = sum(sweep["runs"] for sweep in sweeps)
    # Sweeps share settings, such as that of the demo.
    in_settings = len({name for sweep in sweeps for name in sweep["settings"]})
    data, versions = (", ".join(sorted({word for sweep in sweeps for word in sweep[name]})) for name in ("data", "versions"))
    found = tally(claims.values())
    counted = ", ".join(f"{found[verdict]} {words}" for verdict, words in TALLY.items() if found[verdict])
    untested = [row for row in claims.values() if row["why"].startswith("not stationary")]
    filled, demo = facts(ledger, claims), recipe_by_name("demo")
    lines = [
        "# Findings",
        "",
        f"We tested {len(claims)} statements on {runs} runs in {in_settings} settings: {counted}. The networks "
        f"are small. Data: {data}. Software: {versions}.",
        "",
        f"- **Rules**: frozen on {ledger['dated']}, with [dated changes](claims.md#changes-to-the-rules) ([all rules, "
        "every row, the commands](claims.md)). Each seed counts once, and a verdict needs at least "
        f"{RULES.least_draws} seeds. Where a claim has a base rate (the same before training, or layers in random "
        "order), it must do better. The p-values are corrected for all rows of a paper. *Fails*: right in less than "
        "half of the seeds, or a mean below zero. *Undecided*: these seeds do not decide.",
        '- **Numbers**: "x of n" counts the seeds of one setting in which the claim is right, and a percentage is the'
        " mean of that share over several settings. Other numbers are means: a difference of shares for *the order "
        "appears in training*, a rank correlation (Kendall's τ-b) for *weight decay* and for *gradually*, a "
        "difference of straightness for *skip connections*, minus a slope of logarithms with the number of blocks for"
        " *growing depth*, and decades (factors of ten) for all others. *Settings × seeds* counts the settings with a"
        " vote, and the seeds of all. The [ledger](claims.md) says for each row what is tested.",
        "  A rank correlation says how many pairs of decays are in order, not by how much a quantity changes.",
        f"- **Settings**: the *demo* is a fully connected ResNet with {demo.model.num_blocks} blocks of width "
        f"{demo.model.width}, trained on {demo.data.per_class} handwritten digits of each class. Other settings are named by "
        "their recipe (`ncollapse recipes`) and what was changed.",
        f"- **Source**: `docs/write_claims.py` writes the {len(claims)} statements of [Verdicts](#verdicts) from run "
        f"directories (`docs/ledger.json`). The {len(EXPERIMENTS)} rows of [figures and "
        "statements](#figures-and-statements-one-by-one) come from the seeds that `ncollapse reproduce` recorded.",
        "",
        "## Verdicts",
        "",
        "![Claims as dots on a line from no seed to all seeds, with intervals and base rates, a panel for each paper]"
        "(figures/claims_shares.svg)",
        "",
        "*Claims that are right or wrong in a seed: the share of seeds in which they are right.*",
        "",
        "![Claims as dots on both sides of zero, with intervals and base rates, a panel for each paper]"
        "(figures/claims_means.svg)",
        "",
        "*Claims about numbers: their mean, positive where the claim is right, in the units of the list above. The distance "
        "from zero is drawn as its square root, so that small means can be seen beside large ones.*",
        "",
        *verdicts(claims, filled),
        "",
        "Over several settings each has one vote, and the number is the mean of the votes. A row holds if all settings "
        "agree; where the seeds of one find it right and those of another wrong, it depends on the setting. For the claims "
        "of the PFC paper, by setting (**bold**: wrong there by its own seeds, *slanted*: neither right nor wrong, `–`: "
        "nothing to test):",
        "",
        *settings(claims),
        "",
        *depths(ledger),
        *falls_with_decay(ledger),
        *again(ledger),
        *experiments(claims),
        "## What this says",
        "",
        *(f"- {words.format(**filled)}" for key, verdict, words in READINGS if claims[key]["verdict"] == verdict),
        *(
            f"- {words}"
            for words in (transport(ledger, claims), *conjecture_elsewhere(), *law_of_others(), *depth_so_far(claims))
        ),
        *(f"- Deep regularized networks: {why}." for why in dict.fromkeys(row["why"] for row in untested)),
        NEW.rstrip(),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(json.loads(LEDGER.read_text())))
