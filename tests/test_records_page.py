"""The page of records is written for every row that a benchmark can have, also for those that run only when they are named."""

import json
import runpy
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture
def benchmarks(monkeypatch, tmp_path):
    """Rows and their timing, with small data and no processes."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import command_rows
    import feature_rows
    import timing

    data = feature_rows.data
    monkeypatch.setattr(feature_rows, "data", lambda *sizes: data(40, 8, 4))
    monkeypatch.setattr(command_rows, "python", lambda *words: lambda: None)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(timing, "interleaved", lambda calls, rounds: {name: [(0.5, 0.5)] * 3 for name in calls})
    return runpy.run_path(str(ROOT / "benchmarks" / "bench.py"))["ROWS"], timing.measured


def test_every_row_has_its_line_and_its_command(benchmarks, tmp_path):
    rows, measured = benchmarks
    assert {"demo", "vocabulary"} <= {name for name, row in rows.items() if row.slow}
    about = {"commit": "abc", "load": 0.5}
    records = {
        name: {"title": row.title, "threads": row.threads, **about, **measured(row), "peak_mib": dict.fromkeys(row.peaks, 7.0)}
        for name, row in rows.items()
    }
    file = tmp_path / "records.json"
    machine = {"processor": "x", "cores": 2, "python": "3", "torch": "2"}
    file.write_text(json.dumps({"machine": machine, "rows": records}))
    page = runpy.run_path(str(ROOT / "docs" / "write_records.py"))["render"](file)[ROOT / "docs" / "records.md"]
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("|")]
    header, _, *lines = lines
    assert {len(line) for line in lines} == {len(header)}
    assert [line[0] for line in lines if line[0] != "″"] == [f"`make bench ROWS={name}`" for name in rows]
    start = next(index for index, line in enumerate(lines) if line[0].endswith("ROWS=demo`"))
    assert [line[2] for line in lines[start:]] == ["import torch", "demo", "claims"]
    assert [line[6] for line in lines] == ["0.5"] * len(lines)
