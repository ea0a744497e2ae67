"""Where data sets lie on this computer, and how a file of theirs is fetched."""

import http.client
import os
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

from ncollapse.data.images import DataFileError
from ncollapse.records.files import write_whole

__all__ = ["DataNotFoundError", "Split", "download_folder", "fetch", "say_not_found", "search_places"]

Split = Literal["train", "test"]
Content = TypeVar("Content")

_DOWNLOAD_TIMEOUT_SECONDS = 60


class DataNotFoundError(ValueError):
    """A data set is in none of the places looked in, or could not be downloaded."""


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ncollapse"


def search_places(system_folder: Path, root: str | None) -> tuple[Path, ...]:
    """Lists the folders in which a data set is looked for, first hit wins."""
    named = [Path(place).expanduser() for place in (root, os.environ.get("NCOLLAPSE_DATA")) if place]
    return (*named, Path("data").absolute(), _cache_folder(), system_folder)


def download_folder(root: str | None) -> Path:
    """Says where downloaded files are kept."""
    return Path(root or os.environ.get("NCOLLAPSE_DATA") or _cache_folder()).expanduser()


def say_not_found(title: str, split: Split, places: Sequence[Path], hint: str, *, downloadable: bool = True) -> str:
    """Says that a set is in none of its places, and how to get it."""
    allow = "or allow download=True, " if downloadable else ""
    return (
        f"{title} ({split}) was needed and not found in: {', '.join(map(str, places))}. Name its folder "
        f"with root or $NCOLLAPSE_DATA, {allow}{hint}."
    )


def fetch(title: str, addresses: Sequence[str], accept: Callable[[bytes, str], Content], target: Path, hint: str) -> Content:
    """Fetches one file from the first address that has it whole, and keeps it."""
    failures = []
    for address in addresses:
        try:
            with urllib.request.urlopen(address, timeout=_DOWNLOAD_TIMEOUT_SECONDS) as response:
                raw = response.read()
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
