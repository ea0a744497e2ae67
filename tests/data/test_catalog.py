"""Data by name, from config to tensors; the config through pydantic; what importing costs."""

from dataclasses import replace

import pydantic
import pytest
import torch

import fresh
from ncollapse.data import DataConfig, LabeledData, digits, gaussian_mixture, load_samples
from ncollapse.data.catalog import empty_like_data
from ncollapse.data.sources import FASHION_MNIST, ImageSet
from ncollapse.data.text_sets import WORDNET, TextSet
from ncollapse.recipes.data import COARSE


def test_demo_data() -> None:
    data = load_samples(DataConfig(per_class=174))
    assert data.num_samples == 1740
    assert data.labels.bincount().tolist() == [174] * 10
    assert data.inputs.equal(digits().per_class(174).inputs)


@pytest.mark.parametrize("name", ["digits", "gaussian_mixture", "geo_mnist", "mnist_1d"])
@pytest.mark.parametrize("largest", [None, 3])
def test_an_outline_is_the_data_without_its_samples(name: str, largest: int | None) -> None:
    config = DataConfig(name, largest_classes=largest)  # type: ignore[arg-type]
    assert_outline(empty_like_data(config), load_samples(config))


@pytest.mark.parametrize("source", [FASHION_MNIST, WORDNET], ids=["fashion_mnist", "wordnet"])
def test_outlines_of_large_sets(source: ImageSet | TextSet) -> None:
    """Which take a second to read: once for both."""
    if not source.system_folder.is_dir():
        pytest.skip(f"needs {source.name} in {source.system_folder}")
    config = DataConfig(source.name)  # type: ignore[arg-type]
    data = load_samples(config)
    assert_outline(empty_like_data(config), data)
    assert_outline(empty_like_data(replace(config, largest_classes=3)), data.largest_classes(3))


def assert_outline(known: LabeledData, data: LabeledData) -> None:
    assert (known.num_samples, known.num_classes, known.sample_shape) == (0, data.num_classes, data.sample_shape)
    assert (known.inputs.dtype, known.vocabulary, known.name) == (data.inputs.dtype, data.vocabulary, data.name)


def test_an_outline_of_texts_of_ones_own_needs_no_files() -> None:
    known = empty_like_data(DataConfig("texts", vocabulary=7, length=5))
    assert (known.sample_shape, known.vocabulary, known.num_classes) == ((5,), 9, 2)
    with pytest.raises(ValueError, match="largest_classes of 'imdb' must be between 1 and 2, got 3"):
        empty_like_data(DataConfig("imdb", largest_classes=3))


def test_mixture_takes_seed_split_and_size() -> None:
    data = load_samples(DataConfig("gaussian_mixture", split="test", per_class=7, seed=5))
    assert data.inputs.equal(gaussian_mixture(per_class=7, seed=5, split="test").inputs)
    assert load_samples(DataConfig("gaussian_mixture")).num_samples == 400


@pytest.mark.parametrize("scaling", ["norm64", "none"])
def test_images_are_downscaled_by_means_of_squares(scaling: str) -> None:
    config = DataConfig(scaling=scaling, per_class=3, downscale=2)  # type: ignore[arg-type]
    data, whole = load_samples(config), load_samples(replace(config, downscale=1))
    images = whole.inputs.reshape(-1, 8, 8)
    means = sum(images[:, row::2, column::2] for row in (0, 1) for column in (0, 1)) / 4
    gain = 2 if scaling == "norm64" else 1
    assert torch.allclose(data.inputs, gain * means.flatten(1), rtol=0, atol=1e-6)
    assert data.labels.equal(whole.labels)
    assert data.sample_shape == empty_like_data(config).sample_shape == (1, 4, 4)
    for name, side in (("digits", 3), ("mnist_1d", 2)):
        with pytest.raises(ValueError, match=f"data.downscale must divide the rows and columns of images, got {side}"):
            load_samples(DataConfig(name, downscale=side))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.downscale must be 1 or more, got 0"):
        DataConfig(downscale=0)


def test_corruption_is_applied_after_choosing() -> None:
    clean = load_samples(DataConfig(per_class=50))
    corrupted = load_samples(DataConfig(per_class=50, corrupt=0.5, seed=3))
    assert corrupted.inputs.equal(clean.inputs)
    assert corrupted.labels.equal(clean.corrupt_labels(0.5, seed=3).labels)
    assert not corrupted.labels.equal(clean.labels)


def test_scaling_reaches_the_digits() -> None:
    assert load_samples(DataConfig(scaling="none")).inputs.max() == 1


@pytest.mark.parametrize(("split", "size"), [("train", 60_000), ("test", 10_000)])
def test_fashion_mnist(split: str, size: int) -> None:
    if not FASHION_MNIST.system_folder.is_dir():
        pytest.skip(f"needs Fashion-MNIST in {FASHION_MNIST.system_folder} (Debian: dataset-fashion-mnist)")
    data = load_samples(DataConfig("fashion_mnist", split=split))
    assert (data.num_samples, data.sample_shape, data.name) == (size, (1, 28, 28), "fashion_mnist")
    assert data.labels.bincount().tolist() == [size // 10] * 10
    assert data.labels[:2].tolist() == ([9, 0] if split == "train" else [9, 2])
    # The published mean and deviation are of the training set, rounded to four digits.
    assert data.inputs.square().sum(1).mean().item() == pytest.approx(64, rel=0.02)
    # Back to bytes: 28 x 28 whole numbers from 0 to 255.
    pixels = (data.inputs[:100] * (28 / 8) * 0.3530 + 0.2860) * 255
    assert pixels.round() == pytest.approx(pixels, abs=1e-3)
    assert (pixels.round().min(), pixels.round().max()) == (0, 255)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"name": "cifar"},
            r"data.name must be one of digits, .*, mnist_1d, wordnet, imdb, texts, images, got 'cifar'. Near ones: cifar10",
        ),
        ({"split": "dev"}, r"data.split must be one of train, test, got 'dev'"),
        ({"scaling": "unit"}, r"data.scaling must be one of norm64, standard, none, got 'unit'"),
        ({"largest_classes": 1}, r"data.largest_classes must be 2 or more, got 1"),
        ({"per_class": 0}, r"data.per_class must be 1 or more, got 0. Leave it out"),
        ({"corrupt": 1.5}, r"data.corrupt must be in \[0, 1\], got 1.5. Pass a fraction"),
        ({"seed": -1}, r"data.seed must be 0 or more, got -1. Pass a non-negative"),
        ({"split": "test"}, r"test part of the digits is what data.per_class leaves over of each class, got none"),
        ({"imbalance": 0.5}, r"data.imbalance must be 1 or more and finite, got 0.5"),
        ({"minority": 0}, r"data.minority must be 1 or more, got 0"),
    ],
)
def test_out_of_range(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)


