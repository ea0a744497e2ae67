"""Measuring a network of the user's, by name, on one of our data sets or on batches of the user's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from ncollapse.data.batches import Batches
from ncollapse.data.catalog import DataConfig, load_data
from ncollapse.probe.measure import measure
from ncollapse.probe.measurement import Measurement
from ncollapse.statistics.reduce import Processes
from ncollapse.studies.networks import build_network, named_function, own_errors
from ncollapse.train.checkpoint import load_weights

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class OwnData:
    """Batches of the user's.

    Attributes:
        name: "module:function"; the function returns batches as ``measure`` takes them.
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
        group: As in ``measure``: every process takes every size-th sample, or batch of the user's.

    Returns:
        The measurement.

    Raises:
        ValueError: If the network or the checkpoint is not there, raises, or does not fit the data.
        TypeError: If a function returns something else.
        OSError: If a file is missing.
        ImportError: If a library is not installed.
    """
    processes = Processes(group)
    with processes.together():
        splits = [_load(data, batch_size, input_shape, processes)]
        if isinstance(data, DataConfig) and data.split != "train":
            splits.insert(0, _load(replace(data, split="train"), batch_size, input_shape, processes))
        model = build_network(spec, splits[0].num_classes)
        if checkpoint is not None:
            load_weights(checkpoint, model, unsafe_pickle=unsafe_pickle)
    _share_weights(model, processes)
    model.to(device)
    measurement: Measurement | None = None
    with own_errors(f"measuring {spec}"):
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
    assert measurement is not None
    return measurement


def _share_weights(model: nn.Module, processes: Processes) -> None:
    """Those of the first process: without a checkpoint each has drawn its own."""
    if processes.size > 1:
        for state in model.state_dict().values():
            state.copy_(processes.hand_out(Tensor, state))


def _load(data: DataConfig | OwnData, batch_size: int, input_shape: Sequence[int] | None, processes: Processes) -> _Split:
    if isinstance(data, OwnData):
        return _Split(_Strided(named_function(data.name)(), processes.rank, processes.size), data.num_classes, "train")
    samples = load_data(data)
    batches: Iterable[Any] = Batches(samples.shard(processes.rank, processes.size), batch_size)
    if input_shape is not None:
        batches = _Reshaped(batches, _shape(samples.input_dim, input_shape))
    return _Split(batches, samples.num_classes, data.split)


def _shape(dim: int, wanted: Sequence[int]) -> tuple[int, ...]:
    channels, *rest = wanted
    if dim not in (math.prod(wanted), math.prod(rest)) or min(wanted) < 1:
        raise ValueError(
            f"input_shape {tuple(wanted)} must hold the {dim} numbers of a sample, or one channel of them must. "
            "Digits are 1 8 8, MNIST and Fashion-MNIST 1 28 28."
        )
    return (channels, *rest)


class _Reshaped:
    """Batches whose samples have a shape."""

    def __init__(self, batches: Iterable[Any], shape: tuple[int, ...]) -> None:
        self.batches, self.shape = batches, shape

    def __iter__(self) -> Any:
        for inputs, labels in self.batches:
            yield inputs.reshape(len(inputs), -1, *self.shape[1:]).expand(-1, *self.shape), labels


class _Strided:
    """Every size-th batch, beginning at the rank: each is taken by one process, none twice."""

    def __init__(self, batches: Any, rank: int, size: int) -> None:
        self.batches, self.rank, self.size = batches, rank, size

    def __iter__(self) -> Any:
        return islice(iter(self.batches), self.rank, None, self.size)
