"""Sentences of docs/findings.md that interpret the verdicts: each number comes from docs/ledger.json or a recorded seed."""

import re
from collections.abc import Mapping
from typing import Any

from findings_depth import DATA, by_verdict, facts_of_depth, listed, verdict_on

from ncollapse.experiments import EXPERIMENTS, recorded, standings
from ncollapse.experiments.page import value_words

# What is said of depth, whatever the verdict.
DEPTH_READINGS = (
    "*Does depth beat its control?* The claim that it does {deep_verdicts}. We tested the networks of the table of depths "
    "([Verdicts](#verdicts)), except the negative control. At the same λ and after as many steps, if both runs are "
    "stationary, deeper networks have by their own seeds {deep_counts} than the shallowest. {deep_networks} "
    "{deep_over_settings}",
    "The runs behind this have no trained stem, and round off the kinks of ReLU, because descent on a ReLU network ends on "
    "kinks, where no gradient vanishes ([samples](claims.md#samples-of-depth), `deep:kinks`).",
    "In the paper's negative control, L-RN2 with the same λ for every L, the claim that depth does not improve a metric "
    "{deep_control}.",
    "At equal steps of Adam, with a trained stem, ReLUs, and no condition on the gradient, the statement that a metric "
    "falls with L {fig1_rn1} of L-RN1 on digits (`deep:fig1-rn1-*`) and {fig2_rn1} on MNIST (`deep:fig2-rn1-*`); of L-T11 "
    "it {fig1_t11} on digits (`deep:fig1-t11-*`) and {fig2_t11} on MNIST (`deep:fig2-t11-*`); of pre-LN L-T11 on texts it "
    "{fig1_preln_t11} (`deep:fig1-preln_t11-*`); of L-RN2 with λ ∝ 1/L on MNIST it {fig1_rn2} (`deep:fig1-rn2-*`), and the "
    "statement that depth lowers a metric beside one block with the same λ {fig1_rn2_control} (`deep:fig1-rn2-control-*`). "
    "Which of these differences from stationary runs matters was not tested.",
)
# A claim, its verdict, and what that says; shown where the claim has this verdict. Fields are filled from `facts`.
READINGS = (
    *(
        ("deep_helps_nc1", verdict, words)
        for verdict in ("holds", "depends on the setting", "undecided", "fails")
        for words in DEPTH_READINGS
    ),
    (
        "deep_helps_nc1",
        "not testable here",
        "*Does depth beat its control?* With λ ∝ 1/L a deep network collapses more for its smaller λ alone, so it must beat "
        "one block with the same λ and steps. Claims about optima count stationary runs. Descent on a ReLU network ends on "
        "kinks, where no gradient vanishes, so that none of these counts; with rounded kinks runs become stationary "
        "([how](claims.md), `deep:kinks`).",
    ),
    (
        "pfc1",
        "holds",
        "PFC1 progresses as Conjecture 1 says where that can be tested. Most networks separate their classes in their first "
        "blocks and test no order. So {num_chosen} settings (one each on {chosen}) were chosen for their effective depth by a "
        "rule that never looks at PFC1 or PFC2 ([how](claims.md)). Another one, on MNIST-1D, is an experiment below.",
    ),
    (
        "pfc2",
        "undecided",
        "PFC2 is the open part of Conjecture 1: in the settings that were chosen for it, it falls at every layer before the "
        "effective depth in {pfc2_chosen}.",
    ),
    (
        "pfc2_all",
        "undecided",
        "PFC2 over all layers falls in {pfc2_all_demo} runs of the demo with normalization, whatever the weight decay and the "
        "number of blocks, and in {pfc2_all_unnormalized} of the demo without normalization. In the settings chosen to "
        "separate classes late it falls in {pfc2_all_chosen}. The first rule counted all seeds together and found that it "
        "holds, since most runs were of the demo. With one vote per setting it is undecided.",
    ),
    (
        "pfc2_all",
        "depends on the setting",
        "Whether PFC2 falls over all layers depends on the setting: it does in {pfc2_all_demo} runs of the demo with "
        "normalization, and in {pfc2_all_unnormalized} without. In the settings chosen to separate classes late it falls in "
        "{pfc2_all_chosen}.",
    ),
    (
        "order_gradual",
        "depends on the setting",
        "The layers come to their order in training gradually in {gradual_right} of {gradual_votes} settings: the later the "
        "epoch, the more steps of depth are in order. In {gradual_wrong_named} fewer steps are in order later on.",
    ),
    (
        "plain_line_pfc1_projection",
        "fails",
        "In the demo the straight line needs skip connections: without them the baseline predicts PFC1 better, though it may "
        "fall as before.",
    ),
    (
        "line_pfc2_projection",
        "fails",
        "The straight line describes PFC1. For PFC2 log-linear interpolation between the ends is the better prediction.",
    ),
    (
        "line_pfc2_projection",
        "depends on the setting",
        "The straight line predicts PFC1 better than log-linear interpolation between the ends, in {line_pfc1_right} of "
        "{line_pfc1_votes} settings by their own seeds, if layers are placed at their projection. For PFC2 the line is the "
        "better prediction in {line_pfc2_right} of {line_pfc2_votes} settings ({line_pfc2_right_named}), the interpolation in "
        "{line_pfc2_wrong}, and the seeds do not tell in {line_pfc2_open}.",
    ),
    (
        "decay_energy",
        "holds",
        "Kinetic energy is lower in rank with more weight decay, in the demo: {energy_order}.",
    ),
    (
        "decay_line_pfc1",
        "fails",
        "More weight decay goes with straighter paths. The lead of the line over the baseline in PFC1 ranks with it too: "
        "{lead_order}. The line's own error does not become smaller: {error_order}.",
    ),
    (
        "transport_exact",
        "fails",
        "Transport from first to last layer is not optimal: in most networks some other pairing is better.",
    ),
)
_RECIPES = {"demo": "digits", "fc_mnist_small": "MNIST", "fc_fashion_mnist_small": "Fashion-MNIST"}


