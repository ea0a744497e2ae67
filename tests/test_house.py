"""The size of the house: files, rooms and functions stay small, and imports form no circle."""

import ast
import importlib
from collections import Counter
from pathlib import Path
from statistics import median, quantiles

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ncollapse"
FILES = {path.relative_to(SOURCE): path.read_text() for path in SOURCE.rglob("*.py")}
TREES = {path: ast.parse(text) for path, text in FILES.items()}


def module_of(path: Path) -> str:
    return ".".join(("ncollapse", *path.with_suffix("").parts)).removesuffix(".__init__")


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports, at whatever place in it."""
    known, found = {module_of(other) for other in FILES}, set()
    for node in ast.walk(TREES[path]):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in known else node.module for name in below]
        found |= {name for name in names if name in known}
    return found


def test_imports_form_no_circle():
    waiting = {module_of(path): imports_of(path) - {module_of(path)} for path in FILES}
    # The package hands on names of its rooms, and of no other file.
    waiting.pop("ncollapse")
    while waiting:
        free = {name for name, needed in waiting.items() if not needed & waiting.keys()}
        assert free, f"in circles, or above one: {sorted(waiting)}"
        waiting = {name: needed for name, needed in waiting.items() if name not in free}


@pytest.mark.parametrize("room", sorted(path.parts[0] for path in FILES if path.name == "__init__.py" and len(path.parts) == 2))
def test_a_room_hands_on_what_it_names(room):
    module = importlib.import_module(f"ncollapse.{room}")
    assert [name for name in module.__all__ if not hasattr(module, name)] == []


def test_files_and_rooms_are_small():
    lines = {path: len(text.splitlines()) for path, text in FILES.items()}
    assert median(lines.values()) <= 150
    rooms = Counter(path.parts[0] for path in FILES if len(path.parts) > 1)
    # A model is a file, and there are fifteen.
    assert {room: count for room, count in rooms.items() if count > 20 and room != "surrogates"} == {}


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def test_functions_are_short():
    functions = [node for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert quantiles(map(length, functions), n=10)[-1] <= 20
