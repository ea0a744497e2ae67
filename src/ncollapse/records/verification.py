"""Verify and repair runs and sweeps: find the files that are not as they were written, and go back to a whole save.

``plan_recovery`` decides how a run is brought back, and ``recover`` does it. ``verify`` and ``repair`` are the two commands.
"""

import os
import shlex
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from ncollapse.records import file_names
from ncollapse.records.errors import DamagedRunError
from ncollapse.records.files import leftovers, make_own_folder, remove_leftovers, staged, sync_folder
from ncollapse.records.json_files import read_json
from ncollapse.records.lock import Lock
from ncollapse.records.manifest import (
    CheckedFiles,
    Manifest,
    Mark,
    advice,
    compared_files,
    damaged_files,
    is_cut_off,
    mark_of_file,
    sealed,
)
from ncollapse.records.run_files import RecipeSummary
from ncollapse.records.saving import Generation, generations
from ncollapse.records.sweep import folders_of

# Made from the files of a run. If the run is lost, these go aside too.
_DERIVED = (file_names.REPORT, file_names.FIGURES, file_names.PREVIOUS)


@dataclass(frozen=True)
class Recovery:
    """A plan to bring a damaged run back."""

    folder: Path
    damaged: tuple[str, ...]  # names of the files that are damaged, missing, or no part of the run
    sources: dict[str, Path] = field(default_factory=dict)  # the files of earlier saves that replace files of the run, by name
    manifest: Manifest | None = None  # that of the earlier save to which the run goes back; None keeps the present one
    epoch: int | None = None  # the epoch that the run goes back to; None if no training is lost, or if all is lost
    is_lost: bool = False  # whether no save is whole, so that all files go aside

    def words(self) -> str:
        """Say what is damaged and what becomes of the run."""
        listed = f"{', '.join(self.damaged)} {'is not as it was' if len(self.damaged) == 1 else 'are not as they were'} written"
        if self.is_lost:
            return f"{listed}, and no earlier save is whole: nothing can be saved"
        if self.epoch is None:
            return f"{listed}; an earlier save holds the same content, so nothing is lost"
        return f"{listed}; the run goes back to its save at epoch {self.epoch}, and what came later is trained again"


def plan_recovery(folder: Path) -> Recovery | None:
    """Return how to bring a run back; None if it is whole, was cut off in its first save, or has no manifest."""
    # If earlier saves hold the very content of all damaged files, only these files are replaced, and nothing is lost. Otherwise
    # the run goes back to the newest earlier save that is whole.
    try:
        CheckedFiles(folder)
        manifest, found = compared_files(folder)
    except DamagedRunError:
        return _back_to_whole_save(folder, (file_names.MANIFEST,), generations(folder))
    if manifest is None:
        return None
    listed = {*manifest.files, *(manifest.previous or ())}
    foreign = [name for name in file_names.OF_A_RUN if name not in listed and (folder / name).exists()]
    damaged = tuple([*damaged_files(found), *foreign])
    if not damaged or is_cut_off(manifest, found):
        return None
    earlier = generations(folder)
    # A save that was cut off has replaced the checkpoint or has not. The old files belong to the old checkpoint.
    holds = manifest.files if found.get(file_names.CHECKPOINT) != "old" else {**manifest.files, **(manifest.previous or {})}
    sources = {name: source for name in damaged if name in holds and (source := _source(name, holds[name], earlier))}
    if set(sources) == set(damaged) - set(foreign):
        # The manifest lists the checkpoint of an earlier save only if it is the manifest of that save: the run has gone back.
        return Recovery(folder, damaged, sources, None, manifest.epoch if file_names.CHECKPOINT in sources else None)
    return _back_to_whole_save(folder, damaged, earlier)


def _source(name: str, mark: Mark, earlier: list[Generation]) -> Path | None:
    """Find a file of an earlier save with the content that was written."""
    files = (item.folder / name for item in earlier if name not in item.damaged)
    return next((file for file in files if mark_of_file(file, {mark.size}) == mark), None)


