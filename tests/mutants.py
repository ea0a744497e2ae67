"""Mutants: one place of the source is changed at a time, and the tests of its room must notice.

    python tests/mutants.py [ROOM ...] [--per-room 40] [--seed 0] [--at FILE:LINE ...]

Prints each mutant that survives, and the share that was noticed. A mutant costs one fork, since torch is imported before, and
nothing on the disk is changed: the mutated module is compiled from its changed syntax tree when it is first imported. Only
those tests run that enter the function in which it is changed.

Some changes alter nothing that a user could see, such as another size of a block. They are listed with the reason in
``mutants.toml``, by the changed statement, or by the statement before if that holds for all of its changes; they are neither
tried nor counted.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import importlib.util
import json
import os
import random
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ncollapse"
# By every child, if not here.
IMPORTED_BEFORE = ("torch", "hypothesis", "scipy.stats", "scipy.optimize", "sklearn.datasets", "matplotlib.figure")
ARGUED: dict[str, dict[str, str]] = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
# Types, and whether values are frozen, which keep hands off and change no number.
DECLARED = {"annotation", "returns", "decorator_list"}
ROOMS = ("statistics", "metrics", "depth", "surrogates", "records")
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Div, ast.Mod: ast.Mult,
    ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
    ast.And: ast.Or, ast.Or: ast.And, ast.USub: ast.UAdd,
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One changed place: a node of a file's syntax tree, by its number, and which of its changes."""

    file: Path
    node: int
    choice: int
    line: int
    before: str
    """The statement's first line."""
    after: str

    def tree(self) -> ast.Module:
        """Return the changed syntax tree."""
        tree = ast.parse(self.file.read_text())
        node = list(places(tree))[self.node]
        setattr(node, *list(changed(node))[self.choice])
        return ast.fix_missing_locations(tree)

    @property
    def key(self) -> str:
        """The changed statement, or both where others look the same once they are changed."""
        return f"{self.before}  ->  {self.after}" if self.after in {"None", "return None"} else self.after

    @property
    def argued(self) -> bool:
        """Whether a reason is given why no test could notice."""
        reasons = ARGUED.get(str(self.file.relative_to(SOURCE)), {})
        return self.before in reasons or self.key in reasons

    def __str__(self) -> str:
        return f"{self.file.relative_to(SOURCE)}:{self.line}: {self.before}  ->  {self.after}"


def changed(node: ast.AST) -> Iterator[tuple[str, Any]]:
    """Name the field of a node that is to be changed, and its new value: one pair a mutant."""
    operator = getattr(node, "op", None)
    if isinstance(node, ast.Compare) and type(node.ops[0]) in COMPARISONS:
        yield "ops", [COMPARISONS[type(node.ops[0])](), *node.ops[1:]]
    elif isinstance(node, ast.BinOp | ast.AugAssign | ast.BoolOp | ast.UnaryOp) and type(operator) in OPERATORS:
        yield "op", OPERATORS[type(operator)]()
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        yield "value", not node.value if isinstance(node.value, bool) else _next(node.value)
    elif isinstance(node, ast.If | ast.IfExp | ast.While):
        yield "test", ast.UnaryOp(ast.Not(), node.test)
    elif isinstance(node, ast.Return) and node.value is not None and ast.unparse(node.value) != "None":
        yield "value", ast.Constant(None)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        yield "value", ast.Constant(None)


def _next(number: float) -> float:
    return number + 1 if isinstance(number, int) else 2 * number or 1.0


def places(tree: ast.AST) -> Iterator[ast.AST]:
    """List the nodes that compute something."""
    if isinstance(tree, ast.If) and ast.unparse(tree.test) == "TYPE_CHECKING":
        return
    for name, value in ast.iter_fields(tree):
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, ast.AST) and name not in DECLARED:
                yield node
                yield from places(node)


