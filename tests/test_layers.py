"""The house: imports only point down, and nothing heavy is imported by what should be light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ncollapse"

# Floors of the house; a room may import rooms below its floor, and itself. `__init__` of the package hands names on.
FLOORS = {
    "version": 0, "tensor_fields": 0, "etf": 0, "margins": 0,
    "extras": 1, "groups": 1, "records": 1, "recipes": 1, "statistics": 1, "hooks": 1,
    "data": 2, "models": 2, "drawing": 2, "metrics": 2,
    "train": 3, "depth": 3,
    "measurement": 4,
    "probe": 5, "surrogates": 5,
    "analysis": 6, "integrations": 6,
    "studies": 7, "claims": 7,
    "targets": 8,
    "report": 9,
    "cli": 10,
    "__main__": 11, "__init__": 11,
}  # fmt: skip
# Rooms below that may not be seen.
FORBIDDEN = {("models", "statistics"), ("models", "data"), ("train", "statistics"), ("train", "models"), ("metrics", "data")}
FORBIDDEN |= {("surrogates", room) for room in ("models", "data", "train")}
FORBIDDEN |= {(above, room) for above in ("hooks", "recipes") for room in FLOORS}
FORBIDDEN |= {("drawing", room) for room in FLOORS if room not in {"records", "version"}}
FORBIDDEN |= {("claims", room) for room in FLOORS if room not in {"records", "drawing", "version"}}
FORBIDDEN |= {("report", room) for room in FLOORS if room not in {"records", "drawing", "claims", "version"}}


def edges() -> set[tuple[str, str, str]]:
    """All imports of one room by another: (importer, imported, file)."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                if parts[0] == "ncollapse" and len(parts) > 1 and parts[1] != room:
                    found.add((room, parts[1], str(path.relative_to(SOURCE))))
    return found


def test_every_room_has_a_floor():
    rooms = {path.name.removesuffix(".py") for path in SOURCE.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert rooms - {"__pycache__"} == set(FLOORS)


def test_arrows_point_down():
    wrong = [
        f"{file}: {room} imports {other}"
        for room, other, file in edges()
        if FLOORS[other] >= FLOORS[room] or (room, other) in FORBIDDEN
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import ncollapse.cli", {"torch", "numpy", "pydantic", "msgspec", "matplotlib"}),
        ("import ncollapse.report", {"torch", "pydantic"}),
        ("import ncollapse.recipes", {"torch", "numpy"}),
        ("import ncollapse.data.locations", {"torch", "sklearn"}),
        ("from ncollapse.cli import main; main(['recipes'])", {"torch", "numpy"}),
        ("from ncollapse.cli import main; main(['doctor'])", {"torch", "sklearn", "matplotlib"}),
        # The measuring core runs where only torch, numpy and scipy are installed.
        (
            "import ncollapse.probe, ncollapse.depth, ncollapse.integrations",
            {"sklearn", "pydantic", "msgspec", "matplotlib", "jinja2", "rich", "safetensors", "pandas"},
        ),
        ("import ncollapse; ncollapse.measure, ncollapse.CollapseMetrics", {"scipy.stats", "rich"}),
    ],
)
def test_light_imports(statement, absent):
    program = f"import sys; {statement}; print(*sorted({absent!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == ""


def test_groups_is_the_only_file_that_knows_of_ranks():
    told = re.compile(
        r"import torch\.distributed|from torch import .*distributed|\bdist\.|\._?rank\b|\"(LOCAL_)?(RANK|WORLD_SIZE)\""
    )
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text().splitlines()
        if told.search(line) and path.name != "groups.py"
    ]
    assert not found, "\n".join(found)
