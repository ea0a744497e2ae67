"""Files, rooms and functions stay small, imports form no circle, and names that were given up stay so."""

import ast
import importlib
import re
from collections import Counter
from functools import cache
from pathlib import Path
from statistics import median, quantiles

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ncollapse"
FILES = {path.relative_to(SOURCE): path.read_text() for path in SOURCE.rglob("*.py")}
# Names that had to be learned, and what each thing is called now (docs/decisions/0015).
GIVEN_UP = {
    r"\btold_by_all\b": "as_user_error",
    r"\bown_errors\b": "as_user_error",
    r"\bnamed_once\b": "check_distinct",
    r"\b_YOUNGER\b": "fields_not_in_fingerprint",
    r"\.passing\b|\bpassing:": "reuses_memory",
    r"\bDealt\b": "every_nth_batch",
    r"\b(Waiting|Decided)\b": "DecisionSums",
    r"\boutline\(": "empty_like_data",
}
FILES_GIVEN_UP = """
probe/arriving probe/collected probe/collect probe/tapped probe/taps probe/captured probe/reading probe/hooking probe/sharing
probe/store probe/table probe/blocks studies/own_network studies/by_name studies/remeasure studies/feasible studies/analysis
report/vacuous report/objective_words report/verdicts report/summary report/claim_readings report/claim_tests
report/sweep_quantities drawing/vacuous drawing/objective_words drawing/verdicts drawing/summary claims/readings metrics/layer
metrics/entry_parts metrics/entries_features metrics/entries_decisions surrogates/checks
""".split()


@cache
def trees() -> dict[Path, ast.Module]:
    """The files, parsed."""
    return {path: ast.parse(text) for path, text in FILES.items()}


def module_of(path: Path) -> str:
    return ".".join(("ncollapse", *path.with_suffix("").parts)).removesuffix(".__init__")


MODULES = {module_of(path) for path in FILES}


def imports_of(path: Path) -> set[str]:
    """The modules of ours that a file imports, at whatever place in it."""
    found = set()
    for node in ast.walk(trees()[path]):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in MODULES else node.module for name in below]
        found |= {name for name in names if name in MODULES}
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


def test_only_rooms_list_what_is_public():
    listing = [str(path) for path, text in FILES.items() if "\n__all__" in text and len(path.parts) > 1]
    assert [path for path in listing if not path.endswith("__init__.py")] == []


def test_files_and_rooms_are_small():
    lines = {path: len(text.splitlines()) for path, text in FILES.items()}
    assert {str(path): count for path, count in lines.items() if count > 300} == {}
    assert median(lines.values()) <= 150
    rooms = Counter(path.parts[0] for path in FILES if len(path.parts) > 1)
    # A model is a file, and there are fifteen.
    assert {room: count for room, count in rooms.items() if count > 20 and room != "surrogates"} == {}


def length(function: ast.FunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function, clean=False) is not None
    return function.end_lineno - function.lineno + 1 - documented * (first.end_lineno - first.lineno + 1)


def test_no_two_test_files_have_one_name():
    """pytest imports them by their names alone, and leaves the second one out with an error."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_functions_are_short():
    functions = [node for tree in trees().values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert quantiles(map(length, functions), n=10)[-1] <= 20
    # The entries of the metrics are tables.
    assert {node.name: length(node) for node in functions if length(node) > 40 and not node.name.endswith("_entries")} == {}


def test_names_that_were_given_up_stay_so():
    found = [f"{path}: {GIVEN_UP[word]}" for path, text in FILES.items() for word in GIVEN_UP if re.search(word, text)]
    assert found == []
    assert [name for name in FILES_GIVEN_UP if (SOURCE / f"{name}.py").exists()] == []
