"""Test session: where `reference` and `cases` are found; one thread and one width of lines, on any machine."""

import gc
import os
import shutil
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

from ncollapse.hooks import untouched

TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))
pytest_plugins = ["run_files"]

# Tests write tens of thousands of small files, which a disk takes a fifth of their time for. Folders of failed tests are kept.
MEMORY = Path("/dev/shm")
if os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 1e9:
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))

# Seeds derived from the test's source: the same examples on every machine and every run.
settings.register_profile("repeatable", derandomize=True, deadline=None, database=None, max_examples=25)
settings.load_profile("repeatable")


# The files that take longest. They go first, or one process would begin one when the others have nothing left to do.
LONGEST = [
    *("test_pages.py", "test_processes.py", "test_docs.py", "test_laws.py", "test_solve.py", "test_run.py", "test_training.py"),
    *("test_mufm.py", "test_compiled.py", "test_torchrun.py", "test_classifiers.py", "test_sweep_runs.py"),
    *("test_hostile_directories.py", "test_ufm.py", "test_claims.py", "test_depth.py", "test_catalog.py", "test_main.py"),
    *("test_browser.py", "test_figures.py", "test_recorder.py"),
]


# Files that use one costly thing, made once in each process of pytest-xdist: they all go to one of these.
SHARING = {
    "processes that are forked": (
        *("test_processes.py", "test_training.py", "test_torchrun.py", "test_sweep_runs.py", "test_run.py", "test_main.py"),
    ),
    "fresh interpreters": (
        *("test_pages.py", "test_examples.py", "test_layers.py", "test_surface.py", "test_catalog.py", "test_progress.py"),
        "test_distributions.py",
    ),
    "a browser": ("test_browser.py", "test_kgon_browser.py", "test_layers_browser.py"),
}
SHARED = {file: thing for thing, files in SHARING.items() for file in files}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As ``--dist loadfile``, but that files which share something stay together."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = super()._split_scope(nodeid)
            return SHARED.get(Path(path).name, path)

    return Scheduling(config, log)


def pytest_configure(config: pytest.Config) -> None:
    """Have every second process of pytest-xdist import from the other end: on a fresh clone, each then compiles a half."""
    worker = getattr(config, "workerinput", {}).get("workerid", "gw0")
    if int(worker[2:]) % 2 and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.args = ["src", *map(str, sorted(TESTS.rglob("test_*.py"), reverse=True))]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Modules and thousands of tests stay to the end: the collector of garbage does not look at them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the longest files to the front, and the others in one order, whichever the process began with."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (rank.get(item.path.name, len(LONGEST)), TESTS not in item.path.parents, item.path))


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Pass over what tests import: --doctest-modules looks for examples in it, and some of it takes seconds to import."""
    return True if collection_path.suffix == ".py" and not collection_path.name.startswith("test_") else None


@pytest.fixture(scope="session", autouse=True)
def nothing_waits_for_the_disk() -> Iterator[None]:
    """No test pulls the plug; tests/records/test_files.py sees that the disk is asked, thousands of times in a session."""
    before, os.fsync = os.fsync, lambda file: None
    yield
    os.fsync = before


@pytest.fixture(scope="session", autouse=True)
def same_everywhere() -> Iterator[None]:
    """Sums are added in one order, and tables fold at one width: pytest-xdist tells its processes that of the terminal."""
    before, width = torch.get_num_threads(), os.environ.get("COLUMNS")
    torch.set_num_threads(1)
    os.environ["COLUMNS"] = "100"
    yield
    torch.set_num_threads(before)
    os.environ.pop("COLUMNS")
    os.environ.update({} if width is None else {"COLUMNS": width})


@pytest.fixture(scope="session", autouse=True)
def every_measurement_is_checked() -> Iterator[None]:
    """As with ``check=True``: each proves by digests that it left no trace."""
    before, untouched.ALWAYS_CHECKED = untouched.ALWAYS_CHECKED, True
    yield
    untouched.ALWAYS_CHECKED = before


@pytest.fixture
def without_drawings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages and figures lack their drawings: for tests of anything else that a command does, since a run's take seconds."""
    monkeypatch.setattr("ncollapse.report.report.save_figures", lambda run: [])
    for page in ("run_page", "comparison_page", "sweep_page", "depth_page"):
        monkeypatch.setattr(f"ncollapse.report.{page}.panel_svgs", lambda drawings, **_: [""] * len(drawings))
