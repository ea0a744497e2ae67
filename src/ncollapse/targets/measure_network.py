"""Measuring a network of the user's, by name, on one of our data sets or on batches of the user's."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from ncollapse.data.batches import Batches
from ncollapse.data.catalog import load_data
from ncollapse.groups import Processes
from ncollapse.hooks.batch_io import unpack_batch
from ncollapse.measurement.measurement import Measurement
from ncollapse.probe.measure import measure
from ncollapse.recipes.data import DataConfig
from ncollapse.targets.networks import as_user_error, build_network, named_function
from ncollapse.train.checkpoint import load_weights

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class OwnData:
    """Batches of the user's.

    Attributes:
        name: "module:function"; the function returns batches as ``measure`` takes them, and is called for every pass.
        num_classes: K.
    """

    name: str
    num_classes: int


class _Split(NamedTuple):
    batches: Iterable[Any]
    num_classes: int
    name: str


def measure_own(
    spec: str,
    data: DataConfig | OwnData,
    *,
    checkpoint: Path | None = None,
    unsafe_pickle: bool = False,
    layers: str | Sequence[str] = "auto",
    batch_size: int = 1000,
    input_shape: Sequence[int] | None = None,
    memory_budget: int | None = None,
    device: torch.device | str = "cpu",
    group: ProcessGroup | None = None,
) -> Measurement:
    """Measure a network by name.

    Args:
        spec: As ``build_network`` takes it.
        data: Samples; the test split is decided by the training set's class means.
        checkpoint: Weights, as ``load_weights`` reads them; None takes those that the network was made with.
        unsafe_pickle: Whether the checkpoint may run code, as ``load_weights`` takes it.
        layers: As in ``measure``.
        batch_size: Samples in a forward pass.
        input_shape: Shape of one sample, such as (1, 28, 28); samples of one channel fill three with copies of it.
        memory_budget: As in ``measure``.
        device: Where the network runs.
        group: As in ``measure``; the batches are dealt out to its processes in turn.

    Returns:
        The measurement.

    Raises:
        ValueError: If the network or the checkpoint is not there, raises, or does not fit the data.
        TypeError: If a function returns something else.
        OSError: If a file is missing.
        ImportError: If a library is not installed.
    """
    processes = Processes(group)
    with processes.sharing_errors():
        splits = [_load(data, batch_size, input_shape, processes)]
        if isinstance(data, DataConfig) and data.split != "train":
            splits.insert(0, _load(replace(data, split="train"), batch_size, input_shape, processes))
        model = build_network(spec, splits[0].num_classes)
        if checkpoint is not None:
            with as_user_error(f"reading {checkpoint}"):
                load_weights(checkpoint, model, unsafe_pickle=unsafe_pickle)
        with as_user_error(f"moving the network to device {str(device)!r}"):
            model.to(device)
    measurement: Measurement | None = None
    with as_user_error(f"measuring {spec}", _advice(data, input_shape)):
        for split in splits:
            measurement = measure(
                model,
                split.batches,
                num_classes=split.num_classes,
                layers=layers,
                split=split.name,
                reference=measurement,
                memory_budget=memory_budget,
                group=group,
            )
            if isinstance(split.batches, _OwnBatches):
                processes.check_same(f"The labels in the batches of {split.batches.name}", split.batches.digest)
    assert measurement is not None
    return measurement


def _advice(data: DataConfig | OwnData, input_shape: Sequence[int] | None) -> str:
    if isinstance(data, OwnData):
        return ""
    given = "as vectors" if input_shape is None else f"in the shape {tuple(input_shape)}"
    return f"It was given samples {given}; if it takes another shape, name that with --input-shape."


def _load(data: DataConfig | OwnData, batch_size: int, input_shape: Sequence[int] | None, processes: Processes) -> _Split:
    if isinstance(data, OwnData):
        return _Split(_OwnBatches(data.name, processes), data.num_classes, "train")
    samples = load_data(data)
    batches: Iterable[Any] = Batches(samples, batch_size)
    if input_shape is not None:
        batches = _Reshaped(batches, _shape(samples.input_dim, input_shape))
    return _Split(processes.every_nth_batch(batches), samples.num_classes, data.split)


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


class _OwnBatches:
    """Batches of a function of the user's, called for every pass, so that it may be a generator; dealt out to the processes."""

    def __init__(self, name: str, processes: Processes) -> None:
        self.name, self.processes, self.digest = name, processes, ""
        self._function = named_function(name)

    def __iter__(self) -> Iterator[Any]:
        # A loader that shuffles has one order on all processes and in both passes. ``measure`` restores the random state.
        torch.default_generator.manual_seed(0)
        batches = self._function()
        if not isinstance(batches, Iterable):
            raise TypeError(f"{self.name} must return batches, such as a list or a DataLoader, got {type(batches).__name__}")
        return iter(batches) if self.processes.size == 1 else iter(self.processes.every_nth_batch(self._noted(batches)))

    def _noted(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches: what is not the same on all processes would be measured twice or not at all."""
        digest = hashlib.sha256()
        for batch in batches:
            digest.update(torch.as_tensor(unpack_batch(batch)[1]).cpu().numpy().tobytes())
            yield batch
        self.digest = digest.hexdigest()[:12]
