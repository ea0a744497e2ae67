"""Time and memory of this library beside a limit and simple rivals, in one file of records.

    python benchmarks/bench.py [--rows NAME ...] [--out docs/records.json]

Each row runs in a process of its own: at least seven interleaved rounds of all of its calls, CPU time of one thread (wall time
for two), medians and spread of the ratios of pairs. Peaks are growths of the resident size in fresh processes. Rows that are
not named keep what the file says of them. ``docs/write_records.py`` writes the figures into the pages.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import command_rows
import feature_rows
import network_rows
import surrogate_rows
from timing import machine, measured, peak_growth

ROOT = Path(__file__).parents[1]
ROWS = feature_rows.ROWS | network_rows.ROWS | surrogate_rows.ROWS | command_rows.ROWS


def in_process(*words: str, threads: int) -> str:
    """Run this file in a process of its own and return what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT / "src")}
    command = [sys.executable, __file__, *words]
    return subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout


def commit() -> str:
    """Return the commit of the checkout, with a plus sign if it was changed."""
    return subprocess.run(
        ["git", "describe", "--always", "--dirty=+"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ).stdout.strip()


def record(name: str, state: str) -> dict[str, Any]:
    """Measure one row, with the code in this state."""
    row, load = ROWS[name], os.getloadavg()[0]
    found = json.loads(in_process("--time", name, threads=row.threads))
    peaks = {call: round(float(in_process("--peak", name, call, threads=row.threads)), 1) for call in row.peaks}
    about = {"title": row.title, "threads": row.threads, "commit": state, "load": round(load, 1)}
    return {**about, **found, "peak_mib": peaks}


def line(name: str, found: dict[str, Any]) -> str:
    """Write a row in words."""
    seconds = ", ".join(f"{call} {value:.3g} s" for call, value in found["cpu"].items())
    ratios = ", ".join(
        f"{item['ours']} / {item['against']} {item['ratio']:.3g} ({item['spread'][0]:.3g} to {item['spread'][1]:.3g}"
        + (f"; wanted {item['wanted']:g})" if item["wanted"] else ")")
        for item in found["ratios"].values()
    )
    peaks = ", ".join(f"{call} {value:.0f} MiB" for call, value in found["peak_mib"].items())
    return f"{name}: {found['title']}\n    {seconds}\n    " + "; ".join(filter(None, [ratios, peaks]))


def main() -> None:
    """Measure the rows, print them, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", nargs="+", metavar="NAME", choices=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "records.json")
    parser.add_argument("--time", help=argparse.SUPPRESS)
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.time:
        print(json.dumps(measured(ROWS[options.time])))
    elif options.peak:
        print(peak_growth(ROWS[options.peak[0]], options.peak[1]))
    else:
        known = json.loads(options.out.read_text())["rows"] if options.out.exists() else {}
        # Before the file of records changes.
        state = commit()
        for name in options.rows or [name for name, row in ROWS.items() if not row.slow]:
            known[name] = record(name, state)
            print(line(name, known[name]), flush=True)
            ordered = {name: known[name] for name in ROWS if name in known}
            options.out.write_text(json.dumps({"machine": machine(), "rows": ordered}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
