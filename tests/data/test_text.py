"""Text sets: each format as its publisher writes it, words and ids, and what is said where a set is missing or damaged."""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
import torch

from ncollapse.data import DataConfig, DataFileError, DataNotFoundError, LabeledData, load_samples
from ncollapse.data.text import encode, frequent_words, words_of
from ncollapse.data.text_files import read_imdb, read_table, read_wordnet
from ncollapse.data.text_sets import WORDNET

# As in WordNet 3.0, shortened: a license whose lines begin with a space, then synsets.
LICENSE = "  1 This software and database is being provided to you, the LICENSEE, by  \n  2 Princeton University\n"
SYNSET = "{:08d} {} n 01 entity 0 003 ~ 00001930 n 0000 ~ 00002137 n 0000 ~ 04424418 n 0000 | {}  \n"
REAL = Path("/usr/share/wordnet/data.noun")


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No place of this computer in the search path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCOLLAPSE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def wordnet(folder: Path) -> Path:
    """12 nouns of files 03 and 05, and one synset of every other type."""
    folder.mkdir(parents=True)
    lines = [SYNSET.format(1000 + i, "03" if i % 2 else "05", f"a thing, number {i}; 'a \"thing\"'") for i in range(12)]
    (folder / "data.noun").write_text(LICENSE + "".join(lines))
    for part, number in (("verb", "29"), ("adj", "00"), ("adv", "02")):
        (folder / f"data.{part}").write_text(LICENSE + SYNSET.format(7, number, f"the only {part}"))
    return folder


def imdb(folder: Path) -> Path:
    for split in ("train", "test"):
        for sentiment, words in (("neg", "Dull.<br /><br />Very dull"), ("pos", "A delight!")):
            (folder / split / sentiment).mkdir(parents=True)
            for number in range(2):
                (folder / split / sentiment / f"{number}_{9 * (sentiment == 'pos') + 1}.txt").write_text(f"{words} {split}")
    (folder / "train" / "unsup").mkdir()
    return folder


def test_wordnet_as_debian_installs_it(tmp_path: Path) -> None:
    folder = wordnet(tmp_path / "usr" / "share" / "wordnet")
    train, test = read_wordnet(folder, "train"), read_wordnet(folder, "test")
    assert train.texts[:2] == ["a thing, number 0; 'a \"thing\"'", "a thing, number 1; 'a \"thing\"'"]
    assert Counter(train.labels) == {"03": 5, "05": 6, "29": 1, "00": 1, "02": 1}
    assert (test.texts, test.labels) == (["a thing, number 9; 'a \"thing\"'"], ["03"])
    data = load_samples(DataConfig("wordnet", root=str(folder), length=4))
    assert data.inputs.shape == (14, 4)
    assert data.num_classes == 5
    assert data.labels[:2].tolist() == [3, 2]
    assert data.sample_shape == (4,)


@pytest.mark.parametrize(
    "line", ["no synset at all\n", SYNSET.format(1, "45", "beyond the files"), "00000001 03 n 01 entity\n"]
)
def test_wordnet_damaged(tmp_path: Path, line: str) -> None:
    folder = wordnet(tmp_path / "w")
    (folder / "data.adv").write_text(LICENSE + line)
    with pytest.raises(DataFileError, match=r"data\.adv, line 3 must hold a synset"):
        read_wordnet(folder, "train")


def test_wordnet_itself_if_it_is_here() -> None:
    folder = next((place for place in (REAL.parent, Path(os.environ.get("NCOLLAPSE_WORDNET", "-"))) if place.is_dir()), None)
    if folder is None:
        pytest.skip("Debian's wordnet-base is not installed")
    train, test = read_wordnet(folder, "train"), read_wordnet(folder, "test")
    assert len(train.texts) + len(test.texts) == 117_659
    assert len(set(train.labels)) == 45


