"""``manifest.json``: the SHA-256 and size of every file of a run, which tell a damaged file from one that was written so.

A save first writes the manifest of what it is about to write, which also lists the files of before; then the files; then the
manifest without those of before. Whoever finds a file that is neither of the two knows that it was damaged, not cut off.
"""

import hashlib
import os
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ncollapse.recipe_fingerprint import recipe_fingerprint
from ncollapse.records import file_names
from ncollapse.records.bounded import UnfitFileError, open_regular
from ncollapse.records.errors import DamagedRunError, ReportError
from ncollapse.records.json_files import RUN_AGAIN, Read, decode, encode, fail, read_bytes, read_json
from ncollapse.version import __version__

FORMAT = 1
# In `environment.json`: the run was written with a manifest. Versions up to 0.2.0 wrote neither.
NOTED = "manifest"
# A reader may meet a running save, then the next one.
_ATTEMPTS = 5
_PIECE = 1 << 20
# A run has a dozen files.
_MOST_FILES = 1000
_NEVER_LISTED = {file_names.MANIFEST, file_names.PREVIOUS, file_names.DAMAGED, file_names.FIGURES}
# What is wrong with a file, in words.
CHANGED, MISSING = "was changed after it was written", "is missing"
_FOREIGN = f"is no file of this run ({file_names.MANIFEST} does not list it)"

# new: as the manifest says; old: as it was before the save under way; changed or missing: damaged.
State = Literal["new", "old", "changed", "missing"]