def facts(ledger: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return what fills the fields of the sentences."""
    chosen = chosen_settings(ledger)
    decays = swept(ledger, "train.weight_decay")
    data = [DATA.get(word, word) for name in chosen_sweeps(ledger) for word in ledger["sweeps"][name]["data"]]
    pfc2 = {name: row for name, row in claims["pfc2"]["by_setting"].items() if name in chosen}
    groups = {"demo": [], "unnormalized": [], "chosen": []}
    for name, row in claims["pfc2_all"]["by_setting"].items():
        groups["chosen" if name in chosen else "unnormalized" if "normalization=none" in name else "demo"].append((name, row))
    return {
        "num_chosen": len(chosen),
        "chosen": listed(data),
        "pfc2_chosen": listed([f"{in_all([row])} seeds ({data_of(name)})" for name, row in pfc2.items()]),
        "pfc2_all_chosen": listed([f"{in_all([row])} seeds ({data_of(name)})" for name, row in groups["chosen"]]),
        **{f"pfc2_all_{kind}": in_all(row for _, row in groups[kind]) for kind in ("demo", "unnormalized")},
        **{f"line_{metric}_{what}": found for metric in ("pfc1", "pfc2")
           for what, found in standing_of(claims[f"line_{metric}_projection"], chosen).items()},
        **{f"gradual_{what}": found for what, found in standing_of(claims["order_gradual"], chosen).items()},
        "energy_order": in_order(claims["decay_energy"], decays),
        "lead_order": in_order(claims["decay_lead_pfc1"], decays),
        "error_order": in_order(claims["decay_line_pfc1"], decays),
        "depths": listed(swept(ledger, "model.num_blocks")),
        **facts_of_depth(ledger, claims),
    }  # fmt: skip


def chosen_sweeps(ledger: Mapping[str, Any]) -> list[str]:
    """List the sweeps whose settings were chosen for their effective depth."""
    return [name for name in ledger["sweeps"] if name.startswith("conjecture_")]


def chosen_settings(ledger: Mapping[str, Any]) -> list[str]:
    """List the settings that were chosen for their effective depth."""
    return [setting for name in chosen_sweeps(ledger) for setting in ledger["sweeps"][name]["settings"]]


def data_of(setting: str) -> str:
    """Name the data of a setting."""
    recipe = setting.partition(",")[0]
    return _RECIPES.get(recipe, recipe)


def named(setting: str, chosen: list[str]) -> str:
    """Name a setting in a few words."""
    words = f"the network chosen on {data_of(setting)}" if setting in chosen else "the demo"
    if "model.normalization=none" in setting:
        return f"{words} without normalization"
    fields = [] if setting in chosen else [f"`{field}`" for field in setting.split(", ")[1:]]
    return " ".join([words, "with normalization", *fields])


def swept(ledger: Mapping[str, Any], field: str) -> list[str]:
    """List the values of a field over which a sweep of the demo ran."""
    wanted = rf"ncollapse sweep demo .*--over {re.escape(field)}=(\S+)"
    found = [match[1].split(",") for sweep in ledger["sweeps"].values() if (match := re.match(wanted, sweep["command"]))]
    return found[0] if found else []


def in_all(rows: Any) -> str:
    """Count in how many seeds of settings a claim is right."""
    pairs = [(round(row["value"] * row["seeds"]), row["seeds"]) for row in rows]
    return f"{sum(right for right, _ in pairs)} of {sum(seeds for _, seeds in pairs)}"


def in_order(row: Mapping[str, Any], values: list[str]) -> str:
    """Write a mean rank correlation as the number of pairs of values that are in order."""
    pairs = len(values) * (len(values) - 1) // 2
    every = ", the same number in every seed" if row["low"] == row["high"] else " on average"
    return f"of {pairs} pairs of decays {pairs * (1 + row['value']) / 2:.3g} are in order{every}"


def standing_of(row: Mapping[str, Any], chosen: list[str]) -> dict[str, Any]:
    """Count the settings in which a claim is right, wrong or open by their own seeds; name those where it is right."""
    by_kind = {kind: [name for name, found in row["by_setting"].items() if found["stands"] == kind] for kind in _KINDS}
    counts = {kind: len(names) for kind, names in by_kind.items()}
    words = {f"{kind}_named": listed([named(name, chosen) for name in names]) for kind, names in by_kind.items()}
    return {**counts, "votes": row["votes"], **words}


_KINDS = ("right", "wrong", "open")


def transport(ledger: Mapping[str, Any], claims: Mapping[str, Any]) -> str:
    """Say in which settings transport is optimal and nearly so, and where it was so before training."""
    chosen = chosen_settings(ledger)

    def by(key: str, share: float) -> str:
        found = [name for name, row in claims[key]["by_setting"].items() if row["value"] == share]
        return f"{len(found)}{f' ({listed([named(name, chosen) for name in found])})' if 0 < len(found) < _MOST_NAMED else ''}"

    words = (
        f"Transport from first to last layer: of {claims['transport_near']['votes']} settings, the network's pairing is "
        f"nearly optimal in every seed of {by('transport_near', 1)}, and in no seed of {by('transport_near', 0)}. It is "
        f"exactly optimal, so that no pairing is better, in every seed of {by('transport_exact', 1)}."
    )
    before = untrained(ledger, claims, "transport_near")
    always = [named(name, chosen) for name, share in before.items() if share == 1]
    if not always:
        return words
    return (
        f"{words} Before training it is nearly optimal in every seed of {listed(always)}, because blocks hardly move the "
        "features there: so in these it is no sign of training."
    )


_MOST_NAMED = 3
_PFC = ("pfc1", "pfc2", "pfc3")


def untrained(ledger: Mapping[str, Any], claims: Mapping[str, Any], key: str) -> dict[str, float]:
    """Return by setting the share of seeds in which a claim is right before training, where some runs say it."""
    later = ledger.get("again", {"claims": {}})["claims"].get(key, {"by_setting": {}})
    rows = [*later["by_setting"].items(), *claims[key]["by_setting"].items()]
    return {name: row["before_training"] for name, row in rows if row.get("before_training") is not None}


def law_of_others() -> list[str]:
    """Say what a published result of others gave on its own setting."""
    name = "law:fig1"
    found = standings(recorded(), EXPERIMENTS.values())[name]
    return [
        "A result of others on its own setting, the law of data separation (He and Su, PNAS) on Fashion-MNIST: that the "
        f"logarithm of the separation falls linearly over the layers {verdict_on(name)}, in {value_words(found)} seeds "
        f"(`{name}`)."
    ]


def conjecture_elsewhere() -> list[str]:
    """Say what the conjecture's test on MNIST-1D gave, which is an experiment and no row of the ledger."""
    stands = standings(recorded(), EXPERIMENTS.values())
    found = {metric.upper(): stands[f"pfc:conj1-mnist1d-{metric}"] for metric in _PFC}
    said = listed([f"{metric} in {value_words(item)}" for metric, item in found.items()])
    reasons = "".join(f" ({metric}: {item.why})" for metric, item in found.items() if item.why)
    return [
        "On MNIST-1D, in a network with normalization that was chosen by the same rule, the metrics progress up to the "
        f"effective depth: {said} seeds (`pfc:conj1-mnist1d-*`). The conjecture "
        f"{by_verdict({metric: item.state for metric, item in found.items()})} there{reasons}. The settings that were "
        "chosen by this rule differ in data, width, block and normalization at once, so that they do not tell on which of "
        "these the fall of PFC2 depends."
    ]
