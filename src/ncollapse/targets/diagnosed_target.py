"""The target of ``ncollapse layers``: a network, its data, strangers and new labels by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from ncollapse.analysis.diagnosis import Diagnosis, diagnose
from ncollapse.groups import Processes
from ncollapse.studies.machine import device_named
from ncollapse.targets.functions import as_user_error
from ncollapse.targets.named_data import load_data
from ncollapse.targets.target import Target, network_of_target


def diagnose_target(
    target: Target,
    *,
    strangers: Mapping[str, str] | None = None,
    new_labels: Mapping[str, str] | None = None,
    device: torch.device | str = "auto",
    **options: Any,
) -> Diagnosis:
    """Return the diagnosis of a network and data by name; the test split is held out if there is one.

    Args:
        target: The names.
        strangers: Data sets by a name of their own: a data set, or module:function. Square images are resized to the network's
            own input.
        new_labels: New tasks: a data set or module:function, or the classes' coarser ones, as in "0,0,1".
        device: Where the network runs; "auto" takes a CUDA device if there is one, else the CPU.
        **options: Further arguments of ``diagnose``.

    Returns:
        The diagnosis.

    Raises:
        ValueError: If names or options do not go together; and as ``load_network``, ``load_data`` and ``diagnose``.
    """
    splits = target.load_splits()
    network, _ = network_of_target(target, splits[0], device_named(str(device), Processes()))
    first, _ = next(iter(splits[0]), (None, None))
    shape = tuple(first.shape[1:]) if isinstance(first, Tensor) else ()

    def named(name: str, is_task: bool) -> Any:
        if is_task and all(part.strip().isdecimal() for part in name.split(",")):
            return [int(part) for part in name.split(",")]
        if ":" in name and not Path(name).is_dir():
            # Strangers need no labels, so their number of classes does not matter.
            return load_data(name, num_classes=1)
        return _Fitted(load_data(name, batch_size=target.batch_size), shape)

    with as_user_error(f"diagnosing {target.network}"):
        return diagnose(
            network,
            splits[0],
            num_classes=splits[0].num_classes,
            test=splits[1] if len(splits) > 1 else None,
            strangers={key: named(name, False) for key, name in (strangers or {}).items()},
            new_labels={key: named(name, True) for key, name in (new_labels or {}).items()},
            **options,
        )


class _Fitted:
    """Batches of square images of one channel, resized to the shape of the network's own samples."""

    def __init__(self, batches: Iterable[Any], shape: Sequence[int]) -> None:
        self.batches, self.shape = batches, tuple(shape)

    def __iter__(self) -> Iterator[Any]:
        for inputs, labels in self.batches:
            yield self._fit(inputs), labels

    def _fit(self, inputs: Any) -> Any:
        own, wanted = math.prod(inputs.shape[1:]), math.prod(self.shape)
        if not self.shape or own == wanted:
            return inputs.reshape(len(inputs), *self.shape) if self.shape else inputs
        side = math.isqrt(own)
        channels, rows, columns = self.shape if len(self.shape) == 3 else (1, math.isqrt(wanted), math.isqrt(wanted))
        if side * side != own or channels * rows * columns != wanted:
            raise ValueError(
                f"Strangers must have samples like the network's, {self.shape}, or be square images of one channel, got "
                f"samples of {own} numbers. Pass a module:function that makes them fit."
            )
        images = interpolate(inputs.reshape(-1, 1, side, side), (rows, columns), mode="bilinear", antialias=True)
        return images.expand(-1, channels, -1, -1).reshape(len(inputs), *self.shape)
