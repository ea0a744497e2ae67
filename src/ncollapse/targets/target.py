"""The target of ``ncollapse measure``: a network and its data by name, in one process or many."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from ncollapse.groups import Processes
from ncollapse.hooks.batch_io import unpack_batch
from ncollapse.measurement.measurement import Measurement
from ncollapse.probe.measure import measure
from ncollapse.records.run_directory import RunDirectory
from ncollapse.statistics.conventions import Convention
from ncollapse.studies.held_recipe import held_recipe
from ncollapse.studies.machine import device_named
from ncollapse.targets.functions import as_user_error
from ncollapse.targets.named_data import NamedData, load_data
from ncollapse.targets.networks import network_and_note

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class Target:
    """A network and data by name. A run directory has its own data and checkpoint; any other network needs ``data``.

    Attributes:
        network: As ``load_network`` takes it.
        data: As ``load_data`` takes it; None for a run directory.
        test_data: The test split, as ``load_data`` takes it, if ``data`` has none of its own; it is then what is measured.
        num_classes: K; needed only if a function gives the batches.
        input_shape: Shape of a sample.
        split: "train" or "test"; the test split is decided by the training set's class means.
        checkpoint: File of weights; None takes those that the network was made with.
        unsafe_pickle: Whether the checkpoint may run code.
        batch_size: Samples in a forward pass.
    """

    network: str
    data: str | None = None
    test_data: str | None = None
    num_classes: int | None = None
    input_shape: Sequence[int] | None = None
    split: Literal["train", "test"] = "train"
    checkpoint: Path | None = None
    unsafe_pickle: bool = False
    batch_size: int | None = None

    @property
    def is_run(self) -> bool:
        """Whether the network is that of a run directory."""
        return Path(self.network).is_dir()

    @property
    def weights_note(self) -> str:
        """A sentence about the weights if no file was named; empty otherwise."""
        if self.is_run or self.checkpoint is not None:
            return ""
        fresh = self.network.startswith(("torchvision:", "timm:"))
        whose = "drawn with seed 0" if fresh else f"those that {self.network} gave the network"
        return f"Weights: {whose}; no --checkpoint was named."

    def convention(self) -> Convention:
        """Return the convention to use if none is given: that of the run."""
        return held_recipe(RunDirectory(self.network)).measure.convention if self.is_run else "class"

    def load_splits(self) -> list[NamedData]:
        """Return the data, with the training set before the test split."""
        self._check()
        name = self.network if self.data is None else self.data
        options: dict[str, Any] = {"input_shape": self.input_shape, "batch_size": self.batch_size}
        train = load_data(name, num_classes=self.num_classes, **options)
        if self.split == "train" and self.test_data is None:
            return [train]
        name = self.test_data or name
        # Batches of a function do not say how many classes they have.
        known = train.num_classes if ":" in name and not Path(name).is_dir() else None
        test = load_data(name, split="test", num_classes=known, **options)
        if test.num_classes != train.num_classes:
            raise ValueError(
                f"--test-data must have {train.num_classes} classes like the training data, got {test.num_classes} of {name}. "
                "Name data of the same classes."
            )
        return [train, test]

    def _check(self) -> None:
        if not self.is_run:
            if self.data is None:
                raise ValueError(
                    f"MODEL {self.network!r} is no run directory; your own network needs --data NAME as well. "
                    "`ncollapse doctor` lists data sets."
                )
            if ":" in self.data and self.split == "test" and self.test_data is None:
                raise ValueError(
                    f"The test split of {self.data} is not known. Name a function that returns its batches with --test-data."
                )
            return
        fields = ("data", "test_data", "num_classes", "input_shape", "checkpoint", "unsafe_pickle")
        given = [f"--{field.replace('_', '-')}" for field in fields if getattr(self, field) not in (None, False)]
        if given:
            raise ValueError(
                f"{self.network} is a run directory, which has its own data and checkpoint; got {' and '.join(given)}. "
                "Leave it out, or name your own network as module:function."
            )


def measure_target(
    target: Target,
    *,
    convention: Convention | None = None,
    device: torch.device | str = "auto",
    group: ProcessGroup | None = None,
    **options: Any,
) -> Measurement:
    """Return the measurement of a network and data by name: the last of ``measure_splits``, whose arguments it takes."""
    return measure_splits(target, convention=convention, device=device, group=group, **options)[-1]


def measure_splits(
    target: Target,
    *,
    convention: Convention | None = None,
    device: torch.device | str = "auto",
    group: ProcessGroup | None = None,
    **options: Any,
) -> list[Measurement]:
    """Return the measurements of a network and data by name: of the training set, and of the test split if it is asked for.

    Args:
        target: The names.
        convention: As in ``measure``; None takes that of the run, or "class".
        device: Where the network runs; "auto" takes a CUDA device if there is one, else the CPU.
        group: As in ``measure``. The processes share the same batches.
        **options: Further arguments of ``measure``: layers, classifier, classes, min_per_class, metrics, path, memory_budget.

    Raises:
        ValueError: If names or options do not go together; and as ``load_network``, ``load_data`` and ``measure``.
    """
    processes = Processes(group)
    with processes.sharing_errors():
        splits, convention = target.load_splits(), convention or target.convention()
        network, note = network_of_target(target, splits[0], device_named(str(device), processes))
    found: list[Measurement] = []
    for data in splits:
        batches = _Turns(data, processes)
        with as_user_error(f"measuring {target.network}", _advice(target)):
            measurement = measure(
                network,
                batches,
                num_classes=data.num_classes,
                split=data.split,
                reference=found[-1] if found else None,
                convention=convention,
                group=group,
                **options,
            )
        found.append(measurement)
        processes.check_same(f"The labels in the batches of {data.name}", batches.digest)
    return [replace(measurement, chosen=f"{measurement.chosen}; {note}") for measurement in found] if note else found


def network_of_target(target: Target, data: NamedData, device: torch.device) -> tuple[nn.Module, str]:
    """Return the network, and where its weights were found in a checkpoint, in words."""
    # A run's network and one of a library have as many outputs as the data has classes.
    num_classes = None if target.is_run else data.num_classes
    return network_and_note(target.network, num_classes, target.checkpoint, target.unsafe_pickle, device)


def _advice(target: Target) -> str:
    if target.is_run or ":" in str(target.data):
        return ""
    given = "as vectors" if target.input_shape is None else f"in the shape {tuple(target.input_shape)}"
    return f"It was given samples {given}; if it takes another shape, name that with --input-shape."


class _Turns:
    """This process's share of batches, with the labels of all noted."""

    # Batches that differ from process to process, as of a loader that shuffles, would be measured twice or not at all.

    def __init__(self, data: NamedData, processes: Processes) -> None:
        self.data, self.processes, self.digest = data, processes, ""

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data) if self.processes.size == 1 else iter(self.processes.every_nth_batch(self._noted(self.data)))

    def _noted(self, batches: Iterable[Any]) -> Iterator[Any]:
        digest = hashlib.sha256()
        for batch in batches:
            digest.update(torch.as_tensor(unpack_batch(batch)[1]).cpu().numpy().tobytes())
            yield batch
        self.digest = digest.hexdigest()[:12]
