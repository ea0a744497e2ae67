"""One save of a run: all its files replaced, so that a kill at any moment is told from damage, and earlier ones kept.

Earlier generations lie in ``previous/EPOCH``: what the files were at the saves before, to fall back to.
"""

import errno
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ncollapse.records import file_names
from ncollapse.records.errors import ReportError
from ncollapse.records.files import check_no_folder, make_own_folder, staged, sync_folder, write_whole
from ncollapse.records.manifest import Manifest, Mark, damaged_files, mark_of, mark_of_file, read_manifest, sealed, states

# The manifest twice: with the files of before, and without.
_UNDER_WAY, _DONE = f"{file_names.MANIFEST}.under-way", file_names.MANIFEST
# How file systems answer that have no hard links, or not that many.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EXDEV, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


def save_files(
    folder: Path,
    contents: Mapping[str, bytes],
    held: Manifest | None,
    *,
    epoch: int | None = None,
    recipe: str | None = None,
    keep: int = 1,
) -> Manifest:
    """Write files of a run in the order of their names, and their manifest around them; return what is now on the disk."""
    # `held` is what is on the disk, as `held_files` finds it; None if it does not count: a new run, or one that replaces
    # another, whose files go. Files that hold their content already are not written.
    before = {} if held is None else held.files
    marks = {name: mark_of(content) for name, content in contents.items()}
    done = Manifest({**before, **marks}, None, epoch, recipe)
    if held == done:
        return done
    under_way = Manifest(done.files, before, epoch, recipe)
    changed = {name: content for name, content in contents.items() if before.get(name) != marks[name]}
    gone = {*file_names.OF_A_RUN, file_names.REPORT} - contents.keys() if held is None else ()
    for name in gone:
        check_no_folder(folder / name)
    # Everything is on the disk under temporary names before the first file is replaced: a full disk changes nothing.
    with staged(folder, {_UNDER_WAY: sealed(under_way), **changed, _DONE: sealed(done)}) as temporary:
        if held is not None and keep > 1 and _is_generation(held, epoch):
            keep_generation(folder, held, changed)
        os.replace(temporary[_UNDER_WAY], folder / file_names.MANIFEST)
        if held is None:
            drop_generations(folder, 0)
            for name in gone:
                (folder / name).unlink(missing_ok=True)
        for name in changed:
            os.replace(temporary[name], folder / name)
        os.replace(temporary[_DONE], folder / file_names.MANIFEST)
        # Once is enough: were a power cut to keep a later rename and not an earlier one, the manifest would tell.
        sync_folder(folder)
    if file_names.CHECKPOINT in contents:
        drop_generations(folder, keep - 1)
    return done


def _is_generation(held: Manifest, epoch: int | None) -> bool:
    """Whether what is on the disk is a run that can go on, from an earlier epoch; not what a kill left of a save."""
    is_earlier = held.epoch is not None and epoch is not None and held.epoch < epoch
    return is_earlier and held.previous is None and file_names.CHECKPOINT in held.files


def held_files(folder: Path) -> Manifest | None:
    """Find what a run holds, which of a save that was cut off is a mixture; None where there is no whole file."""
    manifest = read_manifest(folder)
    if manifest is None:
        marks = {name: mark_of_file(folder / name) for name in (*file_names.OF_A_RUN, file_names.SWEEP)}
        found: dict[str, Mark] = {name: mark for name, mark in marks.items() if mark is not None}
        return Manifest(found) if found else None
    old = manifest.previous or {}
    kept = {
        name: manifest.files[name] if state == "new" else old[name]
        for name, state in states(folder, manifest).items()
        if state == "new" or (state == "old" and name in old)
    }
    return Manifest(kept, manifest.previous, manifest.epoch, manifest.recipe)


@dataclass(frozen=True)
class Generation:
    """One earlier generation; ``damaged`` lists files that are not as they were written, its own manifest among them."""

    folder: Path
    epoch: int
    manifest: Manifest | None
    damaged: tuple[str, ...]


def generations(folder: Path) -> list[Generation]:
    """Find the generations of a run, newest first, and check every file of them."""
    try:
        present = read_manifest(folder)
    except ReportError:
        present = None
    found: list[Generation] = []
    for path in _folders(folder):
        # Without a manifest it was killed while it was made, before the present manifest, or while it went, after a newer one.
        was_killed = (present is not None and path.name == str(present.epoch)) or any(item.manifest for item in found)
        if (path / file_names.MANIFEST).exists() or not was_killed:
            found.append(_generation(path))
    return found


def _folders(folder: Path) -> list[Path]:
    previous = folder / file_names.PREVIOUS
    if not previous.is_dir() or previous.is_symlink():
        return []
    found = [path for path in previous.iterdir() if path.name.isdecimal() and path.is_dir() and not path.is_symlink()]
    return sorted(found, key=lambda path: int(path.name), reverse=True)


def _generation(folder: Path) -> Generation:
    try:
        manifest = read_manifest(folder)
    except ReportError:
        manifest = None
    found = (file_names.MANIFEST,) if manifest is None else tuple(damaged_files(states(folder, manifest)))
    return Generation(folder, int(folder.name), manifest, found)


def keep_generation(folder: Path, held: Manifest, replaced: Collection[str]) -> None:
    """Keep what a run holds before a save replaces some of its files."""
    # Files that are replaced are kept by a link, which costs nothing. Others are copied, once for all generations: were they
    # linked, a damaged block of the disk would damage both.
    own = folder / file_names.PREVIOUS / str(held.epoch)
    if (own / file_names.MANIFEST).exists():
        return
    make_own_folder(own.parent)
    make_own_folder(own)
    older = next((path for path in _folders(folder) if path != own), None)
    for name, mark in held.files.items():
        if mark_of_file(own / name, {mark.size}) == mark:
            # Kept by a save that was killed here.
            continue
        if name in replaced:
            _link(folder / name, own / name)
        elif older is not None and mark_of_file(older / name, {mark.size}) == mark:
            _link(older / name, own / name)
        else:
            write_whole(own / name, (folder / name).read_bytes())
    # It comes last: a generation without it was never finished.
    _link(folder / file_names.MANIFEST, own / file_names.MANIFEST)
    sync_folder(own)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except FileExistsError:
        # Left by a save that was killed here.
        target.unlink()
        _link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        write_whole(target, source.read_bytes())


def drop_generations(folder: Path, kept: int) -> None:
    """Remove all but the newest generations, and those that were never finished."""
    for path in _folders(folder):
        if kept and (path / file_names.MANIFEST).exists():
            kept -= 1
            continue
        (path / file_names.MANIFEST).unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