def test_the_test_part_of_the_digits_is_what_per_class_leaves_over() -> None:
    config, whole = DataConfig(per_class=170, corrupt=0.5, imbalance=5), digits()
    test = load_samples(config.test_part)
    seen: dict[int, int] = {}
    left = [i for i, k in enumerate(whole.labels.tolist()) if seen.setdefault(k, 0) >= 170 or seen.update({k: seen[k] + 1})]
    assert test.inputs.equal(whole.inputs[left])
    assert test.labels.equal(whole.labels[left])
    with pytest.raises(ValueError, match=r"data.per_class must leave samples of every class .* got 174 .* 173 or less"):
        load_samples(DataConfig(per_class=174).test_part)


def test_sizes_of_a_long_tail_are_those_of_long_tailed_cifar() -> None:
    # Cui et al. (2019): CIFAR-10 with the factor 100 has 12,406 images.
    assert DataConfig(imbalance=100).class_counts(5000, 10) == (5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50)
    assert DataConfig(imbalance=10, minority=7).class_counts(6000, 10) == (*[6000] * 3, *[600] * 7)


def test_coarse_labels_group_the_classes_of_the_same_samples() -> None:
    fine, coarse = (load_samples(DataConfig(per_class=5, labels=labels)) for labels in ("fine", "coarse"))
    assert coarse.inputs.equal(fine.inputs)
    assert coarse.labels.equal(fine.labels % 2)
    assert (coarse.num_classes, empty_like_data(DataConfig(labels="coarse")).num_classes) == (2, 2)
    # Of the four largest classes, which are not the first ones.
    largest = load_samples(DataConfig(largest_classes=4, labels="coarse"))
    sizes = digits().labels.bincount()
    kept = sizes.argsort(descending=True, stable=True)[:4].sort().values
    assert largest.labels.bincount().tolist() == [sizes[kept[kept % 2 == r]].sum() for r in sorted(set((kept % 2).tolist()))]
    with pytest.raises(ValueError, match=r"data.labels=coarse needs one of digits, mnist, fashion_mnist, wordnet, got cifar10"):
        DataConfig("cifar10", labels="coarse")


def test_parts_of_speech_are_those_of_wordnet() -> None:
    # lexnames(5WN): 00 and 01 adj, 02 adv, 03 noun.Tops to 28 noun.time, 29 verb.body to 43 verb.weather, 44 adj.ppl
    assert len(COARSE["wordnet"]) == 45
    assert [COARSE["wordnet"][k] for k in (0, 1, 2, 3, 28, 29, 43, 44)] == [2, 2, 3, 0, 0, 1, 1, 2]


def test_an_imbalance_keeps_the_first_samples_of_each_class_of_the_training_split() -> None:
    config = DataConfig("gaussian_mixture", per_class=20, imbalance=10, minority=2)
    whole, data = load_samples(DataConfig("gaussian_mixture", per_class=20)), load_samples(config)
    assert data.labels.bincount().tolist() == [20, 20, 2, 2]
    assert data.inputs.equal(torch.cat([whole.inputs[whole.labels == k][:n] for k, n in enumerate((20, 20, 2, 2))]))
    assert load_samples(replace(config, split="test")).labels.bincount().tolist() == [20] * 4
    with pytest.raises(ValueError, match=r"data.imbalance must leave every class a sample, got 30 with 20 samples"):
        load_samples(replace(config, imbalance=30))
    with pytest.raises(ValueError, match=r"data.minority must be between 1 and 3, got 4"):
        empty_like_data(replace(config, minority=4))


def test_pydantic_converts_and_checks() -> None:
    adapter = pydantic.TypeAdapter(DataConfig)
    parsed = adapter.validate_python({"name": "mnist", "per_class": "500", "download": "true"})
    assert parsed == DataConfig("mnist", per_class=500, download=True)
    assert adapter.validate_json(adapter.dump_json(parsed)) == parsed
    with pytest.raises(pydantic.ValidationError, match=r"data.corrupt must be in"):
        adapter.validate_python({"corrupt": 2})


def test_importing_is_light_and_points_down() -> None:
    heavy = ("sklearn", "pydantic", "matplotlib", "ncollapse.models", "ncollapse.train")
    code = f"import sys, ncollapse.data; print([name for name in {heavy!r} if name in sys.modules])"
    assert fresh.python("-c", code) == "[]\n"


def test_loading_leaves_the_global_generator_alone() -> None:
    state = torch.random.get_rng_state()
    load_samples(DataConfig("gaussian_mixture", corrupt=0.5))
    assert torch.random.get_rng_state().equal(state)
