"""Images of one's own: a folder for each class, read as they are, and refused where they do not fit together."""

import numpy as np
import pytest
import torch
from PIL import Image

from ncollapse.cli import main
from ncollapse.data import load_samples
from ncollapse.data.places import DataFileError, DataNotFoundError
from ncollapse.recipes import DataConfig


def made(root, *, mode="RGB", size=(5, 4), splits=("train", "test"), classes=("cat", "dog")):
    """Write random images, and return them as bytes by split, class and number."""
    rng, found = np.random.default_rng(0), {}
    for split in splits:
        for name in classes:
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(3):
                pixels = rng.integers(0, 256, (size[1], size[0], 3) if mode == "RGB" else size[::-1], dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
                found[split, name, number] = pixels
    (root / "train" / ".cache").mkdir()
    (root / "train" / "notes.txt").write_text("none")
    return found


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_are_those_of_the_files(tmp_path, mode):
    files = made(tmp_path, mode=mode)
    train, test = (
        load_samples(DataConfig("images", split, root=str(tmp_path), scaling="standard")) for split in ("train", "test")
    )
    stacked = {s: np.stack([files[key] for key in files if key[0] == s]).astype(np.float64) / 255 for s in ("train", "test")}
    if mode == "L":
        stacked = {split: pixels[..., None] for split, pixels in stacked.items()}
    mean, std = (f(stacked["train"], axis=(0, 1, 2)) for f in (np.mean, np.std))
    for data, split in ((train, "train"), (test, "test")):
        expected = ((stacked[split] - mean) / std).transpose(0, 3, 1, 2).reshape(6, -1)
        np.testing.assert_allclose(data.inputs.numpy(), expected, atol=2e-6)
        assert data.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert data.image_shape == ((3, 4, 5) if mode == "RGB" else (1, 4, 5))


def test_a_network_is_trained_on_them(tmp_path, monkeypatch):
    made(tmp_path / "images", size=(8, 8))
    monkeypatch.setenv("NCOLLAPSE_DATA", str(tmp_path))
    words = [
        "data.name=images",
        "data.per_class=3",
        "train.epochs=1",
        "model.width=8",
        "model.num_blocks=1",
        "measure.test=true",
    ]
    main(["run", "demo", "--set", *words, "--out", str(tmp_path / "run")])
    table = (tmp_path / "run" / "measurements.csv").read_text()
    assert ",test," in table


def test_a_test_part_need_not_be_there(tmp_path):
    made(tmp_path, splits=("train",))
    assert load_samples(DataConfig("images", root=str(tmp_path))).num_samples == 6
    with pytest.raises(DataNotFoundError, match=r"A folder of images \(test\) was needed and not found in"):
        load_samples(DataConfig("images", "test", root=str(tmp_path)))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: Image.new("RGB", (6, 4)).save(root / "train/dog/0.png"), r"must have 5 × 4 pixels in color .* got 6 × 4"),
        (lambda root: Image.new("L", (5, 4)).save(root / "train/dog/0.png"), r"in color .* got 5 × 4 pixels in gray"),
        (lambda root: (root / "train/dog/0.png").write_bytes(b"\x89PNG\r\n\x1a\nxx"), r"must be an image \(PNG, JPEG, BMP\)"),
        (
            lambda root: Image.new("1", (5000, 5000)).save(root / "train/dog/0.png"),
            r"at most 16,777,216 pixels, got 5000 × 5000",
        ),
        (lambda root: Image.new("RGB", (5, 4)).save(root / "train/dog/0.jpg", "GIF"), "must be an image"),
        (lambda root: (root / "test" / "bird").mkdir(), r"must hold the classes of the training part, got \['bird'\]"),
        (lambda root: (root / "train" / "ant").mkdir(), "ant must hold images .* got none"),
        (lambda root: (root / "train/dog").rename(root / "train/.dog"), r"each of two classes or more, got \['cat'\]"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, spoil, message):
    made(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataFileError, match=message):
        # Both parts are looked at where the test part is read.
        load_samples(DataConfig("images", "test", root=str(tmp_path)))


def test_a_channel_without_variance_stays_finite(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "train" / name).mkdir(parents=True)
        Image.new("L", (4, 4), 7).save(tmp_path / "train" / name / "0.png")
    data = load_samples(DataConfig("images", root=str(tmp_path)))
    assert torch.equal(data.inputs, torch.zeros(2, 16))
