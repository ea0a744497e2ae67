"""Callbacks for Lightning and transformers, and logs of measurements.

The callbacks are in ``ncollapse.integrations.lightning`` and ``ncollapse.integrations.transformers``.
"""

from ncollapse.integrations.loggers import TensorBoardLog, WandbLog
from ncollapse.integrations.logs import CSVLog, JSONLLog

__all__ = ["CSVLog", "JSONLLog", "TensorBoardLog", "WandbLog"]
