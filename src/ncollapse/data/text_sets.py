"""Text sets: what is known of each, and where it is found. Needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ncollapse.data.places import DataSet, not_found, search_places
from ncollapse.data.text_files import TABLE_SUFFIXES, LabeledTexts, read_imdb, read_table, read_wordnet
from ncollapse.recipes.data import Split


@dataclass(frozen=True)
class TextSet(DataSet):
    """What is known of one set of texts."""

    folder: str
    holds: Callable[[Path, Split], bool]
    read: Callable[[Path, Split], LabeledTexts]
    num_classes: int | None = None


WORDNET = TextSet(
    name="wordnet",
    title="WordNet's glosses",
    folder="wordnet",
    system_folder=Path("/usr/share/wordnet"),
    holds=lambda folder, split: (folder / "data.noun").is_file(),
    read=read_wordnet,
    hint="or, on Debian, run: apt-get install wordnet-base",
    num_classes=45,
)

IMDB = TextSet(
    name="imdb",
    title="The IMDB reviews",
    folder="aclImdb",
    system_folder=Path("/usr/share/datasets/imdb"),
    holds=lambda folder, split: (folder / split / "pos").is_dir(),
    read=read_imdb,
    hint="after unpacking aclImdb_v1.tar.gz from https://ai.stanford.edu/~amaas/data/sentiment/ there",
    num_classes=2,
)

OWN_TEXTS = TextSet(
    name="texts",
    title="A table of texts",
    folder="texts",
    system_folder=Path("/usr/share/datasets/texts"),
    holds=lambda folder, split: _table(folder, split) is not None,
    read=lambda folder, split: read_table(_table(folder, split) or folder),
    hint="with train.csv, train.tsv or train.jsonl in it (test.* likewise), columns text and label",
)

TEXT_SETS = {text_set.name: text_set for text_set in (WORDNET, IMDB, OWN_TEXTS)}


def find_text_set(text_set: TextSet, split: Split, root: str | None) -> Path:
    """Return the folder of a set that holds a split."""
    for place in search_places(text_set.system_folder, root):
        for folder in (place / text_set.folder, place):
            if text_set.holds(folder, "train") and text_set.holds(folder, split):
                return folder
    raise not_found(text_set, split, root, downloadable=False)


def _table(folder: Path, split: Split) -> Path | None:
    return next((path for suffix in TABLE_SUFFIXES if (path := folder / f"{split}{suffix}").is_file()), None)
