"""Write docs/findings.md from docs/ledger.json, which ``python docs/write_claims.py DIR...`` makes of run directories.

No figure is written here: each comes from the ledger. A sentence that interprets a verdict is shown where that is the verdict.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from ncollapse.experiments import EXPERIMENTS, PAPERS, recorded, standings
from ncollapse.experiments.page import value_words

DOCS = Path(__file__).parent
LEDGER, PAGE = DOCS / "ledger.json", DOCS / "findings.md"

# A question, and the claims that answer it for PFC1, PFC2 and PFC3.
BY_METRIC = (
    ("Falls from layer to layer before the effective depth (Conjecture 1)", "pfc1", "pfc2", "pfc3"),
    ("Falls over all layers", "pfc1_all", "pfc2_all", "pfc3_all"),
    ("The same under the mean squared error", "mse_pfc1", "mse_pfc2", "mse_pfc3"),
    ("The same on random labels", "labels_pfc1", "labels_pfc2", "labels_pfc3"),
    ("The same without skip connections", "plain_pfc1", "plain_pfc2", "plain_pfc3"),
    ("The same with dense connections", "dense_pfc1", "dense_pfc2", "dense_pfc3"),
    ("Falls along the straight line (Theorems 1 to 3)", "theorem1_line", "theorem2_line", "theorem3_line"),
    (
        "The line predicts it better than the baseline, layers at their projection",
        "line_pfc1_projection",
        "line_pfc2_projection",
    ),
    ("The same, layers at their index", "line_pfc1_index", "line_pfc2_index"),
    ("The same under the mean squared error, at their projection", "mse_line_pfc1_projection", "mse_line_pfc2_projection"),
    ("The same without skip connections", "plain_line_pfc1_projection", "plain_line_pfc2_projection"),
    ("The same with dense connections", "dense_line_pfc1_projection", "dense_line_pfc2_projection"),
    ("Weight decay makes that lead larger", "decay_lead_pfc1", "decay_lead_pfc2"),
    ("Weight decay makes the line's error smaller", "decay_line_pfc1", "decay_line_pfc2"),
)
# Of a row over several settings: whether it is the same in each.
BY_SETTING = {
    "pfc1_all": "PFC1 falls",
    "pfc2_all": "PFC2 falls",
    "pfc3_all": "PFC3 falls",
    "pfc2": "PFC2 falls before the effective depth",
    "line_pfc1_projection": "line over baseline, PFC1",
    "line_pfc2_projection": "line over baseline, PFC2",
    "theorem2_line": "PFC2 falls along the line",
    "transport_near": "nearly optimal pairing",
}
SINGLE = (
    ("The order of the layers appears in training", "order"),
    ("No pairing of first and last features is better than the network's own", "transport_exact"),
    ("The network's pairing is nearly optimal", "transport_near"),
    ("The last class means are nearly the optimal rotation of the first", "alignment"),
    ("Weight decay straightens the paths", "decay_straightness"),
    ("Weight decay lowers the kinetic energy", "decay_energy"),
    ("Weight decay brings the energy nearer to that of a straight path", "decay_efficiency"),
    ("Weight decay brings the sum of Wasserstein distances nearer to that of the ends", "decay_detour"),
    ("Skip connections straighten the paths", "skips_straighten"),
    ("A deeper network needs no more of its blocks", "depth"),
    ("The flow of class means predicts PFC2 better than the line", "flow_line"),
    ("The flow of class means predicts PFC2 better than the baseline", "flow_baseline"),
    ("The last layer collapses on random labels", "labels_last"),
    ("The classifier's rows come to sum to zero under SGD (NC0)", "nc0"),
    ("Less closely under Adam", "nc0_optimizer"),
    ("Deeper regularized networks are nearer to the floor of their objective", "deep_excess"),
    ("Depth lowers the objective, against one block with the same λ and steps", "deep_helps_excess"),
    ("Depth helps NC1, against the same", "deep_helps_nc1"),
    ("Depth helps NC2, against the same", "deep_helps_nc2"),
    ("Depth helps NC3, against the same", "deep_helps_nc3"),
)
READINGS = (
    (
        "pfc1",
        "holds",
        "PFC1 progresses as Conjecture 1 says where that can be tested. Most networks separate their classes after a block or "
        "two and test no order; two settings, one on MNIST, were chosen for their effective depth by a rule that never looks "
        "at PFC1 or PFC2 ([how](claims.md)).",
    ),
    (
        "pfc2",
        "undecided",
        "PFC2 is the open part of Conjecture 1: in many of those networks it rises at some layer before the effective depth.",
    ),
    (
        "pfc2_all",
        "undecided",
        "PFC2 falls over all layers in every run of the demo with normalization, and in none without. When all seeds were "
        "counted together, most of them from the demo, the verdict was *holds*. With one vote per setting it is undecided "
        "after the correction.",
    ),
    (
        "pfc2_all",
        "depends on the setting",
        "Whether PFC2 falls over all layers depends on the setting: it does so in the demo with normalization, which "
        "separates its classes at once, and not without.",
    ),
    (
        "plain_line_pfc1_projection",
        "fails",
        "The straight line needs skip connections: without them the baseline predicts better, though PFC1 may fall as before.",
    ),
    (
        "line_pfc2_projection",
        "fails",
        "The straight line describes PFC1. For PFC2 log-linear interpolation between the two ends is the better prediction.",
    ),
    (
        "line_pfc2_projection",
        "depends on the setting",
        "The straight line describes PFC1 in every setting, if layers are placed at their projection. For PFC2 the line is "
        "the better prediction in networks without normalization, and log-linear interpolation between the two ends in "
        "other settings.",
    ),
    (
        "decay_line_pfc1",
        "fails",
        "Weight decay straightens the paths, and makes the line beat the baseline in PFC1; the line's own error grows with it.",
    ),
    (
        "transport_exact",
        "fails",
        "Transport from first to last layer is nearly optimal, not optimal: in most networks some other pairing is better.",
    ),
    (
        "transport_exact",
        "undecided",
        "Transport from first to last layer is exactly optimal in the demo without normalization, and in most other settings "
        "some other pairing is better. Nearly optimal, within the tolerance, it is in six of eight settings, and in no network "
        "of Fashion-MNIST.",
    ),
    (
        "deep_helps_nc1",
        "holds",
        "*Does depth beat its control?* Yes, if all runs are stationary: at one λ and after as many steps, residual "
        "networks of one linear layer per block have a lower objective and smaller NC metrics with several blocks than with "
        "one. These runs round off the kinks of ReLU, because descent on a ReLU network ends on kinks, where no gradient "
        "vanishes ([how](claims.md), `deep:kinks`). "
        "With two linear layers and λ ∝ 1/L, where a deep network collapses more for its smaller λ alone, it is open.",
    ),
    (
        "deep_helps_nc1",
        "not testable here",
        "*Does depth beat its control?* With λ ∝ 1/L a deep network collapses more for its smaller λ alone, so it must beat "
        "one block with the same λ and steps. Claims about optima count stationary runs. Descent on a ReLU network ends on "
        "kinks, where no gradient vanishes, so that none of these counts; with rounded kinks runs become stationary "
        "([how](claims.md), `deep:kinks`).",
    ),
)
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

_NOTHING = {"value": None, "seeds": 0, "stands": ""}
_TALLY = {
    "holds": "hold",
    "fails": "fail",
    "depends on the setting": "depend on the setting",
    "not testable here": "not testable",
    "check passed": "passed as a check of the code",
    "check failed": "failed as a check of the code",
}
_MARKS = {"wrong": "**", "open": "*"}


def value_of(row: dict[str, Any]) -> str:
    """Write the number of a row: a count of seeds, or a mean over settings."""
    if row["value"] is None:
        return ""
    if row["is_share"] and row.get("votes", 1) > 1:
        return f"{100 * row['value']:.3g} %"
    return f"{round(row['value'] * row['seeds'])} of {row['seeds']}" if row["is_share"] else f"{row['value']:.3g}"


def cell(claims: dict[str, Any], key: str) -> str:
    """Write the verdict on a claim with its number."""
    row = claims[key]
    number = "" if row["verdict"] == "not testable here" else value_of(row)
    return f"**{row['verdict'].removesuffix(' here')}** {number}".strip()


def verdicts(claims: dict[str, Any]) -> list[str]:
    """Write both tables."""
    lines = ["| | PFC1 | PFC2 | PFC3 |", "|---|---|---|---|"]
    for words, *keys in BY_METRIC:
        cells = [cell(claims, key) for key in keys]
        lines.append(f"| {' | '.join([words, *cells, *['–'] * (len(lines[0].split('|')) - 3 - len(cells))])} |")
    lines += ["", "| | verdict | interval, 95 % | seeds |", "|---|---|---|---|"]
    for words, key in SINGLE:
        row = claims[key]
        ends = "" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"
        lines.append(f"| {words} | {cell(claims, key)} | {ends} | {row['seeds']} |")
    return lines


def settings(claims: dict[str, Any]) -> list[str]:
    """Write the table of the settings that the claims of the PFC paper rest on."""
    names = dict.fromkeys(name for key in BY_SETTING for name in claims[key]["by_setting"])
    lines = [f"| | {' | '.join(BY_SETTING.values())} |", f"|---|{'---|' * len(BY_SETTING)}"]
    for name in names:
        rows = ({"is_share": claims[key]["is_share"], **claims[key]["by_setting"].get(name, _NOTHING)} for key in BY_SETTING)
        marked = ((_MARKS.get(row["stands"], ""), value_of(row)) for row in rows)
        lines.append(f"| {' | '.join([name, *(f'{mark}{words}{mark}' if words else '–' for mark, words in marked)])} |")
    return lines


def experiments() -> list[str]:
    """Write the experiments' verdicts, which come from the seeds that the package keeps: the rows of docs/reproduced.md."""
    found = standings(recorded(), EXPERIMENTS.values())
    states = Counter(standing.state for standing in found.values())
    said = ", ".join(f"{count} {_TALLY.get(state, state)}" for state, count in states.most_common())
    lines = [
        "## Figures and statements, one by one",
        "",
        f"By the same rules, each an experiment of one command (`ncollapse reproduce NAME`; [what each tests and how long it "
        f"takes](reproduced.md)). Of {len(found)}: {said}.",
        "",
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
    lines = [
        "## Repeated with new seeds",
        "",
        "The rule on settings was made after all of these runs, except for those of Fashion-MNIST and of depth. So four of "
        "the settings were run again: the demo with normalization and without, and the first two of Conjecture 1, "
        f"with seeds that nobody had used ({sum(sweep['runs'] for sweep in found['sweeps'])} runs). Of "
        f"{len(rows)} rows over several settings {same} have the same verdict. Where verdicts differ, fewer settings have a "
        "vote here, so that a disagreement between them is clearer:",
        "",
        "| | runs above | new runs |",
        "|---|---|---|",
    ]
    lines += [f"| {row['statement']} | {cell(claims, key)} | {cell(found['claims'], key)} |" for key, row in rows]
    return [*lines, "", *transport(found["claims"]["transport_near"]), ""]


def transport(row: dict[str, Any]) -> list[str]:
    """Write in how many seeds of each setting the pairing is nearly optimal, before training and after it."""
    return [
        "The new runs test transport before training too. Where blocks hardly move the features, any network's own pairing is "
        "the best one, so that nearly optimal transport is a sign of training only in settings without it before training:",
        "",
        "| The network's pairing is nearly optimal, share of seeds | before training | after training |",
        "|---|---|---|",
        *(
            f"| {setting} | {100 * found['before_training']:.3g} % | {100 * found['value']:.3g} % |"
            for setting, found in row["by_setting"].items()
            if found["before_training"] is not None
        ),
    ]


def conjecture_elsewhere() -> list[str]:
    """Say what the conjecture's test on MNIST-1D gave, which is an experiment and no row of the ledger."""
    name = "pfc:conj1-mnist1d"
    found = standings(recorded(), EXPERIMENTS.values())[name]
    if found.state != "holds":
        return []
    return [
        "- On MNIST-1D, in a network with normalization that was chosen by the same rule, PFC1, PFC2 and PFC3 all progress up "
        f"to the effective depth, in {value_words(found)} seeds (`{name}`). So PFC2 does so on some data and not on other."
    ]


def depth_so_far(claims: dict[str, Any]) -> list[str]:
    """Say what stationary runs show of depth against its control before they are enough for a verdict."""
    rows = {name: claims[f"deep_helps_{name}"] for name in ("excess", "nc1", "nc2", "nc3")}
    if not all(row["seeds"] and row["verdict"] == "not testable here" for row in rows.values()):
        return []
    said = ", ".join(f"{row['value']:.2g} in {name.upper() if name[:2] == 'nc' else name}" for name, row in rows.items())
    seeds, low = min(row["seeds"] for row in rows.values()), min(row["low"] for row in rows.values())
    above = "every interval is above no gain" if low > 0 else "an interval reaches no gain"
    return [
        f"- So far depth beats it: in the {seeds} seeds whose runs are all stationary, by {said} "
        "(decades, one linear layer per block, one λ); "
        f"{above}. A verdict needs more seeds."
    ]


def render(ledger: dict[str, Any]) -> str:
    """Write the page."""
    claims, sweeps = claims_of(ledger), ledger["sweeps"].values()
    runs, in_settings = (sum(sweep[name] for sweep in sweeps) for name in ("runs", "settings"))
    data, versions = (", ".join(sorted({word for sweep in sweeps for word in sweep[name]})) for name in ("data", "versions"))
    counted = [row["verdict"] for row in claims.values()]
    names = ("holds", "fails", "depends on the setting", "undecided", "not testable here", "check passed", "check failed")
    tally = ", ".join(f"{counted.count(name)} {_TALLY.get(name, name)}" for name in names if name in counted)
    untested = [row for row in claims.values() if row["why"].startswith("not stationary")]
    lines = [
        "# Findings",
        "",
        f"We tested {len(claims)} statements on {runs} runs in {in_settings} settings: {tally}. The networks "
        f"are small. Data: {data}. Software: {versions}.",
        "",
        f"- **Rules**: frozen on {ledger['dated']} ([all rules, every row, the commands](claims.md)). Each seed counts once, "
        "and a verdict needs at least twelve seeds. A claim must do better than before training, and than for layers "
        "in random order. The p-values are corrected for all rows of a paper. *Undecided*: these seeds do not decide.",
        '- **Numbers**: "x of n" counts the seeds of one setting in which the claim is right, and a percentage is the mean '
        "of that share over several settings. Other numbers are means: a difference of shares for *the order appears in "
        "training*, a rank correlation (Kendall's τ-b) for *weight decay*, a difference of straightness for *skip "
        "connections*, and decades (factors of ten) for all others. The [ledger](claims.md) says for each row what is tested.",
        "- **Source**: `docs/write_claims.py` writes this page from run directories (`docs/ledger.json`).",
        "",
        "## Verdicts",
        "",
        *verdicts(claims),
        "",
        "Over several settings each has one vote, and the number is the mean of the votes. A row holds if all settings "
        "agree; where the seeds of one find it right and those of another wrong, it depends on the setting. For the claims "
        "of the PFC paper, by setting (**bold**: wrong there by its own seeds, *slanted*: neither right nor wrong, `–`: "
        "nothing to test):",
        "",
        *settings(claims),
        "",
        *again(ledger),
        *experiments(),
        "## What this says",
        "",
        *(f"- {words}" for key, verdict, words in READINGS if claims[key]["verdict"] == verdict),
        *conjecture_elsewhere(),
        *depth_so_far(claims),
        *(f"- Deep regularized networks: {why}." for why in dict.fromkeys(row["why"] for row in untested)),
        NEW.rstrip(),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(json.loads(LEDGER.read_text())))
