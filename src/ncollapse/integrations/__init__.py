"""Callbacks for other people's training loops, and logs of what was measured.

The callbacks are in ``ncollapse.integrations.lightning`` and ``ncollapse.integrations.transformers``.
"""

from ncollapse.integrations.loggers import TensorBoardLog, WandbLog
from ncollapse.integrations.logs import CSVLog, JSONLLog

__all__ = ["CSVLog", "JSONLLog", "TensorBoardLog", "WandbLog"]
