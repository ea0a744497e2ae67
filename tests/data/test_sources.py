"""Where image sets are looked for, in which order and layout, and how they are fetched."""

import dataclasses
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from ncollapse.data import DataFileError, DataNotFoundError
from ncollapse.data.locations import locate
from ncollapse.data.places import search_places
from ncollapse.data.sources import FASHION_MNIST, MNIST, ImageSet, load_image_set

NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def content(name: str, shift: int = 0) -> bytes:
    num = 3 if name.startswith("train") else 2
    if "labels" in name:
        return bytes((0, 0, 8, 1, 0, 0, 0, num, *range(shift, shift + num)))
    header = bytes((0, 0, 8, 3, 0, 0, 0, num, 0, 0, 0, 1, 0, 0, 0, 2))
    return header + bytes(range(shift, shift + 2 * num))


@pytest.fixture
def small_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ImageSet:
    """An image set of five tiny images, with no place of this computer in its search path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NCOLLAPSE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return ImageSet(
        name="small",
        title="Small",
        folder="SmallSet",
        system_folder=tmp_path / "system",
        mean=0.5,
        std=0.25,
        mirrors=((tmp_path / "broken").as_uri() + "/", (tmp_path / "mirror").as_uri() + "/"),
        md5={name: hashlib.md5(content(name)).hexdigest() for name in NAMES},
        hint="or ask a friend",
        num_samples={"train": 3, "test": 2},
        image_shape=(1, 2),
    )


def put(folder: Path, *, compressed: bool = True, names: tuple[str, ...] = NAMES, shift: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content(name, shift)))
        else:
            (folder / name).write_bytes(content(name, shift))


def labels_of(image_set: ImageSet, root: Path | None = None, split: str = "train", download: bool = False) -> list[int]:
    images, labels = load_image_set(image_set, split, root=root and str(root), download=download)
    assert images.shape == (len(labels), 1, 2)
    return labels.tolist()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("layout", ["SmallSet/raw", "."])
def test_idx_layouts(tmp_path: Path, small_set: ImageSet, layout: str, compressed: bool) -> None:
    put(tmp_path / "mine" / layout, compressed=compressed)
    assert labels_of(small_set, tmp_path / "mine") == [0, 1, 2]
    assert labels_of(small_set, tmp_path / "mine", "test") == [0, 1]


def test_keras_layout(tmp_path: Path, small_set: ImageSet) -> None:
    images, labels = np.zeros((3, 1, 2), np.uint8), np.array([7, 0, 9], np.uint8)
    np.savez(tmp_path / "small.npz", x_train=images, y_train=labels, x_test=images[:2], y_test=labels[:2])
    assert labels_of(small_set, tmp_path) == [7, 0, 9]
    assert labels_of(small_set, tmp_path, "test") == [7, 0]
    with pytest.raises(DataNotFoundError):
        labels_of(dataclasses.replace(small_set, name="other"), tmp_path)


def test_first_hit_wins(tmp_path: Path, small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCOLLAPSE_DATA", str(tmp_path / "variable"))
    places = [tmp_path / name for name in ("mine", "variable", "data", "cache/ncollapse", "system")]
    assert search_places(small_set.system_folder, str(tmp_path / "mine")) == tuple(places)
    # Filled from the last place to the first, the first letter of the file being told by its labels.
    for shift, place in enumerate(reversed(places)):
        put(place, shift=shift)
        checksums = {name: hashlib.md5(content(name, shift)).hexdigest() for name in NAMES}
        found = labels_of(dataclasses.replace(small_set, md5=checksums), tmp_path / "mine")
        assert found == [shift, shift + 1, shift + 2]


def test_home_is_the_cache_without_xdg(small_set: ImageSet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tmp_path / ".cache" / "ncollapse" in search_places(small_set.system_folder, None)
    assert search_places(small_set.system_folder, "~/sets")[0] == tmp_path / "sets"


def test_half_a_pair_is_no_hit(tmp_path: Path, small_set: ImageSet) -> None:
    put(tmp_path / "mine", names=NAMES[:1])
    put(tmp_path / "system")
    assert labels_of(small_set, tmp_path / "mine") == [0, 1, 2]


def test_nothing_found_names_every_place_and_the_way_out(tmp_path: Path, small_set: ImageSet) -> None:
    with pytest.raises(DataNotFoundError, match=r"Small \(test\) was needed and not found in: .*") as caught:
        labels_of(small_set, tmp_path / "mine", "test")
    message = str(caught.value)
    assert all(str(place) in message for place in search_places(small_set.system_folder, str(tmp_path / "mine")))
    assert message.endswith(
        "or $NCOLLAPSE_DATA, or allow its download with --set data.download=true (download=True in Python), or ask a friend."
    )


@pytest.mark.usefixtures("small_set")
def test_files_of_the_other_set_of_the_family_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "first")
    put(tmp_path / "second", shift=4)
    sums = [{name: hashlib.md5(content(name, shift)).hexdigest() for name in NAMES} for shift in (0, 4)]
    mnist, fashion = (dataclasses.replace(known, md5=md5) for known, md5 in zip((MNIST, FASHION_MNIST), sums, strict=True))
    monkeypatch.setattr("ncollapse.data.sources.MNIST", mnist)
    monkeypatch.setattr("ncollapse.data.sources.FASHION_MNIST", fashion)
    for order in (("first", "second"), ("second", "first")):
        monkeypatch.setenv("NCOLLAPSE_DATA", os.pathsep.join(str(tmp_path / name) for name in order))
        assert [labels_of(known) for known in (mnist, fashion)] == [[0, 1, 2], [4, 5, 6]]
    monkeypatch.setenv("NCOLLAPSE_DATA", str(tmp_path / "second"))
    monkeypatch.setattr("ncollapse.data.locations._IMAGE_SETS", {"mnist": mnist, "fashion_mnist": fashion})
    missing = locate("mnist")
    assert not missing.is_found
    assert missing.words.startswith(f"not found in {tmp_path / 'second'}, ")
    assert "mnist.npz" in missing.words
    assert locate("fashion_mnist") == (True, f"found: {tmp_path / 'second' / NAMES[0]}.gz")


def test_files_of_another_set_are_refused(tmp_path: Path, small_set: ImageSet) -> None:
    put(tmp_path / "mine", shift=4)
    with pytest.raises(DataFileError, match=r"train-images-idx3-ubyte.gz must hold content with md5 .*another data set"):
        labels_of(small_set, tmp_path / "mine")


def test_download_passes_over_a_broken_mirror_and_keeps_what_it_got(tmp_path: Path, small_set: ImageSet) -> None:
    put(tmp_path / "mirror")
    put(tmp_path / "broken", shift=1)  # whole files with a wrong checksum
    assert labels_of(small_set, split="test", download=True) == [0, 1]
    kept = tmp_path / "cache" / "ncollapse" / "SmallSet" / "raw"
    assert sorted(path.name for path in kept.iterdir()) == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    assert labels_of(small_set, split="test") == [0, 1]


def test_download_goes_where_the_user_says(tmp_path: Path, small_set: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "mirror")
    monkeypatch.setenv("NCOLLAPSE_DATA", str(tmp_path / "variable"))
    labels_of(small_set, download=True)
    assert (tmp_path / "variable" / "SmallSet" / "raw" / f"{NAMES[0]}.gz").is_file()
    labels_of(small_set, tmp_path / "mine", "test", download=True)
    assert (tmp_path / "mine" / "SmallSet" / "raw" / f"{NAMES[2]}.gz").is_file()


def test_download_is_not_tried_unless_needed(tmp_path: Path, small_set: ImageSet) -> None:
    put(tmp_path / "system")
    assert labels_of(small_set, download=True) == [0, 1, 2]
    assert not (tmp_path / "cache").exists()


def test_every_mirror_failing_says_how(tmp_path: Path, small_set: ImageSet) -> None:
    put(tmp_path / "broken", names=NAMES[:1], shift=1)
    with pytest.raises(DataNotFoundError, match=r"Small was to be downloaded, every mirror failed \(.*broken.*md5") as c:
        labels_of(small_set, download=True)
    assert "mirror/train-images-idx3-ubyte.gz: <urlopen error" in str(c.value)
    assert str(c.value).endswith("Check the network, or ask a friend.")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("image_set", [MNIST, FASHION_MNIST])
def test_known_sets_are_complete(image_set: ImageSet) -> None:
    assert sorted(image_set.md5) == sorted(NAMES)
    assert all(len(md5) == 32 for md5 in image_set.md5.values())
    assert all(mirror.endswith("/") for mirror in image_set.mirrors)