def _back_to_whole_save(folder: Path, damaged: tuple[str, ...], earlier: list[Generation]) -> Recovery:
    whole = next((item for item in earlier if not item.damaged), None)
    if whole is None or whole.manifest is None:
        return Recovery(folder, damaged, is_lost=True)
    marks = whole.manifest.files
    sources = {
        name: whole.folder / name
        for name, mark in marks.items()
        if name in damaged or mark_of_file(folder / name, {mark.size}) != mark
    }
    return Recovery(folder, damaged, sources, whole.manifest, whole.epoch)


def recover(plan: Recovery) -> Path:
    """Bring a run back; return the folder that holds what was replaced."""
    # A kill at any moment leaves a damaged run and its earlier saves, from which the same plan brings it back.
    folder = plan.folder
    aside = _new_folder(folder)
    if plan.is_lost:
        for name in (*file_names.OF_A_RUN, file_names.SWEEP, *_DERIVED, file_names.MANIFEST):
            if (folder / name).exists():
                os.replace(folder / name, aside / name)
        return aside
    contents = {name: source.read_bytes() for name, source in plan.sources.items()}
    later: list[str] = []
    if plan.manifest is not None:
        later = [name for name in file_names.OF_A_RUN if name not in plan.manifest.files]
        contents[file_names.MANIFEST] = sealed(plan.manifest)  # it comes last
    with staged(folder, contents) as temporary:
        for name in dict.fromkeys([*plan.damaged, *later, *contents]):
            if (folder / name).exists():
                os.replace(folder / name, aside / name)
            if name in contents:
                os.replace(temporary[name], folder / name)
        sync_folder(folder)
    return aside


def _new_folder(folder: Path) -> Path:
    make_own_folder(folder / file_names.DAMAGED)
    free = next(place for n in count(1) if not (place := folder / file_names.DAMAGED / str(n)).exists())
    make_own_folder(free)
    return free


_MEANING = {
    file_names.MANIFEST: "nothing tells whether the other files are as they were written",
    file_names.RECIPE: "the settings of the run cannot be trusted",
    file_names.ENVIRONMENT: "versions and machine of the run cannot be trusted",
    file_names.GLOSSARY: "explanations of metrics cannot be trusted",
    file_names.HISTORY: "the losses of training cannot be trusted",
    file_names.MEASUREMENTS: "the measured numbers cannot be trusted",
    file_names.DEPTH: "the results over depth cannot be trusted",
    file_names.OBJECTIVE: "the objective cannot be trusted",
    file_names.SAMPLES: "the pictures of samples cannot be trusted",
    file_names.STATUS: "the state of the run cannot be trusted",
    file_names.RECORDING: "the recording cannot go on, and its weight-decay time cannot be trusted",
    file_names.CHECKPOINT: "training cannot go on from it, and its network cannot be measured",
    file_names.SWEEP: "the list of the sweep's runs cannot be trusted",
}


@dataclass(frozen=True)
class FileReport:
    """One file: its state, and what follows from it; empty if the file is whole."""

    name: str
    state: str
    meaning: str = ""


@dataclass(frozen=True)
class Verification:
    """What was found in one folder."""

    path: str
    state: str  # "whole", "damaged", "cut off" (killed in its first save), or "unchecked" (of a version without manifests)
    files: tuple[FileReport, ...]  # every file of the run
    earlier: tuple[FileReport, ...]  # earlier generations, named `previous/EPOCH`
    leftovers: tuple[str, ...]  # what a killed writer left
    advice: str  # what to do; empty if nothing


def verify(path: Path) -> tuple[Verification, ...]:
    """Check every file of a run, or of a sweep and then of each of its runs."""
    return tuple(_verify(folder) for folder in folders_of(path))


def _verify(folder: Path) -> Verification:
    plan = plan_recovery(folder)
    earlier = tuple(
        FileReport(
            f"{file_names.PREVIOUS}/{item.epoch}",
            "damaged" if item.damaged else "whole",
            f"{', '.join(item.damaged)}: not as written" if item.damaged else "",
        )
        for item in generations(folder)
    )
    state, files = _state_and_files(folder, plan)
    if state == "whole" and any(item.meaning for item in earlier):
        state = "damaged"
    left = tuple(path.name for path in leftovers(folder))
    return Verification(str(folder), state, files, earlier, left, _advice(folder, state, plan, earlier))