def statements(tree: ast.Module) -> dict[ast.AST, ast.stmt]:
    """Return the innermost statement that each node is in."""
    # Outer ones come first.
    return {node: stmt for stmt in ast.walk(tree) if isinstance(stmt, ast.stmt) for node in ast.walk(stmt)}


def first_line(statement: ast.stmt) -> str:
    """Return a statement, or what stands before the colon."""
    head = copy.copy(statement)
    for field in {"body", "orelse", "finalbody", "handlers", "cases", "decorator_list"} & set(statement._fields):
        setattr(head, field, [])
    return ast.unparse(head).strip().partition("\n")[0]


def mutants(file: Path) -> list[Mutant]:
    """List all mutants of a file."""
    tree = ast.parse(file.read_text())
    inside, found = statements(tree), []
    for index, node in enumerate(places(tree)):
        for choice, (field, value) in enumerate(changed(node)):
            before, former = first_line(inside[node]), getattr(node, field)
            setattr(node, field, value)
            after = first_line(inside[node])
            setattr(node, field, former)
            found.append(Mutant(file, index, choice, getattr(node, "lineno", 0), before, after))
    return found


class MutantLoader(SourceFileLoader):
    """Loads one module from a syntax tree instead of its file."""

    tree: ast.Module

    def get_code(self, fullname: str) -> CodeType:
        return compile(self.tree, self.path, "exec")


class MutantFinder:
    """Finds the mutated module; put before all other finders."""

    def __init__(self, mutant: Mutant) -> None:
        self.name = ".".join(("ncollapse", *mutant.file.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")
        self.loader = MutantLoader(self.name, str(mutant.file))
        self.loader.tree = mutant.tree()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.loader.path, loader=self.loader) if name == self.name else None


def tests_of(file: Path) -> list[Path]:
    """List the tests of a file's room and those of its name, those that speak of its names most first."""
    names = {node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    tests = {*(ROOT / "tests" / file.parent.relative_to(SOURCE).parts[0]).glob("test_*.py")}
    # Some stand where what they test is used, such as tests of conventions in metrics.
    tests |= {*(ROOT / "tests").glob(f"*/test_{file.stem}.py")}
    spoken = {test: sum(test.read_text().count(name) for name in names) + 100 * (file.stem in test.stem) for test in tests}
    return sorted(tests, key=lambda test: (-spoken[test], test))


class Entered:
    """A plugin of pytest that notes in a file which tests enter which functions of the source."""

    def __init__(self, file: Path) -> None:
        self.file, self.test = file, ""
        self.tests: dict[str, set[str]] = {}

    def _trace(self, frame: FrameType, *_: object) -> None:
        name = frame.f_code.co_filename
        if name.startswith(str(SOURCE)):
            self.tests.setdefault(f"{name}:{frame.f_code.co_firstlineno}", set()).add(self.test)

    def _traced(self, test: str) -> Generator[None, Any, Any]:
        self.test = test
        threading.settrace(self._trace)
        sys.settrace(self._trace)
        try:
            return (yield)
        finally:
            sys.settrace(None)

    @pytest.hookimpl(wrapper=True)
    def pytest_collection(self) -> Generator[None, Any, Any]:
        return (yield from self._traced(""))

    # What is set up for one test may be used by all of its file.
    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, Any, Any]:
        return (yield from self._traced(str(item.path)))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, Any, Any]:
        return (yield from self._traced(f"{item.path}::{item.nodeid.partition('::')[2].partition('[')[0]}"))

    def pytest_sessionfinish(self) -> None:
        self.file.write_text(json.dumps({function: sorted(tests) for function, tests in self.tests.items()}))


def function_of(mutant: Mutant) -> str:
    """Name the function or method that a mutant is in as ``Entered`` does; outside of any, a name that it never gives."""
    found = f"{mutant.file}:0"
    for node in ast.walk(ast.parse(mutant.file.read_text())):
        if isinstance(node, ast.FunctionDef) and node.lineno <= mutant.line <= (node.end_lineno or 0):
            # The innermost one comes last, but one that is inside of another runs with it.
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            found = f"{mutant.file}:{first}" if found.endswith(":0") else found
    return found


