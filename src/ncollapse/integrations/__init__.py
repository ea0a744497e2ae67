"""Record other people's trainings: the recorder, callbacks for Lightning and transformers, checkpoints, logs.

The callbacks are in ``ncollapse.integrations.lightning`` and ``ncollapse.integrations.transformers``, and a metric of
torchmetrics in ``ncollapse.integrations.torchmetrics``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ncollapse.integrations.loggers import TensorBoardLog, TrackioLog, WandbLog
from ncollapse.integrations.logs import CSVLog, JSONLLog

if TYPE_CHECKING:
    from ncollapse.integrations.checkpoints import measure_checkpoints as measure_checkpoints
    from ncollapse.integrations.imported_log import import_log as import_log
    from ncollapse.integrations.recorder import Recorder as Recorder

# Imported when first used: who only measures or logs needs no writer of run directories.
_HOMES = {"Recorder": "recorder", "import_log": "imported_log", "measure_checkpoints": "checkpoints"}

__all__ = ["CSVLog", "JSONLLog", "Recorder", "TensorBoardLog", "TrackioLog", "WandbLog", "import_log", "measure_checkpoints"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
