"""The tables of docs/findings.md: verdicts on every claim, by setting, and numbers by depth."""

import math
from collections.abc import Mapping
from typing import Any

from findings_depth import deep_sweeps, is_second_arm, network_of

# A statement, and the claims that test it for PFC1, PFC2 and PFC3.
BY_METRIC = (
    ("Falls from layer to layer before the effective depth (Conjecture 1)", "pfc1", "pfc2", "pfc3"),
    ("Falls over all layers", "pfc1_all", "pfc2_all", "pfc3_all"),
    ("Falls over all layers: mean squared error", "mse_pfc1", "mse_pfc2", "mse_pfc3"),
    ("Falls over all layers: random labels", "labels_pfc1", "labels_pfc2", "labels_pfc3"),
    ("Falls over all layers: no skip connections", "plain_pfc1", "plain_pfc2", "plain_pfc3"),
    ("Falls over all layers: dense connections", "dense_pfc1", "dense_pfc2", "dense_pfc3"),
    ("Falls along the straight line (Theorems 1 to 3)", "theorem1_line", "theorem2_line", "theorem3_line"),
    ("Line better than the baseline, layers at their projection", "line_pfc1_projection", "line_pfc2_projection"),
    ("Line better than the baseline, layers at their index", "line_pfc1_index", "line_pfc2_index"),
    ("Line better, at the projection: mean squared error", "mse_line_pfc1_projection", "mse_line_pfc2_projection"),
    ("Line better, at the projection: no skip connections", "plain_line_pfc1_projection", "plain_line_pfc2_projection"),
    ("Line better, at the projection: dense connections", "dense_line_pfc1_projection", "dense_line_pfc2_projection"),
    ("Lead of the line over the baseline ranks with weight decay", "decay_lead_pfc1", "decay_lead_pfc2"),
    ("Smaller error of the line ranks with weight decay", "decay_line_pfc1", "decay_line_pfc2"),
)
# Of a row over several settings: whether it is the same in each.
BY_SETTING = {
    "pfc1_all": "PFC1 falls",
    "pfc2_all": "PFC2 falls",
    "pfc3_all": "PFC3 falls",
    "pfc2": "PFC2 falls before the effective depth",
    "order_gradual": "order appears gradually",
    "line_pfc1_projection": "line over baseline, PFC1",
    "line_pfc2_projection": "line over baseline, PFC2",
    "theorem2_line": "PFC2 falls along the line",
    "transport_near": "nearly optimal pairing",
}
# Fields are filled from `findings_readings.facts`.
SINGLE = (
    ("The order of the layers appears in training", "order"),
    ("It appears gradually: more steps are in order later in training", "order_gradual"),
    ("No pairing of first and last features is better than the network's own", "transport_exact"),
    ("The network's pairing is nearly optimal", "transport_near"),
    ("The last class means are nearly the optimal rotation of the first", "alignment"),
    ("Straightness of the paths ranks with weight decay", "decay_straightness"),
    ("Lower kinetic energy ranks with weight decay", "decay_energy"),
    ("Energy nearer to that of a straight path ranks with weight decay", "decay_efficiency"),
    ("Shorter detour in Wasserstein distance ranks with weight decay", "decay_detour"),
    ("Skip connections straighten the paths", "skips_straighten"),
    ("A deeper network needs no more of its blocks, if it needs several (digits, {depths} blocks)", "depth"),
    ("The flow of class means predicts PFC2 better than the line", "flow_line"),
    ("The flow of class means predicts PFC2 better than the baseline", "flow_baseline"),
    ("The last layer collapses on random labels", "labels_last"),
    ("The classifier's rows come nearer to a sum of zero under SGD (NC0)", "nc0"),
    ("Less closely under Adam (NC0)", "nc0_optimizer"),
    ("Growing depth brings the objective nearer to its floor", "deep_excess"),
    ("Growing depth brings features nearer to the minimizers there", "deep_distance"),
    ("Growing depth lowers NC1, one linear layer per part or λ ∝ 1/L", "deep_nc1"),
    ("Growing depth lowers NC2, one linear layer per part or λ ∝ 1/L", "deep_nc2"),
    ("Growing depth lowers NC3, one linear layer per part or λ ∝ 1/L", "deep_nc3"),
    ("Depth lowers the objective, against the shallowest with the same λ and steps", "deep_helps_excess"),
    ("Depth lowers NC1, against the same network", "deep_helps_nc1"),
    ("Depth lowers NC2, against the same network", "deep_helps_nc2"),
    ("Depth lowers NC3, against the same network", "deep_helps_nc3"),
    ("Negative control (L-RN2, constant λ): depth does not lower NC1", "deep_control_nc1"),
    ("Negative control (L-RN2, constant λ): depth does not lower NC2", "deep_control_nc2"),
    ("Negative control (L-RN2, constant λ): depth does not lower NC3", "deep_control_nc3"),
)
DEPTH_COLUMNS = {
    "excess/λ": "excess / λ",
    "excess/floor": "excess / GUFM\\*",
    "pfc1": "NC1",
    "nc2_etf_weights": "NC2",
    "nc3_cosine": "NC3",
}
# What falls with L, by the columns of the table of depths.
_FALLING = {"excess/λ": "excess", "pfc1": "NC1", "nc2_etf_weights": "NC2", "nc3_cosine": "NC3"}
_NOTHING = {"value": None, "seeds": 0, "stands": ""}
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