def chosen_tests(mutant: Mutant, entered: dict[str, list[str]]) -> list[str]:
    """List the tests that enter a mutant's function, in the order of their files; all if it is entered by all, or by none."""
    files = [str(file) for file in tests_of(mutant.file)]
    tests = entered.get(function_of(mutant), [""])
    whole = {test for test in tests if "::" not in test}
    chosen = [[file] if file in whole else [test for test in tests if test.startswith(f"{file}::")] for file in files]
    return files if "" in whole else [test for tests in chosen for test in tests]


def passes(mutant: Mutant | None, tests: Sequence[str | Path], timeout: float, plugins: Sequence[object] = ()) -> bool:
    """Run tests in a forked process; those that take too long have noticed something."""
    child = os.fork()
    if child == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(null, stream)
        if mutant is not None:
            sys.meta_path.insert(0, MutantFinder(mutant))
        with tempfile.TemporaryDirectory() as folder:
            options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={folder}/t"]
            # Said about what is imported before.
            options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]
            os._exit(pytest.main([*options, *map(str, tests)], plugins))
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return status == 0
        time.sleep(0.02)
    os.killpg(child, 9)
    os.waitpid(child, 0)
    return False


def run_room(room: str, chosen: Callable[[list[Mutant]], list[Mutant]]) -> tuple[int, int]:
    """Try the chosen mutants of a room, tell what survives, and return how many were noticed and tried."""
    every = [mutant for file in sorted((SOURCE / room).rglob("*.py")) for mutant in mutants(file)]
    sample, begun, noticed = chosen(every), time.monotonic(), 0
    tried = [mutant for mutant in sample if not mutant.argued]
    tests = {test for mutant in tried for test in tests_of(mutant.file)}
    with tempfile.TemporaryDirectory() as folder:
        notes = Path(folder) / "entered.json"
        if not passes(None, sorted(tests), 3600, [Entered(notes)]):
            sys.exit(f"The tests of {room} fail without any mutant.")
        entered = json.loads(notes.read_text())
    seconds = time.monotonic() - begun
    for mutant in tried:
        survived = passes(mutant, chosen_tests(mutant, entered), 30 + 4 * seconds)
        noticed += not survived
        if survived:
            print(f"survived  {mutant}", flush=True)
    argued = f"{len(sample) - len(tried)} argued in mutants.toml, " if len(sample) > len(tried) else ""
    print(f"{room}: {noticed} of {len(tried)} noticed, {argued}of {len(every)} possible", flush=True)
    return noticed, len(tried)


def main() -> None:
    """Run a seeded sample of every room, and tell what survived."""
    parser = argparse.ArgumentParser()
    parser.add_argument("rooms", nargs="*", default=ROOMS)
    parser.add_argument("--per-room", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--at", nargs="+", default=[], help="only those of FILE:LINE")
    options = parser.parse_args()
    os.chdir(ROOT)
    sys.path.insert(0, str(SOURCE.parent))
    for name in IMPORTED_BEFORE:
        importlib.import_module(name)
    importlib.import_module("torch").set_num_threads(1)

    def chosen(every: list[Mutant]) -> list[Mutant]:
        if options.at:
            return [mutant for mutant in every if f"{mutant.file.relative_to(SOURCE)}:{mutant.line}" in options.at]
        return random.Random(options.seed).sample(every, min(options.per_room, len(every)))

    counts = [run_room(room, chosen) for room in options.rooms]
    noticed, tried = map(sum, zip(*counts, strict=True))
    print(f"{noticed} of {tried} noticed: {noticed / max(1, tried):.1%}")


if __name__ == "__main__":
    main()
