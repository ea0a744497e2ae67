"""Data by name: of a run directory, one of our data sets, batches of a function of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch

from ncollapse.data.batches import Batches
from ncollapse.data.catalog import load_samples
from ncollapse.near_words import near_words
from ncollapse.recipes.data import DataConfig, DataName
from ncollapse.records.run_directory import RunDirectory
from ncollapse.studies.held_recipe import held_recipe
from ncollapse.targets.functions import import_function, write_as_function

Split = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class NamedData:
    """The batches of a data set by name; iterate over them as often as you like.

    Attributes:
        name: The name.
        split: "train" or "test".
        num_classes: Number of classes, K.
        batches: Pairs (inputs, labels), or what a function of the user's gives.

    Example:
        >>> data = load_data("gaussian_mixture", batch_size=50)
        >>> [len(labels) for _, labels in data]
        [50, 50, 50, 50, 50, 50, 50, 50]
    """

    name: str
    split: str
    num_classes: int
    batches: Iterable[Any]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def load_data(
    name: str | Path,
    *,
    split: Split = "train",
    num_classes: int | None = None,
    batch_size: int | None = None,
    input_shape: Sequence[int] | None = None,
    download: bool = False,
) -> NamedData:
    """Return data by its name, as ``ncollapse measure`` reads it.

    Args:
        name: One of

            - a data set as ``ncollapse doctor`` lists it, such as ``"digits"``;
            - ``"module:function"``: the function is called, without arguments, for every pass over the data, and returns
              batches as ``measure`` takes them, such as a list or a ``DataLoader``;
            - a run directory: the data of its recipe. The test split is whole, without corrupted labels.
        split: Which part. For a function it is only a name for its batches.
        num_classes: K; needed only if a function gives the batches, since other data has its own.
        batch_size: Samples in a batch. None takes 1000, or what the recipe of a run measures with. A function decides itself.
        input_shape: Shape of one sample, such as (1, 28, 28), if the network does not take vectors. Samples of one channel fill
            (3, 28, 28) with copies of it.
        download: Fetch a data set whose files are not on this computer, into $NCOLLAPSE_DATA or the user's cache, checked.

    Raises:
        ValueError: If there is no such data, it is damaged, or an argument does not belong to this kind of data.
        TypeError: While iterating, if the function returns something else than batches.

    Example:
        >>> data = load_data("gaussian_mixture")
        >>> data.num_classes, data.split
        (4, 'train')
    """
    if ":" in str(name) and not Path(name).is_dir():
        known = _classes_of_function(str(name), num_classes, input_shape, batch_size)
        return NamedData(str(name), split, known, _FunctionBatches(str(name)))
    config, usual_size = _of_run(Path(name), split) if Path(name).is_dir() else (_config(str(name), split, download), 1000)
    if num_classes is not None:
        raise ValueError(f"--num-classes is for batches of a module:function, {name} has its own. Leave it out.")
    samples = load_samples(config)
    batches: Iterable[Any] = Batches(samples, batch_size or usual_size)
    if input_shape is not None:
        batches = _Reshaped(batches, _shape(samples.input_dim, input_shape))
    return NamedData(str(name), split, samples.num_classes, batches)


def _classes_of_function(name: str, num_classes: int | None, input_shape: Sequence[int] | None, batch_size: int | None) -> int:
    given = [option for option, value in (("--input-shape", input_shape), ("--batch-size", batch_size)) if value]
    if given:
        raise ValueError(f"Data {name} gives batches as they are, got {' and '.join(given)}. Let the function make them so.")
    if num_classes is None:
        raise ValueError(f"Data {name} does not say how many classes it has. Pass --num-classes K.")
    return num_classes


def _config(name: str, split: Split, download: bool) -> DataConfig:
    if name not in get_args(DataName):
        raise ValueError(
            f"Data must be a data set, a module:function or a run directory, got {name!r}. "
            f"{near_words(name, get_args(DataName)) or write_as_function(name)}`ncollapse doctor` lists the data sets."
        )
    return DataConfig(name=cast(Any, name), split=split, download=download)


def _of_run(path: Path, split: Split) -> tuple[DataConfig, int]:
    recipe = held_recipe(RunDirectory(path))
    config = recipe.data if split == "train" else recipe.data.test_part
    # Somebody else's recipe may name any folder to download to; what a run of one's own was trained on lies there already.
    config = replace(config, download=False)
    return config, recipe.measure.batch_size


def _shape(dim: int, wanted: Sequence[int]) -> tuple[int, ...]:
    channels, *rest = wanted
    if dim not in (math.prod(wanted), math.prod(rest)) or min(wanted) < 1:
        raise ValueError(
            f"input_shape {tuple(wanted)} must hold the {dim} numbers of a sample, or one channel of them must. "
            "Digits are 1 8 8, MNIST and Fashion-MNIST 1 28 28."
        )
    return (channels, *rest)


class _Reshaped:
    """Batches whose samples have a shape; samples of one channel fill all channels with copies of it."""

    def __init__(self, batches: Iterable[Any], shape: tuple[int, ...]) -> None:
        self.batches, self.shape = batches, shape

    def __iter__(self) -> Iterator[Any]:
        for inputs, labels in self.batches:
            yield inputs.reshape(len(inputs), -1, *self.shape[1:]).expand(-1, *self.shape), labels


class _FunctionBatches:
    """Batches of a function, which is called for every pass, so that it may be a generator."""

    def __init__(self, name: str) -> None:
        self.name, self._function = name, import_function(name)

    def __iter__(self) -> Iterator[Any]:
        # A loader that shuffles has one order in all passes, and in all processes. ``measure`` restores the random state.
        torch.default_generator.manual_seed(0)
        batches = self._function()
        if not isinstance(batches, Iterable):
            raise TypeError(
                f"{self.name} must return batches, such as a list or a DataLoader, got {type(batches).__name__}. Return a list."
            )
        return iter(batches)
