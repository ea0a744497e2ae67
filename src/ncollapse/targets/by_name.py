"""What ``ncollapse measure`` measures: a run directory, or a network and data of the user's, all by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from ncollapse.groups import Processes
from ncollapse.measurement.measurement import Measurement
from ncollapse.recipes.data import DataConfig
from ncollapse.targets.measure_network import OwnData, measure_own
from ncollapse.targets.measure_run import measure_run

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class MeasureRequest:
    """The options of the command; None where one was not given.

    Attributes:
        model: A run directory, or a network as ``measure_own`` takes it.
        data: A data set, or "module:function" that returns batches.
        num_classes: K of the batches of a function.
        input_shape: Shape of a sample.
        split: "train" or "test".
        checkpoint: File of weights.
        unsafe_pickle: Whether it may run code.
        layers: Names or globs.
        batch_size: Samples in a forward pass.
        memory_budget: MiB.
    """

    model: str
    data: str | None = None
    num_classes: int | None = None
    input_shape: list[int] | None = None
    split: Literal["train", "test"] = "train"
    checkpoint: Path | None = None
    unsafe_pickle: bool = False
    layers: list[str] | None = None
    batch_size: int | None = None
    memory_budget: int | None = None

    @property
    def is_run(self) -> bool:
        """Whether the model is a run directory."""
        return Path(self.model).is_dir()

    @property
    def weights_note(self) -> str:
        """Words on the weights where no file was named; empty where one was."""
        if self.is_run or self.checkpoint is not None:
            return ""
        fresh = self.model.startswith(("torchvision:", "timm:"))
        whose = "drawn anew, with seed 0" if fresh else f"those that {self.model} gave the network"
        return f"Weights: {whose}; no --checkpoint was named."


def measure_by_name(request: MeasureRequest, device: str = "cpu", group: ProcessGroup | None = None) -> Measurement:
    """Measure what was named.

    Args:
        request: The names.
        device: Where the network runs.
        group: As in ``measure``.

    Returns:
        The measurement.

    Raises:
        ValueError: If options do not go together; and as ``measure_run`` and ``measure_own``.
    """
    layers = request.layers or "auto"
    budget = None if request.memory_budget is None else request.memory_budget * 2**20
    with Processes(group).sharing_errors():
        data = None if request.is_run else _own_data(request)
        if request.is_run:
            _check_run(request)
    if data is None:
        return measure_run(
            request.model,
            split=request.split,
            layers=layers,
            batch_size=request.batch_size,
            memory_budget=budget,
            device=device,
            group=group,
        )
    return measure_own(
        request.model,
        data,
        checkpoint=request.checkpoint,
        unsafe_pickle=request.unsafe_pickle,
        layers=layers,
        batch_size=request.batch_size or 1000,
        input_shape=request.input_shape,
        memory_budget=budget,
        device=device,
        group=group,
    )


def _check_run(request: MeasureRequest) -> None:
    names = ("data", "num_classes", "input_shape", "checkpoint", "unsafe_pickle")
    given = [f"--{name.replace('_', '-')}" for name in names if getattr(request, name) not in (None, False)]
    if given:
        raise ValueError(
            f"{request.model} is a run directory, which has its own data and checkpoint; got {' and '.join(given)}. "
            "Leave it out, or name your own network as module:function."
        )


def _own_data(request: MeasureRequest) -> DataConfig | OwnData:
    data, num_classes = request.data, request.num_classes
    if data is None:
        raise ValueError(f"MODEL {request.model!r} is no run directory; your own network needs --data NAME as well")
    if ":" not in data:
        if num_classes is not None:
            raise ValueError(f"--num-classes is for batches of a module:function; {data} has its own. Leave it out")
        return DataConfig(name=cast(Any, data), split=request.split)
    if num_classes is None or request.split != "train" or request.input_shape or request.batch_size:
        raise ValueError(
            f"--data {data} gives batches as they are: it needs --num-classes K, and takes no --split, --input-shape "
            "or --batch-size"
        )
    return OwnData(data, num_classes)
