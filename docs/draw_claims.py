"""Draw the verdicts of docs/ledger.json for docs/findings.md: ``make docs-pages`` (claims_shares.svg, claims_means.svg)."""

import json
import math
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from findings_readings import facts
from findings_tables import BY_METRIC, SINGLE
from write_findings import LEDGER, claims_of

FIGURES = Path(__file__).with_name("figures")
INK, SOFT, GRID = "#1f2430", "#5f6673", "#d5d9e1"
COLORS = {"holds": "#0072b2", "fails": "#d55e00", "depends on the setting": "#009e73", "undecided": "#5f6673"}
SHUFFLED = "layers in random order"
# Base rates: chance, and the same without what is claimed, such as before training.
SIGNS = {"before training, or without the cause": "▽", SHUFFLED: "×"}
LEFT, RIGHT, WIDTH, ROW, TOP = 500, 24, 960, 20, 66


class Axis:
    """The horizontal axis: shares from 0 to 100 %, or means whose distance from 0 is drawn as its square root."""

    def __init__(self, is_share: bool) -> None:
        self.is_share = is_share
        self.ticks = [0.0, 0.25, 0.5, 0.75, 1.0] if is_share else [-1.0, -0.25, 0.0, 0.25, 1.0, 2.0, 3.0]
        self.middle = 0.5 if is_share else 0.0
        self.ends = (-0.03, 1.03) if is_share else (self.scaled(-1.1), self.scaled(3.4))

    def scaled(self, value: float) -> float:
        """Return the place of a number before it is fitted to the picture."""
        return value if self.is_share else math.copysign(math.sqrt(abs(value)), value)

    def place(self, value: float) -> float:
        """Return the place of a number in the picture; what lies outside is drawn at the edge."""
        low, high = self.ends
        part = (min(max(self.scaled(value), low), high) - low) / (high - low)
        return round(LEFT + part * (WIDTH - LEFT - RIGHT), 1)

    def words(self, value: float) -> str:
        """Write a tick."""
        return f"{100 * value:.0f} %" if self.is_share else f"{value:g}".replace("-", "−")


def labels(ledger: dict[str, Any]) -> dict[str, str]:
    """Return the rows of the tables of docs/findings.md by claim: what is stated, in a few words."""
    filled = facts(ledger, claims_of(ledger))
    metrics = {key: f"PFC{i + 1}: {words[0].lower()}{words[1:]}" for words, *keys in BY_METRIC for i, key in enumerate(keys)}
    return metrics | {key: words.format(**filled) for words, key in SINGLE}


def text(x: float, y: float, words: str, color: str = INK, extra: str = "") -> str:
    """Draw a line of text."""
    return f'<text x="{x}" y="{y}" fill="{color}"{extra}>{escape(words)}</text>'


def mark(x: float, y: float, verdict: str) -> str:
    """Draw the mark of a verdict, which differs in form as well as in color."""
    color = COLORS.get(verdict, INK)
    if verdict == "fails":
        return f'<rect x="{x - 4.5}" y="{y - 4.5}" width="9" height="9" fill="{color}"/>'
    if verdict == "depends on the setting":
        return f'<path d="M{x} {y - 6}L{x + 6} {y}L{x} {y + 6}L{x - 6} {y}Z" fill="{color}"/>'
    return f'<circle cx="{x}" cy="{y}" r="5" fill="{"#ffffff" if verdict == "undecided" else color}" stroke="{color}"/>'


def row(y: float, label: str, claim: dict[str, Any], axis: Axis) -> list[str]:
    """Draw one claim: its words, base rates, interval and mark."""
    color = COLORS.get(claim["verdict"], INK)
    middle = ' text-anchor="middle"'
    parts = [text(LEFT - 14, y + 4, label, extra=' text-anchor="end"')]
    if claim["low"] is not None:
        low, high = axis.place(claim["low"]), axis.place(claim["high"])
        parts.append(f'<path d="M{low} {y}H{high}" stroke="{color}" stroke-width="2.5"/>')
    parts.append(mark(axis.place(claim["value"]), y, claim["verdict"]))
    bases = claim.get("bases", {}).items()
    return parts + [text(axis.place(base), y + 4, "×" if name == SHUFFLED else "▽", INK, middle) for name, base in bases]


def panel(y: float, title: str, rows: list[tuple[str, dict[str, Any]]], axis: Axis) -> list[str]:
    """Draw the claims of a paper below its name, on an axis of their own."""
    end = y + 12 + ROW * len(rows)
    parts = [text(14, y, title, extra=' font-weight="bold"')]
    for tick in axis.ticks:
        x, is_middle = axis.place(tick), tick == axis.middle
        parts.append(f'<path d="M{x} {y + 8}V{end}" stroke="{INK if is_middle else GRID}"/>')
        parts.append(text(x, end + 14, axis.words(tick), SOFT, ' text-anchor="middle"'))
    return parts + [part for i, (label, claim) in enumerate(rows) for part in row(y + 22 + ROW * i, label, claim, axis)]


def legend() -> list[str]:
    """Draw what the marks mean."""
    parts, x = list[str](), 20
    for verdict in COLORS:
        parts += [mark(x, 24, verdict), text(x + 12, 28, verdict)]
        x += 36 + 6 * len(verdict)
    for name, sign in SIGNS.items():
        parts.append(text(x, 28, f"{sign} base rate: {name}"))
        x += 24 + 6 * len(f"base rate: {name}")
    return [
        *parts,
        text(14, 46, "Lines are intervals of 95 %. The dark vertical line is where a claim is neither right nor wrong.", SOFT),
    ]


def picture(ledger: dict[str, Any], is_share: bool) -> str:
    """Draw the claims that are shares of seeds, or those that are means."""
    axis, named, parts, y = Axis(is_share), labels(ledger), legend(), float(TOP + 10)
    for paper, part in ledger["papers"].items():
        claims = {key: part["claims"][key] for key in named if key in part["claims"]}
        shown = {key: claim for key, claim in claims.items() if claim["value"] is not None and claim["is_share"] == is_share}
        if shown:
            parts += panel(y, paper, [(named[key], claim) for key, claim in shown.items()], axis)
            y += 56 + ROW * len(shown)
    height = round(y - 18)
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" {style}>'
    return "\n".join([head, f'<rect width="{WIDTH}" height="{height}" rx="12" fill="#ffffff"/>', *parts, "</svg>", ""])


def render(ledger: dict[str, Any]) -> dict[str, str]:
    """Draw both figures, by name of file."""
    return {"claims_shares.svg": picture(ledger, True), "claims_means.svg": picture(ledger, False)}


if __name__ == "__main__":
    for name, content in render(json.loads(LEDGER.read_text())).items():
        (FIGURES / name).write_text(content)
