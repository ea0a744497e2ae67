"""A sweep: the list of its runs as it lies on the disk, and what there is of each run."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ncollapse.records import file_names
from ncollapse.records.csv_tables import Epochs
from ncollapse.records.errors import ReportError
from ncollapse.records.json_files import fail, read_json
from ncollapse.records.manifest import CheckedFiles
from ncollapse.records.reading import Run, read_run

_AGAIN = "Run `ncollapse sweep` again with the same --out."


@dataclass(frozen=True)
class SweepEntry:
    """One run in ``sweep.json``: its folder, the swept fields with their values as text, its seed, and tied fields."""

    name: str
    settings: dict[str, str]
    seed: int
    tied: dict[str, str] = field(default_factory=dict)


def swept_words(settings: Iterable[str], tied: Iterable[str]) -> str:
    """Name the swept fields, and those whose values belong to theirs."""
    return " with ".join(filter(None, (", ".join(settings) or "seeds", ", ".join(tied))))


@dataclass(frozen=True)
class SweepFile:
    """``sweep.json``: the runs of a sweep, in order of their settings."""

    runs: tuple[SweepEntry, ...]


@dataclass(frozen=True)
class SweptRun:
    """One run of a sweep."""

    name: str
    settings: dict[str, str]
    seed: int
    tied: dict[str, str]
    run: Run | None
    problem: str
    has_page: bool


@dataclass(frozen=True)
class Sweep:
    """What the files of a sweep say."""

    path: Path
    runs: tuple[SweptRun, ...]
    fields: tuple[str, ...]

    @property
    def tied(self) -> tuple[str, ...]:
        """Fields whose values belong to those of a swept one."""
        return tuple(self.runs[0].tied)

    def by_setting(self) -> list[tuple[tuple[str, ...], list[Run]]]:
        """List the finished runs of every combination of swept values, in the order of ``sweep.json``."""
        groups: dict[tuple[str, ...], list[Run]] = {}
        for item in self.runs:
            group = groups.setdefault(tuple(item.settings[name] for name in self.fields), [])
            group += [] if item.run is None else [item.run]
        return list(groups.items())


def read_sweep(path: Path, epochs: Epochs = "all") -> Sweep:
    """Read the list of a sweep's runs, and of every run what there is."""
    path = Path(path)
    file = path / file_names.SWEEP
    if not file.is_file():
        raise ReportError(f"{file}: needed the list of a sweep's runs, found nothing. "
                          "Name the folder that `ncollapse sweep` was given with --out.")  # fmt: skip
    entries = read_json(file, SweepFile, _AGAIN, CheckedFiles(path).read).runs
    for entry in entries:
        # A run lies in the sweep's folder; pages are written into runs.
        if not _is_folder_name(entry.name) or (path / entry.name).is_symlink():
            fail(file, f"needed names of folders in the sweep, found {entry.name[:100]!r}", _AGAIN)
    if len({(tuple(entry.settings), tuple(entry.tied)) for entry in entries}) != 1:
        found = "runs with different fields" if entries else "no run"
        fail(file, f"needed runs that all set the same fields, found {found}", _AGAIN)
    return Sweep(path, tuple(_swept_run(path / entry.name, entry, epochs) for entry in entries), tuple(entries[0].settings))


def _is_folder_name(name: str) -> bool:
    return bool(name.strip(".")) and not set(name) & {"/", "\\", "\0"}


def _swept_run(folder: Path, entry: SweepEntry, epochs: Epochs) -> SweptRun:
    has_page = (folder / file_names.REPORT).is_file()
    run, problem = None, "not begun"
    if folder.is_dir():
        try:
            run = read_run(folder, epochs)
            problem = unfinished(run)
        except ReportError as error:
            problem = str(error)
    return SweptRun(entry.name, entry.settings, entry.seed, entry.tied, None if problem else run, problem, has_page)


def unfinished(run: Run) -> str:
    """Why a run does not count among finished ones."""
    status = run.status
    if status.state == "finished":
        return ""
    why = f": {status.reason}" if status.reason else ""
    return f"{status.state} at epoch {status.epoch} of {status.epochs}{why}"


def folders_of(path: Path) -> list[Path]:
    """List a run's folder, or a sweep's and those of its runs."""
    if not path.is_dir() or not any(
        (path / name).exists() for name in (*file_names.OF_A_RUN, file_names.MANIFEST, file_names.SWEEP)
    ):
        raise ReportError(f"{path}: needed a run directory or the folder of a sweep, found neither. Name one.")
    if not (path / file_names.SWEEP).is_file():
        return [path]
    try:
        listed = read_json(path / file_names.SWEEP, SweepFile).runs
        runs = [path / name for name in dict.fromkeys(entry.name for entry in listed) if _is_folder_name(name)]
    except ReportError:
        # The list is damaged: every folder that looks like a run is taken for one.
        runs = sorted(folder for folder in path.iterdir() if (folder / file_names.MANIFEST).is_file())
    return [path, *(folder for folder in runs if folder.is_dir() and not folder.is_symlink())]