@dataclass(frozen=True)
class Mark:
    """By what a file's content is known."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """The whole file."""

    files: dict[str, Mark]
    # The files before the save that is under way; None while there is none. Empty during the first save: what lies there does
    # not count, be it nothing or a run that is being replaced.
    previous: dict[str, Mark] | None = None
    epoch: int | None = None  # of the tables and the checkpoint
    recipe: str | None = None  # the fingerprint of the recipe, where there is one
    version: str = __version__  # of the library that wrote it
    format: int = FORMAT  # of this file
    digest: str = ""  # SHA-256 of the rest of this file


def mark_of(content: bytes) -> Mark:
    """Return the mark of a content."""
    return Mark(hashlib.sha256(content).hexdigest(), len(content))


def mark_of_file(path: Path, sizes: Collection[int] | None = None) -> Mark | None:
    """Return the mark of a file; None where there is none."""
    # A link, a pipe, or a file of another size than those that are possible has a mark that no content has; it is not read.
    try:
        with open_regular(path, follow=False) as file:
            size = os.fstat(file.fileno()).st_size
            if sizes is not None and size not in sizes:
                return Mark("", size)
            digest = hashlib.sha256()
            while piece := file.read(_PIECE):
                digest.update(piece)
            return Mark(digest.hexdigest(), size)
    except FileNotFoundError:
        return None
    except UnfitFileError:
        return Mark("", 0)


def sealed(manifest: Any) -> bytes:
    """Write a record that has a digest as the content of its file."""
    content = encode(replace(manifest, digest=""))
    return content.replace(b'"digest": ""', b'"digest": "%b"' % hashlib.sha256(content).hexdigest().encode())


def is_sealed(content: bytes, digest: str) -> bool:
    """Whether a file with a digest holds what was written."""
    blank = re.sub(rb'"digest": "[0-9a-f]{64}"', b'"digest": ""', content)
    return hashlib.sha256(blank).hexdigest() == digest


def read_manifest(folder: Path) -> Manifest | None:
    """Read the manifest of a folder, which must not have been changed; None where there is none."""
    file = folder / file_names.MANIFEST
    if not os.path.lexists(file):
        return None
    content = read_bytes(file)
    try:
        manifest = decode(file, content, Manifest)
    except ReportError:
        manifest = None
    if manifest is None or not is_sealed(content, manifest.digest):
        raise DamagedRunError(f"{file}: {CHANGED}. {advice(folder)}")
    if manifest.format > FORMAT:
        raise ReportError(f"{file}: must have format {FORMAT} at most, has {manifest.format}. Update ncollapse.")
    # A folder may come from anybody: what is restored by these names must not land outside of it, or on what it is made from.
    names = {*manifest.files, *(manifest.previous or ())}
    unfit = sorted(name for name in names if not _is_plain(name))
    if unfit or len(names) > _MOST_FILES:
        found = repr(unfit[0][:100]) if unfit else f"{len(names)} files"
        raise ReportError(f"{file}: must list files of one run in its own folder, lists {found}. Do not use this folder.")
    return manifest


def _is_plain(name: str) -> bool:
    """Whether a name may be that of a file in its folder, on any system."""
    hidden = not name or name.startswith(".")
    return not hidden and name.isprintable() and not {*name} & {*"/\\:"} and name not in _NEVER_LISTED


def advice(folder: Path) -> str:
    """Name the command that helps with a damaged run."""
    # Quoted: the name of somebody else's folder may hold a command of its own.
    return f"`ncollapse repair {shlex.quote(str(folder))}` says what can be saved."


def states(folder: Path, manifest: Manifest) -> dict[str, State]:
    """Compare every listed file with the manifest."""
    places = (manifest.files, manifest.previous or {})
    names = dict.fromkeys(name for files in places for name in files)
    sizes = {name: {files[name].size for files in places if name in files} for name in names}
    found = {name: _state(name, mark_of_file(folder / name, sizes[name]), manifest) for name in names}
    if found.get(file_names.RECIPE) == "new" and _is_of_another_recipe(folder / file_names.RECIPE, manifest):
        found[file_names.RECIPE] = "changed"
    return found


def _is_of_another_recipe(file: Path, manifest: Manifest | None, read: Read = read_bytes) -> bool:
    """Whether a recipe is not the one that the run was made from, although the manifest lists it: both were edited."""
    # A later version may leave out more fields.
    if manifest is None or manifest.recipe is None or manifest.version != __version__:
        return False
    try:
        return recipe_fingerprint(read_json(file, dict[str, Any], read=read)) != manifest.recipe
    except ReportError:
        return True


def _state(name: str, mark: Mark | None, manifest: Manifest) -> State:
    if mark is None:
        # A save that is cut off has not yet made a new file, or has removed an old one.
        may_lack = manifest.previous is not None and not (name in manifest.files and name in manifest.previous)
        return "old" if may_lack else "missing"
    if mark == manifest.files.get(name):
        return "new"
    return "old" if mark == (manifest.previous or {}).get(name) else "changed"


def is_cut_off(manifest: Manifest | None, found: Mapping[str, State]) -> bool:
    """Whether a first save has not come to its end: nothing before it counts."""
    return manifest is not None and manifest.previous == {} and set(found.values()) != {"new"}


def damaged_files(found: Mapping[str, State]) -> list[str]:
    """List the files that are not as a save left them, were it cut off or not."""
    damaged = [name for name, state in found.items() if state in {"changed", "missing"}]
    # The tables are replaced before the checkpoint, and the status after it.
    if found.get(file_names.CHECKPOINT) == "new":
        damaged += [name for name, state in found.items() if state == "old" and name != file_names.STATUS]
    return damaged


def compared_files(folder: Path) -> tuple[Manifest | None, dict[str, State]]:
    """Read the manifest of a folder and compare every file; where a run is just being saved, until nothing moves."""
    before = None
    for _ in range(_ATTEMPTS):
        manifest = read_manifest(folder)
        found = {} if manifest is None else states(folder, manifest)
        if not damaged_files(found) or (manifest, found) == before:
            break
        before = manifest, found
    return manifest, found


class CheckedFiles:
    """The files of a run, each read once and compared with the manifest; if ``unverified``, changed ones are read too."""

    def __init__(self, folder: Path, *, unverified: bool = False) -> None:
        self.folder, self.unverified = folder, unverified
        self.changed: list[str] = []
        self.manifest: Manifest | None = None
        try:
            self.manifest = read_manifest(folder)
            # Without a manifest files are taken as they are if an older version wrote them.
            if self.manifest is None:
                _check_former(folder)
        except DamagedRunError:
            if not unverified:
                raise
            self.changed.append(file_names.MANIFEST)

    @property
    def is_under_way(self) -> bool:
        """Whether a save is under way, or was cut off: some files may be those of the save before."""
        return self.manifest is not None and self.manifest.previous is not None

    def has(self, name: str) -> bool:
        """Whether the run has a file; one that was deleted is missed when it is read."""
        exists = (self.folder / name).exists()
        if self.manifest is None:
            return exists
        places = [self.manifest.files, *([] if self.manifest.previous is None else [self.manifest.previous])]
        listed = any(name in files for files in places)
        if exists and not listed:
            self._differs(self.folder / name, _FOREIGN)
        # A save that is under way may not have made it yet.
        return exists or (all(name in files for files in places) and not self.unverified)

    def read(self, file: Path, remedy: str = RUN_AGAIN) -> bytes:
        """Read a file of the run and check it."""
        content = b""

        def look() -> Mark:
            nonlocal content
            content = read_bytes(file, remedy)
            return mark_of(content)

        self._compare(file, look, remedy)
        if file.name == file_names.RECIPE and _is_of_another_recipe(file, self.manifest, lambda *_: content):
            self._differs(file, CHANGED)
        return content

    def check(self, name: str) -> None:
        """Check a file that may be large."""
        if self.manifest is not None:
            self._compare(self.folder / name, lambda: mark_of_file(self.folder / name), RUN_AGAIN)

    def _compare(self, file: Path, look: Callable[[], Mark | None], remedy: str) -> None:
        for _ in range(_ATTEMPTS):
            try:
                mark = look()
            except ReportError:
                # Missing: words for it follow if the manifest lists it.
                if self.manifest is None or os.path.lexists(file):
                    raise
                mark = None
            if self.manifest is None or (mark is not None and _state(file.name, mark, self.manifest) in {"new", "old"}):
                return
            # Perhaps a later save is under way.
            before, self.manifest = self.manifest, read_manifest(self.folder)
            if self.manifest == before:
                break
        if mark is None and (self.unverified or file.name not in before.files):
            fail(file, "is missing", remedy)
        if before.previous == {} and not self.unverified:
            fail(file, "is not written yet, or its first save was cut off", remedy)
        self._differs(file, MISSING if mark is None else CHANGED)

    def _differs(self, file: Path, how: str) -> None:
        if not self.unverified:
            raise DamagedRunError(f"{file}: {how}. {advice(self.folder)}")
        if file.name not in self.changed:
            self.changed.append(file.name)


def _check_former(folder: Path) -> None:
    """Check that an older version, or another maker, wrote a folder without a manifest."""
    try:
        noted = read_json(folder / file_names.ENVIRONMENT, dict[str, Any])
    except (OSError, ReportError):
        return
    if NOTED in noted:
        raise DamagedRunError(
            f"{folder / file_names.MANIFEST}: is missing, so nothing tells whether the other files are as they were written. "
            f"{advice(folder)}"
        )
