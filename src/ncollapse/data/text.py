"""Texts as token ids: which words have ids, and how texts become rows of them."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from ncollapse.data.labeled import LabeledData
from ncollapse.data.places import DataFileError
from ncollapse.data.text_sets import TextSet, find_text_set
from ncollapse.recipes.data import Split

# Ids before those of words. Padding is what the networks' masks know.
_PADDING, _UNKNOWN = 0, 1
NUM_SPECIAL = 2
_MOST_IDS = 1 << 30


def load_text_set(text_set: TextSet, split: Split, *, root: str | None, vocabulary: int, length: int) -> LabeledData:
    """Return one half of a text set as token ids (N, length), int64, shorter texts padded behind."""
    # Ids and classes are those of the training half, whichever is loaded: 0 is padding, 1 a word without an id of its own, then
    # come the most frequent words. Classes are the labels in order, numbers by size.
    folder = find_text_set(text_set, split, root)
    training = text_set.read(folder, "train")
    wanted = training if split == "train" else text_set.read(folder, split)
    classes = _ordered(training.labels)
    if len(classes) < 2:
        raise DataFileError(
            f"{folder} must hold texts with two labels or more in the training half, got {classes[0]!r} alone. Collapse is "
            "about telling classes apart: add texts of another class."
        )
    unknown = set(wanted.labels) - set(classes)
    if unknown:
        raise DataFileError(
            f"{folder} must hold the labels of the training half in the {split} half too, got {sorted(unknown)[:5]} besides. "
            "Correct them, or add such texts to the training half."
        )
    training_words = words_of(training.texts)
    words = frequent_words(training_words, vocabulary)
    inputs = encode(training_words if split == "train" else words_of(wanted.texts), words, length)
    index = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([index[label] for label in wanted.labels], dtype=torch.int64)
    return LabeledData(inputs, labels, len(classes), text_set.name, vocabulary=len(words) + NUM_SPECIAL)


def words_of(texts: Iterable[str]) -> list[list[str]]:
    """Cut texts into lower-case words by scikit-learn's analyzer, one-letter words among them."""
    # Inside, since it takes a second and only texts need it.
    from sklearn.feature_extraction.text import CountVectorizer

    analyze = CountVectorizer(token_pattern=r"(?u)\b\w+\b").build_analyzer()
    return [analyze(text) for text in texts]


def frequent_words(texts: Iterable[Sequence[str]], number: int) -> list[str]:
    """Return the most frequent words; of equally frequent ones the first in the alphabet."""
    counts = Counter(word for text in texts for word in text)
    return sorted(counts, key=lambda word: (-counts[word], word))[:number]


def encode(texts: Sequence[Sequence[str]], words: Sequence[str], length: int) -> Tensor:
    """Turn words into ids."""
    if len(texts) * length > _MOST_IDS:
        raise ValueError(
            f"data.length must be at most {_MOST_IDS // len(texts)} for {len(texts)} texts, whose ids then take 8 GiB, got "
            f"{length}. Keep fewer words of a text."
        )
    index = {word: number for number, word in enumerate(words, start=NUM_SPECIAL)}
    ids = np.full((len(texts), length), _PADDING, dtype=np.int64)
    for row, text in zip(ids, texts, strict=True):
        found = [index.get(word, _UNKNOWN) for word in text[:length]] or [_UNKNOWN]
        row[: len(found)] = found
    return torch.from_numpy(ids)


def _ordered(labels: Iterable[str]) -> list[str]:
    distinct = sorted(set(labels))
    # Numbers of at most 18 digits: Python refuses those of thousands.
    if all(re.fullmatch(r"-?[0-9]{1,18}", label) for label in distinct):
        return sorted(distinct, key=int)
    return distinct