def interval(row: dict[str, Any]) -> str:
    """Write the interval of a row; where the seeds of each setting all give the same number there is none."""
    if row["low"] is None:
        return "–"
    return "no spread" if row["low"] == row["high"] else f"{row['low']:.3g} to {row['high']:.3g}"


def verdicts(claims: dict[str, Any], filled: dict[str, Any]) -> list[str]:
    """Write both tables."""
    lines = ["| | PFC1 | PFC2 | PFC3 |", "|---|---|---|---|"]
    for words, *keys in BY_METRIC:
        cells = [cell(claims, key) for key in keys]
        lines.append(f"| {' | '.join([words, *cells, *['–'] * (len(lines[0].split('|')) - 3 - len(cells))])} |")
    heads = ["", "verdict", "interval, 95 %", "lowest and highest setting", "p, corrected", "settings × seeds"]
    lines += ["", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for words, key in SINGLE:
        row = claims[key]
        p_value = f"{row['p']:.2g}" if row.get("p") is not None else "–"
        lines.append(
            f"| {words.format(**filled)} | {cell(claims, key)} | {interval(row)} | {between_settings(row)} | {p_value} | "
            f"{row['votes']}, {row['seeds']} |"
        )
    return lines


def between_settings(row: dict[str, Any]) -> str:
    """Write the lowest and the highest number of the settings with a vote."""
    votes = [found["value"] for found in row["by_setting"].values() if found["stands"]]
    if len(votes) < 2:
        return "–"
    low, high = (f"{100 * end:.3g}" if row["is_share"] else f"{end:.3g}" for end in (min(votes), max(votes)))
    return f"{low} to {high}{' %' if row['is_share'] else ''}"


def settings(claims: dict[str, Any]) -> list[str]:
    """Write the table of the settings that the claims of the PFC paper rest on."""
    names = dict.fromkeys(name for key in BY_SETTING for name in claims[key]["by_setting"])
    lines = [f"| | {' | '.join(BY_SETTING.values())} |", f"|---|{'---|' * len(BY_SETTING)}"]
    for name in names:
        rows = ({"is_share": claims[key]["is_share"], **claims[key]["by_setting"].get(name, _NOTHING)} for key in BY_SETTING)
        marked = ((_MARKS.get(row["stands"], ""), value_of(row)) for row in rows)
        lines.append(f"| {' | '.join([name, *(f'{mark}{words}{mark}' if words else '–' for mark, words in marked)])} |")
    return lines


def depths(ledger: dict[str, Any]) -> list[str]:
    """Write what the sweeps over depth say at every depth, and how near to its floor the objective comes."""
    heads = ["network", "L", "λ", "stationary runs", *DEPTH_COLUMNS.values()]
    lines = [f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"]
    for sweep in deep_sweeps(ledger):
        for row in sweep["depths"]:
            numbers = ("–" if row[key] is None else f"{row[key]:.3g}" for key in DEPTH_COLUMNS)
            place = f"{network_of(sweep)} | {row['blocks']} | {row['decay']:g}"
            lines.append(f"| {place} | {row['stationary']} of {row['runs']} | {' | '.join(numbers)} |")
    return [
        "Depth of regularized networks, at stationary points, as medians over the stationary runs. The *excess* is that of the "
        "objective over its floor GUFM\\*, the minimum of the generalized unconstrained features model. It is shown over λ and "
        "over GUFM\\*. Where λ falls with L, one block with the λ of each depth shows what λ does alone:",
        "",
        *lines,
        "",
    ]


def falls_with_decay(ledger: Mapping[str, Any]) -> list[str]:
    """Write the table of how much metrics fall from the shallowest to the deepest network, in all and at equal λ."""
    lines = []
    for arm in filter(is_second_arm, deep_sweeps(ledger)):
        network = network_of(arm)
        (deep,) = (s["depths"] for s in deep_sweeps(ledger) if network_of(s) == network and not is_second_arm(s))
        first, last = deep[0], deep[-1]
        alone = next(row for row in arm["depths"] if math.isclose(row["decay"], last["decay"]))
        for words, start in (("in all", first), (f"from one block with the λ of L = {last['blocks']}", alone)):
            numbers = " | ".join(f"{_decades(key, start, last):.2f}" for key in _FALLING)
            lines.append(f"| {network} | {first['blocks']} to {last['blocks']} | {words} | {numbers} |")
    if not lines:
        return []
    heads = ["network", "L", "fall", *_FALLING.values()]
    return [
        "Where λ ∝ 1/L, a part of the fall comes with the smaller λ alone. The fall in decades (factors of ten) of the medians "
        "above; the excess is not divided by λ here:",
        "",
        f"| {' | '.join(heads)} |",
        f"|{'---|' * len(heads)}",
        *lines,
        "",
    ]


def _decades(key: str, above: Mapping[str, Any], below: Mapping[str, Any]) -> float:
    """Return by how many decades a quantity of one row of the table is below that of another; of excess/λ, the excess."""
    factors = (row["decay"] if key == "excess/λ" else 1.0 for row in (above, below))
    high, low = (row[key] * factor for row, factor in zip((above, below), factors, strict=True))
    return math.log10(high / low)
