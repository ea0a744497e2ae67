"""What docs/findings.md says of regularized networks and their depth: each number comes from docs/ledger.json."""

import re
from collections.abc import Mapping
from typing import Any

from ncollapse.experiments import EXPERIMENTS, recorded, standings

DATA = {"digits": "digits", "mnist": "MNIST", "fashion_mnist": "Fashion-MNIST"}
_METRICS = ("nc1", "nc2", "nc3")
_IN_STEPS = ("fig1-rn1", "fig2-rn1", "fig1-t11", "fig2-t11", "fig1-preln_t11", "fig1-rn2", "fig1-rn2-control")
_APART = (
    "The interval over the settings, as if they were drawn at random, is above zero for all of these, but the settings were "
    "chosen and are few."
)
_ROUNDED = ", normalization rounded within "
_ENDS = {"undecided": "is undecided", "not testable here": "is not testable", "not run": "is not run"}


def listed(words: list[str]) -> str:
    """Join words as a sentence does."""
    return f"{', '.join(words[:-1])} and {words[-1]}" if len(words) > 1 else "".join(words)


def facts_of_depth(ledger: Mapping[str, Any], claims: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the sentence on deep regularized networks says beside its verdict."""
    rows = {name: claims[f"deep_helps_{name}"] for name in ("excess", "nc1", "nc2", "nc3")}
    apart = {name: row["over_settings"] for name, row in rows.items() if row["over_settings"]}
    around = [name.upper() if name[:2] == "nc" else name for name, (low, high) in apart.items() if low <= 0 <= high]
    words = (
        f"The interval over the settings, as if they were drawn at random, includes zero for {listed(around)}: nothing says "
        "that this carries over to other settings."
    )
    named = {"excess": "the objective", "nc1": "NC1", "nc2": "NC2", "nc3": "NC3"}
    smaller = {"excess": "a lower objective", "nc1": "a smaller NC1", "nc2": "a smaller NC2", "nc3": "a smaller NC3"}
    right = {name: sum(found["stands"] == "right" for found in row["by_setting"].values()) for name, row in rows.items()}
    return {
        "deep_verdicts": by_verdict({named[name]: row["verdict"] for name, row in rows.items()}),
        "deep_counts": listed([f"{smaller[name]} in {right[name]} of {rows[name]['votes']} settings" for name in rows]),
        "deep_networks": networks_of_depth(ledger),
        "deep_control": by_verdict({named[name]: claims[f"deep_control_{name}"]["verdict"] for name in _METRICS}),
        "deep_over_settings": words if around else _APART if apart else "",
        **{name.replace("-", "_"): verdicts_on(f"deep:{name}") for name in _IN_STEPS},
    }


def deep_sweeps(ledger: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """List the sweeps of regularized networks over depth, and those of one block with the decays of deeper networks."""
    return [sweep for sweep in ledger["sweeps"].values() if sweep.get("depths")]


def is_second_arm(sweep: Mapping[str, Any]) -> bool:
    """Whether a sweep is of one block with the decays of deeper networks."""
    return "--over train.weight_decay=" in sweep["command"]


def network_of(sweep: Mapping[str, Any]) -> str:
    """Name the network of a sweep over depth, its loss and its data."""
    command = sweep["command"]
    kinds = {"deep_t11": "L-T11", "deep_rn2_small": "L-RN2 with λ ∝ 1/L", "linear_layers=2": "L-RN2"}
    kind = next((kind for word, kind in kinds.items() if word in command), "L-RN1")
    loss = "mean squared error" if "loss=mse" in command else "cross-entropy"
    data = listed([DATA.get(word, word) for word in sweep["data"]])
    width = re.search(r"model\.norm_rounding=(\S+)", command)
    rounded = f"{_ROUNDED}{width[1]}" if width else ""
    return f"{'pre-LN ' if 'norm=pre' in command else ''}{kind}, {data}, {loss}{rounded}"


def networks_of_depth(ledger: Mapping[str, Any]) -> str:
    """Say how many networks the claims that depth helps have, if settings differ in the rounding of a normalization."""
    # The negative control, of two layers per block at one λ, is no setting of these rows.
    found = [network_of(sweep) for sweep in deep_sweeps(ledger) if not is_second_arm(sweep)]
    settings = {name for name in found if not name.startswith("L-RN2,")}
    networks = {name.partition(_ROUNDED)[0] for name in settings}
    if len(networks) == len(settings):
        return ""
    return (
        f"These settings are {len(networks)} combinations of network, data and loss: the others are the same with another "
        "rounding of the normalization, so that they are no independent confirmations."
    )


def by_verdict(states: Mapping[str, str]) -> str:
    """Write verdicts as the end of a sentence, those that are the same together."""
    names: dict[str, list[str]] = {}
    for name, state in states.items():
        names.setdefault(state, []).append(name)
    return listed([f"{_ENDS.get(state, state)} for {listed(same)}" for state, same in names.items()])


def verdict_on(name: str) -> str:
    """Return the verdict on an experiment as the end of a sentence."""
    state = standings(recorded(), EXPERIMENTS.values())[name].state
    return _ENDS.get(state, state)


def verdicts_on(row: str) -> str:
    """Return the verdicts on the metrics of a row of experiments as the end of a sentence."""
    found = standings(recorded(), EXPERIMENTS.values())
    return by_verdict({name.upper(): found[f"{row}-{name}"].state for name in _METRICS})


def depth_so_far(claims: Mapping[str, Any]) -> list[str]:
    """Say what stationary runs show of depth against its control before they are enough for a verdict."""
    rows = {name: claims[f"deep_helps_{name}"] for name in ("excess", "nc1", "nc2", "nc3")}
    if not all(row["seeds"] and row["verdict"] == "not testable here" for row in rows.values()):
        return []
    said = ", ".join(f"{row['value']:.2g} in {name.upper() if name[:2] == 'nc' else name}" for name, row in rows.items())
    seeds, low = min(row["seeds"] for row in rows.values()), min(row["low"] for row in rows.values())
    above = "every interval is above no gain" if low > 0 else "an interval reaches no gain"
    return [
        f"So far depth beats it: in the {seeds} seeds whose runs are all stationary, by {said} "
        "(decades, one linear layer per block, one λ); "
        f"{above}. A verdict needs more seeds."
    ]