def test_imdb_in_its_standard_folder(tmp_path: Path) -> None:
    imdb(tmp_path / "root" / "aclImdb")
    read = read_imdb(tmp_path / "root" / "aclImdb", "train")
    assert read.texts == ["Dull.  Very dull train"] * 2 + ["A delight! train"] * 2
    assert read.labels == ["neg", "neg", "pos", "pos"]
    data = load_samples(DataConfig("imdb", root=str(tmp_path / "root"), length=5))
    # dull 4, train 4, then by the alphabet: a 2, delight 2, very 2.
    assert data.inputs.tolist() == [[2, 6, 2, 3, 0]] * 2 + [[4, 5, 3, 0, 0]] * 2
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert (data.num_classes, data.vocabulary) == (2, 7)
    # The word "test" is unknown to the training half, whose ids hold.
    test = load_samples(DataConfig("imdb", split="test", root=str(tmp_path / "root"), length=5))
    assert test.inputs.tolist() == [[2, 6, 2, 1, 0]] * 2 + [[4, 5, 1, 0, 0]] * 2
    for path in (tmp_path / "root" / "aclImdb" / "train" / "pos").iterdir():
        path.unlink()
    (tmp_path / "root" / "aclImdb" / "train" / "neg" / "0_0.txt").write_bytes("Très\nmauvais, très".encode("latin-1"))
    with pytest.raises(DataFileError, match=r"0_0\.txt, line 1 must hold text in UTF-8, got the byte 0xe8 after 'Tr'"):
        read_imdb(tmp_path / "root" / "aclImdb", "train")
    (tmp_path / "root" / "aclImdb" / "train" / "neg" / "0_0.txt").unlink()
    with pytest.raises(DataFileError, match="must hold reviews"):
        read_imdb(tmp_path / "root" / "aclImdb", "train")


ROWS = [("Red, round", "apple"), ('a "long"\nyellow one', "banana"), ("red again", "apple")]


