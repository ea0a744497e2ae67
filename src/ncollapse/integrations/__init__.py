"""Where people train: streams, plain loops, callbacks for trainers, and logs of what was measured.

The callbacks are in ``ncollapse.integrations.lightning`` and ``ncollapse.integrations.transformers``.
"""

from ncollapse.integrations.loggers import TensorBoardLog, WandbLog
from ncollapse.integrations.logs import CSVLog, JSONLLog, LoggedRow
from ncollapse.integrations.streaming import CollapseMetrics
from ncollapse.integrations.watching import watch

__all__ = ["CSVLog", "CollapseMetrics", "JSONLLog", "LoggedRow", "TensorBoardLog", "WandbLog", "watch"]
