"""Search for the files of a data set on this computer, and their download."""

import http.client
import os
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ncollapse.recipes.data import Split
from ncollapse.records.bounded import UnfitFileError, read_at_most
from ncollapse.records.files import write_whole

Content = TypeVar("Content")

_DOWNLOAD_TIMEOUT_SECONDS = 60


class DataFileError(ValueError):
    """A data file is there but damaged, or is not what its name says."""


class DataNotFoundError(ValueError):
    """A data set is in none of the places looked in, or could not be downloaded."""


def read_data(path: Path, most: int) -> bytes:
    """Return the content of a data file; one with more bytes than its set can have is refused before it is read."""
    try:
        return read_at_most(path, most)
    except UnfitFileError as error:
        raise DataFileError(
            f"{path}: {error}. The file is damaged or of another kind: delete it and fetch it again."
        ) from error


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ncollapse"


def search_places(system_folder: Path, root: str | None) -> tuple[Path, ...]:
    """List the folders in which a data set is looked for, first hit wins."""
    named = [_expanded(place) for place in (root, *_named_by_variable()) if place]
    return (*named, Path("data").absolute(), _cache_folder(), system_folder)


def download_folder(root: str | None) -> Path:
    """Say where downloaded files are kept."""
    return _expanded(root or next(iter(_named_by_variable()), None) or _cache_folder())


def _named_by_variable() -> list[str]:
    """Return the folders of $NCOLLAPSE_DATA, which are separated like those of $PATH."""
    return [place for place in os.environ.get("NCOLLAPSE_DATA", "").split(os.pathsep) if place]


def _expanded(place: str | Path) -> Path:
    try:
        return Path(place).expanduser()
    except RuntimeError as error:  # ~ of an unknown user
        raise DataNotFoundError(
            f"data.root and $NCOLLAPSE_DATA must name a folder, got {str(place)[:200]!r} ({error}). Write its whole path."
        ) from error


@dataclass(frozen=True)
class DataSet:
    """What is known of every set: its name, where a system package puts it, and how to get it otherwise."""

    name: str
    title: str
    system_folder: Path
    hint: str


def not_found(data_set: DataSet, split: Split, root: str | None, *, downloadable: bool) -> DataNotFoundError:
    """Make the error for a set that is in none of its places: it tells how to get the set."""
    places = ", ".join(map(str, search_places(data_set.system_folder, root)))
    allow = "or allow its download with --set data.download=true (download=True in Python), " if downloadable else ""
    return DataNotFoundError(
        f"{data_set.title} ({split}) was needed and not found in: {places}. Name its folder with --set data.root=FOLDER or "
        f"$NCOLLAPSE_DATA, {allow}{data_set.hint}."
    )


def fetch(
    title: str, addresses: Sequence[str], accept: Callable[[bytes, str], Content], target: Path, hint: str, most: int
) -> Content:
    """Fetch one file of at most so many bytes from the first address that has it whole, and keep it."""
    failures = []
    for address in addresses:
        try:
            with urllib.request.urlopen(address, timeout=_DOWNLOAD_TIMEOUT_SECONDS) as response:
                raw = response.read(most + 1)
            if len(raw) > most:
                raise DataFileError(f"needed at most {most} bytes, got more")
            content = accept(raw, address)
        except (OSError, http.client.HTTPException, DataFileError) as error:
            failures.append(f"{address}: {error}")
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, raw)
        return content
    raise DataNotFoundError(
        f"{title} was to be downloaded, every mirror failed ({'; '.join(failures)}). Check the network, {hint}."
    )