def _state_and_files(folder: Path, plan: Recovery | None) -> tuple[str, tuple[FileReport, ...]]:
    damaged = () if plan is None else plan.damaged
    try:
        CheckedFiles(folder)
        manifest, found = compared_files(folder)
    except DamagedRunError:
        return "damaged", (FileReport(file_names.MANIFEST, "damaged", _MEANING[file_names.MANIFEST]),)
    if manifest is None:
        present = [name for name in (*file_names.OF_A_RUN, file_names.SWEEP) if (folder / name).exists()]
        return "unchecked", tuple(FileReport(name, "unchecked") for name in present)
    if is_cut_off(manifest, found):
        return "cut off", ()
    reports = []
    for name, state in found.items():
        is_of_a_save = state in {"new", "old"}
        if name in damaged:
            # A file of a save is damaged if the checkpoint is of another save.
            reports.append(FileReport(name, "changed" if is_of_a_save else state, _MEANING.get(name, "it cannot be trusted")))
        else:
            reports.append(FileReport(name, "whole" if is_of_a_save else state))
    reports += [FileReport(name, "foreign", "it is no file of this run") for name in damaged if name not in found]
    return "damaged" if damaged else "whole", tuple(reports)


def _advice(folder: Path, state: str, plan: Recovery | None, earlier: tuple[FileReport, ...]) -> str:
    if state == "cut off":
        return "Nothing was saved. Give the same command again, `ncollapse run` with --resume."
    return advice(folder) if plan is not None or any(item.meaning for item in earlier) else ""


def repair(path: Path, *, does: bool) -> list[str]:
    """Bring a run, or all of a sweep, back to the last whole save, or only say what that would do; return lines about it."""
    lines: list[str] = []
    for folder in folders_of(path):
        # Locked first: files that another process is just writing are not damaged.
        with Lock(folder) if does else nullcontext():
            lines += _repair(folder, does)
    if not lines:
        return [f"{path}: nothing to repair."]
    return lines if does else [*lines, f"Nothing is changed yet. `ncollapse repair {shlex.quote(str(path))} --yes` does it."]


def _repair(folder: Path, does: bool) -> list[str]:
    plan = plan_recovery(folder)
    broken = [item.folder for item in generations(folder) if item.damaged]
    aside = f"What is replaced goes into {folder / file_names.DAMAGED}."
    lines = [f"{folder}: {plan.words()}. {aside} {_afterwards(folder, plan)}".rstrip()] if plan is not None else []
    lines += [f"{item}: is not as it was written, and goes into {folder / file_names.DAMAGED}." for item in broken]
    if does:
        remove_leftovers(folder)
        if plan is not None:
            recover(plan)
        for item in broken:
            if item.exists():
                os.replace(item, _new_folder(folder) / item.name)
    return lines


def _afterwards(folder: Path, plan: Recovery) -> str:
    """Say what to do after a repair."""
    if file_names.SWEEP in {*plan.damaged, *(path.name for path in (*folder.iterdir(), *folder.parent.iterdir()))}:
        return "Then give the command of the sweep again: its finished runs stay as they are."
    if plan.is_lost:
        look_at = f"`ncollapse report {shlex.quote(str(folder))} --unverified`"
        return f"{look_at} shows the files as they are now. Afterwards train or measure again with the same command."
    return "" if plan.epoch is None else f"Then finish it with `{_resuming(folder, plan)}`."


def _resuming(folder: Path, plan: Recovery) -> str:
    """Write the command that continues a run."""
    recipe = read_json(plan.sources.get(file_names.RECIPE, folder / file_names.RECIPE), RecipeSummary)
    settings = [*recipe.changed, *([f"seed={recipe.seed}"] if recipe.seed else [])]
    command = ["ncollapse", "run", recipe.name, "--out", str(folder), "--resume"]
    return shlex.join([*command, *(["--set", *settings] if settings else [])])
