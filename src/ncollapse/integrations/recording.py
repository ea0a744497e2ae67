"""The measurer of the recorder and the callbacks: measures at chosen times of a training, keeps the rows, and logs them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, cast

from torch import Tensor, nn

from ncollapse.groups import Processes
from ncollapse.integrations.logs import CSVLog, JSONLLog, Log, logged_rows
from ncollapse.measurement.measurement import Measurement
from ncollapse.measurement.path_choice import NoPathError
from ncollapse.probe.class_choice import default_classes
from ncollapse.probe.loader_batches import BatchPlan
from ncollapse.probe.measure import measure_network
from ncollapse.probe.request import Request
from ncollapse.records.rows import Row
from ncollapse.train.schedule import measuring_epochs

Every = int | Literal["log"]
Logs = str | Path | Log | Sequence[Log] | None
Network = str | Callable[[nn.Module], nn.Module] | None

_FILE_LOGS = {".csv": CSVLog, ".jsonl": JSONLLog}
# Fields of a request that the callbacks set themselves.
_GIVEN = {"group", "where"}
# Fields on which the table depends.
_SHAPING = {"num_classes", "layers", "classifier", "classes", "min_per_class", "split", "metrics", "convention", "path"}
# Arguments of ``measure`` about running the network, which no request holds.
_RUNNING = ("unpack", "call", "ignore_index", "rows", "check")


class Measurer:
    """A measurer of a network at chosen times of a training, which keeps the rows and logs the measurements."""

    def __init__(
        self, every: Every, network: Network, logs: Logs, options: Mapping[str, Any], *, prefers_path: bool = False
    ) -> None:
        """Check everything before the training starts; a preferred path is left out if the layers allow none."""
        self._may_leave_path = prefers_path and "path" not in options
        options = {"path": True, **options} if self._may_leave_path else options
        if every != "log" and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise ValueError(f"every must be 'log' or an integer, at least 1, got {every!r}. Pass every=1 for all epochs.")
        known = [*(item.name for item in fields(Request) if item.name not in _GIVEN), *_RUNNING]
        unknown = sorted(options.keys() - set(known))
        if unknown:
            raise TypeError(
                f"Further arguments must be those of measure, got {', '.join(unknown)}. Choose from: {', '.join(known)}."
            )
        self._check = bool(options.get("check", False))
        self._reading = BatchPlan(**{name: options[name] for name in _RUNNING if name in options and name != "check"})
        given = {"classes": default_classes(self._reading.unpack), **options}
        self._request = Request(**{name: value for name, value in given.items() if name not in _RUNNING})
        self.table: list[Row] = []
        self.last: Measurement | None = None
        self._every, self._network = every, network
        self._logs = None if logs is None else logs_of(logs)

    def open_log(self, folder: str | Path, resume: bool) -> None:
        """Create the default log if none was given."""
        if self._logs is None:
            self._logs = (_file_log(Path(folder) / "neural_collapse.csv", resume),)

    def arguments(self) -> dict[str, str]:
        """Return the arguments of measure, in words, that must not change while one run is recorded."""
        given = {item.name: getattr(self._request, item.name) for item in fields(Request) if item.name in _SHAPING}
        return {name: _in_words(value) for name, value in given.items()}

    def is_due(self, count: int, total: int | None) -> bool:
        """Return whether to measure now."""
        if self._every != "log":
            return count % self._every == 0 or count == total
        if total is None or total < 1:
            raise ValueError("every='log' needs a training with a known end, got one without. Pass every=n.")
        return count in measuring_epochs(total)

    def record(
        self,
        module: nn.Module,
        batches: Iterable[Any],
        *,
        epoch: float | None,
        step: int | None,
        processes: Processes,
        prepare: Callable[[Any], Any] | None = None,
        reference: Measurement | None = None,
    ) -> Measurement:
        """Measure, keep the rows, and log them; with a reference, of the training set, the test split."""
        where = f" at epoch {epoch:g}" if epoch is not None else f" at step {step}"
        request = replace(self._request, group=processes.group, where=where)
        if reference is not None:
            request = replace(request, reference=reference, split="test")
        network = network_in(module, self._network)
        reading = replace(self._reading, prepare=prepare)
        try:
            measured = measure_network(request, network, batches, reading=reading, check=self._check)
        except NoPathError:
            # Found in the first batch, with which an iterator would have been begun.
            if not self._may_leave_path or isinstance(batches, Iterator):
                raise
            self._request, request = replace(self._request, path=False), replace(request, path=False)
            measured = measure_network(request, network, batches, reading=reading, check=self._check)
        self.table += logged_rows(measured, epoch, step)
        with processes.sharing_errors():
            for log in self._logs or () if processes.is_first else ():
                log(measured, epoch=epoch, step=step)
        self.last = measured if reference is None else self.last
        return measured

    def record_splits(
        self, module: nn.Module, train: Iterable[Any], test: Iterable[Any] | None, **place: Any
    ) -> list[Measurement]:
        """Record the training set, and a test split that its class means decide."""
        measured = self.record(module, train, **place)
        return [measured] if test is None else [measured, self.record(module, test, reference=measured, **place)]


def network_in(module: nn.Module, network: Network) -> nn.Module:
    """Return the network inside a module."""
    if network is None:
        return module
    try:
        found = attrgetter(network)(module) if isinstance(network, str) else network(module)
    except AttributeError as error:
        children = ", ".join(name for name, _ in module.named_children())
        raise ValueError(
            f"network must name an attribute of {type(module).__name__}, got {network!r}. It has: {children}."
        ) from error
    if not isinstance(found, nn.Module):
        raise TypeError(
            f"network must lead to a torch.nn.Module, got {type(found).__name__}. Name the attribute with the network."
        )
    return found


def logs_of(logs: Logs) -> tuple[Log, ...]:
    """Return the logs for the user's ``log=``."""
    if isinstance(logs, str | Path):
        path = Path(logs)
        if path.suffix not in _FILE_LOGS:
            raise ValueError(f"log must be a file that ends in {' or '.join(_FILE_LOGS)}, got {str(path)!r}. Rename it.")
        return (_file_log(path, resume=False),)
    many = cast(Sequence[Log], logs if isinstance(logs, Sequence) else (logs,))
    for log in many:
        if not callable(log):
            raise TypeError(
                f"log must be a file, a log or several, got {type(log).__name__}. "
                "A log is called with (measurement, epoch=, step=)."
            )
    return tuple(many)


def _file_log(path: Path, resume: bool) -> Log:
    """Open a log of a file. A second training in one notebook gets a file of its own instead of an error."""
    kind, free, number = _FILE_LOGS[path.suffix], path, 1
    while True:
        try:
            log = kind(free, resume=resume)
        except ValueError:
            number += 1
            free = path.with_name(f"{path.stem}-{number}{path.suffix}")
            continue
        if free != path:
            warnings.warn(f"{path} holds another table and stays as it is; this training is logged in {free}.", stacklevel=4)
        return log


def _in_words(value: Any) -> str:
    if isinstance(value, nn.Module | Tensor):
        return type(value).__name__
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_in_words, value))}]"
    return str(value)