@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl"])
def test_tables_of_ones_own(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"train.{suffix}"
    if suffix == "jsonl":
        path.write_text("\n".join(json.dumps({"label": label, "text": text, "more": 1}) for text, label in ROWS))
    else:
        mark = "," if suffix == "csv" else "\t"
        quoted = [(text.replace('"', '""'), label) for text, label in ROWS]
        path.write_text(f"text{mark}label\n" + "".join(f'"{text}"{mark}{label}\n' for text, label in quoted))
    assert list(zip(read_table(path).texts, read_table(path).labels, strict=True)) == ROWS
    data = load_samples(DataConfig("texts", root=str(tmp_path), vocabulary=1, length=3))
    assert data.inputs.tolist() == [[2, 1, 0], [1, 1, 1], [2, 1, 0]]
    assert data.labels.tolist() == [0, 1, 0]
    assert data.vocabulary == 3


def test_numbers_as_labels_are_ordered_by_size_and_empty_texts_have_one_unknown_word(tmp_path: Path) -> None:
    lines = [{"text": word, "label": label} for word, label in (("b", 10), ("a", 9), ("?!", 9))]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    data = load_samples(DataConfig("texts", root=str(tmp_path), length=2))
    assert data.labels.tolist() == [1, 0, 0]
    assert data.inputs.tolist() == [[3, 0], [2, 0], [1, 0]]


@pytest.mark.parametrize(("suffix", "content"), [("csv", "text,label\nred,1\ncafé,2\n"), ("jsonl", '{}\n\n{"a": "café"}')])
def test_a_table_in_another_encoding_is_told_with_its_place(tmp_path: Path, suffix: str, content: str) -> None:
    path = tmp_path / f"train.{suffix}"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(
        DataFileError, match=rf"train\.{suffix}, line 3 must hold text in UTF-8, got the byte 0xe9 after .*caf'"
    ):
        load_samples(DataConfig("texts", root=str(tmp_path)))
    path.write_text("\ufefftext\tlabel\ncafé\t1\nthé\t2\n", encoding="utf-8")
    assert read_table(path.rename(tmp_path / "train.tsv")).texts == ["café", "thé"]


def test_texts_of_one_class_are_refused(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,good\nb,good\n")
    with pytest.raises(
        DataFileError, match=r"must hold texts with two labels or more in the training half, got 'good' alone.*add"
    ):
        load_samples(DataConfig("texts", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("train.csv", "words,label\na,b\n", r"train\.csv, line 2 must hold a text and a label .* got \['label', 'words'\]"),
        ("train.csv", "text,label\na,\n", "line 2 must hold a text and a label"),
        ("train.csv", "text,label\n", "must hold rows with a text and a label, got none"),
        ("train.jsonl", '{"text": "a", "label": 1}\n{"text": \n', r"train\.jsonl, line 2 must hold a JSON object, reading"),
        ("train.jsonl", "[1]\n", r"line 1 must hold a JSON object, got '\[1\]'"),
        ("train.jsonl", '{"text": 3, "label": 1}\n', "line 1 must hold a text and a label"),
    ],
)
def test_damaged_tables(tmp_path: Path, name: str, content: str, words: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(DataFileError, match=words):
        read_table(tmp_path / name)


def test_a_label_that_training_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\na,b\na,d\n")
    (tmp_path / "test.csv").write_text("text,label\na,c\n")
    with pytest.raises(DataFileError, match=r"labels of the training half in the test half too, got \['c'\]"):
        load_samples(DataConfig("texts", split="test", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("wordnet", "apt-get install wordnet-base"), ("imdb", r"aclImdb_v1\.tar\.gz"), ("texts", r"train\.csv, train\.tsv")],
)
def test_missing_sets_say_where_was_looked_and_what_to_do(
    name: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ncollapse.data.text_sets.search_places", lambda system, root: (Path(str(root)),))
    with pytest.raises(DataNotFoundError, match=rf"not found in: {tmp_path}.*{remedy}"):
        load_samples(DataConfig(name, root=str(tmp_path)))
    assert str(WORDNET.system_folder) == "/usr/share/wordnet"


def test_words_and_ids() -> None:
    words = words_of(["The CAT, the dog's bed", "été 42"])
    assert words == [["the", "cat", "the", "dog", "s", "bed"], ["été", "42"]]
    assert frequent_words(words, 3) == ["the", "42", "bed"]
    assert encode(words, ["the", "42", "bed"], 4).tolist() == [[2, 1, 2, 1], [1, 3, 0, 0]]


def test_the_test_half_keeps_the_largest_classes_of_training(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text("text,label\n" + "a,0\n" * 3 + "b,1\n" * 2 + "c,2\n")
    (tmp_path / "test.csv").write_text("text,label\n" + "c,2\n" * 5 + "b,1\n")
    test = load_samples(DataConfig("texts", split="test", root=str(tmp_path), largest_classes=2, length=1))
    assert (test.labels.tolist(), test.num_classes) == ([1], 2)


def test_token_ids_in_labeled_data() -> None:
    labels = torch.tensor([0, 1, 1])
    data = LabeledData(torch.tensor([[1, 2], [2, 0], [1, 0]]), labels, 2, "t", vocabulary=3)
    assert data.subset([1]).inputs.tolist() == [[2, 0]]
    with pytest.raises(ValueError, match=r"token ids of 't' must be int64 of shape \(N, T\), got torch.float32"):
        LabeledData(torch.zeros(3, 2), labels, 2, "t", vocabulary=3)
    with pytest.raises(ValueError, match=r"token ids of 't' must be in \[0, 2\), got 0 to 2"):
        LabeledData(data.inputs, labels, 2, "t", vocabulary=2)


def test_largest_classes() -> None:
    labels = torch.tensor([3, 0, 1, 1, 3, 2, 3, 0])
    data = LabeledData(torch.arange(8.0).unsqueeze(1), labels, 5, "t")
    kept = data.largest_classes(2)
    assert kept.num_classes == 2
    assert kept.inputs.flatten().tolist() == [0, 1, 4, 6, 7]
    assert kept.labels.tolist() == [1, 0, 1, 1, 0]
    with pytest.raises(ValueError, match="must be between 1 and 5, got 6"):
        data.largest_classes(6)
    few = data.subset([0, 1])
    assert few.largest_classes(2, data).labels.tolist() == [1, 0]
    loaded = load_samples(DataConfig("digits", largest_classes=3, per_class=180))
    assert loaded.num_samples == 540
    with pytest.raises(ValueError, match=r"data\.length must be 1 or more, got 0"):
        DataConfig(length=0)
