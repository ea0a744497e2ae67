"""Texts with labels from their files: WordNet's glosses, the IMDB folder, tables of the user's own."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ncollapse.data.places import DataFileError, read_data
from ncollapse.recipes.data import Split

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl")

_WORDNET_PARTS = ("noun", "verb", "adj", "adv")
# Every tenth gloss of a file is kept for testing: WordNet itself has no test part.
_WORDNET_TEST = 10
_NUM_LEXICOGRAPHER_FILES = 45
_SENTIMENTS = ("neg", "pos")
# A gigabyte of text fills about ten as words. The largest file of WordNet, data.noun, has 15 MB.
_LARGEST = 1 << 30


@dataclass(frozen=True)
class LabeledTexts:
    """Texts, and for each its label as the files have it."""

    texts: list[str]
    labels: list[str]


def read_wordnet(folder: Path, split: Split) -> LabeledTexts:
    """Read the glosses of WordNet; the label is the number of the lexicographer file, 00 to 44."""
    # A line of ``data.noun`` and the like is ``offset file_number type ... | gloss``; lines of the license begin with a space.
    #
    # Reference:
    #     C. Fellbaum (1998), WordNet, MIT Press; file format: its manual page wndb(5).
    texts, labels = [], []
    for part in _WORDNET_PARTS:
        path = folder / f"data.{part}"
        lines = enumerate(io.StringIO(_decoded(path)), start=1)
        synsets = ((number, line) for number, line in lines if not line.startswith(" "))
        for index, (number, line) in enumerate(synsets):
            fields, bar, gloss = line.partition("|")
            file_number = fields[9:11]
            if not bar or not file_number.isdecimal() or int(file_number) >= _NUM_LEXICOGRAPHER_FILES:
                raise DataFileError(
                    f"{path}, line {number} must hold a synset, 'offset file_number ... | gloss', got {line[:40]!r}. "
                    "The file is damaged or of another kind: install it again."
                )
            if (index % _WORDNET_TEST == _WORDNET_TEST - 1) == (split == "test"):
                texts.append(gloss.strip())
                labels.append(file_number)
    return LabeledTexts(texts, labels)


def read_imdb(folder: Path, split: Split) -> LabeledTexts:
    """Read film reviews with the labels ``neg`` and ``pos`` from the folder of the Large Movie Review Dataset."""
    # Reference:
    #     A. L. Maas et al. (2011), Learning word vectors for sentiment analysis, ACL.
    texts, labels = [], []
    for sentiment in _SENTIMENTS:
        paths = sorted((folder / split / sentiment).glob("*.txt"))
        if not paths:
            raise DataFileError(f"{folder / split / sentiment} must hold reviews *.txt, got none. Unpack the archive again.")
        texts += [_decoded(path).replace("<br />", " ") for path in paths]
        labels += [sentiment] * len(paths)
    return LabeledTexts(texts, labels)


def read_table(path: Path) -> LabeledTexts:
    """Read a table with the columns ``text`` and ``label``: CSV or TSV with a header, or one JSON object per line."""
    texts, labels = [], []
    for number, row in _rows(path):
        text, label = row.get("text"), row.get("label")
        if not isinstance(text, str) or not isinstance(label, str | int | float) or label == "":
            raise DataFileError(
                f"{path}, line {number} must hold a text and a label under these names, got {sorted(map(str, row))[:8]} with "
                f"text {text!r:.40} and label {label!r}. Name the columns text and label, and fill both."
            )
        texts.append(text)
        labels.append(str(label))
    if not texts:
        raise DataFileError(f"{path} must hold rows with a text and a label, got none.")
    return LabeledTexts(texts, labels)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # newline="": the reader of CSV itself keeps line breaks inside quotes.
    lines = io.StringIO(_decoded(path).removeprefix("\ufeff"), newline="")
    if path.suffix != ".jsonl":
        reader = csv.DictReader(lines, delimiter="\t" if path.suffix == ".tsv" else ",")
        try:
            yield from ((reader.line_num, row) for row in reader)
        except csv.Error as error:
            raise DataFileError(
                f"{path}, line {reader.line_num} must hold cells of at most {csv.field_size_limit()} characters, reading it "
                f"failed ({error}). Close its quotes, or cut the text."
            ) from error
        return
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, _json_object(path, number, line)


def _decoded(path: Path) -> str:
    raw = read_data(path, _LARGEST)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before, byte = raw[: error.start], raw[error.start]
        line = before.count(b"\n") + 1
        raise DataFileError(
            f"{path}, line {line} must hold text in UTF-8, got the byte 0x{byte:02x} after "
            f"{before[-20:].decode('utf-8', 'replace')!r}. Save the file as UTF-8, such as by: iconv -f LATIN1 -t UTF-8."
        ) from error


def _json_object(path: Path, number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:  # also of numbers of thousands of digits, and of nesting
        raise DataFileError(
            f"{path}, line {number} must hold a JSON object, reading it failed ({error}). Write one object per line."
        ) from error
    if not isinstance(row, dict):
        raise DataFileError(f"{path}, line {number} must hold a JSON object, got {line.strip()[:40]!r}.")
    return row
