"""The house: imports only point down, and nothing heavy is imported by what should be light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fresh

SOURCE = Path(__file__).parents[1] / "src" / "ncollapse"

# Floors of the house; a room may import rooms below its floor, and itself. `__init__` of the package hands names on.
FLOORS = {
    "version": 0, "near_words": 0, "tensor_fields": 0, "etf": 0, "margins": 0, "polygon": 0, "polytopes": 0, "stop_signals": 0,
    "error_words": 0, "default_device": 0, "recipe_fingerprint": 0,
    "extras": 1, "groups": 1, "machine": 1, "torchrun": 2, "records": 1, "recipes": 1, "statistics": 1, "hooks": 1,
    "data": 2, "models": 2, "drawing": 2, "metrics": 2,
    "train": 3, "depth": 3,
    "measurement": 4,
    "probe": 5, "surrogates": 5,
    "analysis": 6, "integrations": 6, "testing": 6,
    "studies": 7, "claims": 7,
    "targets": 8,
    "report": 9,
    "experiments": 10,
    "cli": 11,
    "__main__": 12, "__init__": 12,
}  # fmt: skip
# Rooms below that may not be seen.
FORBIDDEN = {("models", "statistics"), ("models", "data"), ("train", "statistics"), ("train", "models"), ("metrics", "data")}
FORBIDDEN |= {("surrogates", room) for room in ("models", "data", "train")}
FORBIDDEN |= {
    (above, room)
    for above in ("hooks", "recipes")
    for room in FLOORS
    if room not in {"near_words", "default_device", "recipe_fingerprint"}
}
FORBIDDEN |= {("drawing", room) for room in FLOORS if room not in {"records", "polygon", "version"}}
FORBIDDEN |= {("claims", room) for room in FLOORS if room not in {"records", "drawing", "version", "recipe_fingerprint"}}
FORBIDDEN |= {("report", room) for room in FLOORS if room not in {"records", "drawing", "claims", "version"}}


def rooms_imported(program: str) -> set[str]:
    """The rooms of ours that a program imports, in whichever form the statement is written."""
    found = set()
    for node in ast.walk(ast.parse(program)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert not node.level, "a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        parts = [name.split(".") for name in names]
        # Whatever is no room is a name that the package itself hands on.
        found |= {
            room if (room := (*below, "")[0]) in FLOORS else "__init__" for package, *below in parts if package == "ncollapse"
        }
    return found


def edges() -> set[tuple[str, str, str]]:
    """All imports of one room by another: (importer, imported, file)."""
    found = set()
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
        found |= {(room, other, str(path.relative_to(SOURCE))) for other in rooms_imported(path.read_text()) if other != room}
    return found


@pytest.mark.parametrize(
    "program",
    [
        "import ncollapse.depth",
        "import ncollapse.depth.path as p",
        "from ncollapse import depth",
        "from ncollapse.depth import path",
    ],
)
def test_rooms_are_seen_in_every_form_of_import(program):
    assert rooms_imported(program) == {"depth"}
    assert rooms_imported("import ncollapse") == {"__init__"}


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
        # Runs and pages, which need the floor of a surrogate model and no filters of signals and images.
        ("import ncollapse.studies, ncollapse.report", {"scipy.signal", "scipy.ndimage", "scipy.stats"}),
        # The measuring core runs where only torch, numpy and scipy are installed.
        (
            "import ncollapse.probe, ncollapse.depth, ncollapse.integrations",
            {"sklearn", "pydantic", "msgspec", "matplotlib", "jinja2", "rich", "safetensors", "pandas"},
        ),
        (
            "import ncollapse; ncollapse.measure, ncollapse.CollapseMetrics",
            {"scipy.optimize", "scipy.stats", "rich", "ncollapse.testing"},
        ),
        # The compiler of torch, which takes seconds.
        (
            "import torch, ncollapse; y = torch.arange(40) % 4; "
            "ncollapse.measure_features(torch.rand(40, 4) + torch.eye(4)[y], y, num_classes=4, metrics=['all', 'population'])",
            {"torch._dynamo", "sympy"},
        ),
        (
            "import torch, ncollapse; from torch import nn; net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)); "
            "ncollapse.measure(net, [(torch.rand(40, 4), torch.arange(40) % 2)], num_classes=2)",
            {"torch._dynamo", "sympy"},
        ),
    ],
)
def test_light_imports(statement, absent):
    program = f"import sys; {statement}; print(*sorted({absent!r} & set(sys.modules)))"
    if absent & {"torch", "torch._dynamo"}:
        printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    else:
        printed = fresh.python("-c", program)
    assert printed.splitlines()[-1] == ""


# An annotation may name the type ProcessGroup; it asks for no rank.
RANKS = re.compile(
    r"import torch\.distributed|from torch import .*distributed|from torch\.distributed import (?!ProcessGroup$)"
    r"|\bdist\.|\._?rank\b|\"(LOCAL_)?(RANK|WORLD_SIZE)\""
)


def test_two_files_know_of_ranks():
    found = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        for line in path.read_text().splitlines()
        if RANKS.search(line) and path.name not in {"groups.py", "torchrun.py"}
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "line",
    [
        "import torch.distributed as d",
        "from torch import distributed",
        "from torch.distributed import get_rank",
        "dist.barrier()",
    ],
)
def test_ranks_are_seen_in_every_form_of_import(line):
    assert RANKS.search(line)
    assert not RANKS.search("    from torch.distributed import ProcessGroup")
