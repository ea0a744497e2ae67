"""Where people train: streams, plain loops, callbacks for trainers, and logs of what was measured.

The callbacks are in ``ncollapse.integrations.lightning`` and ``ncollapse.integrations.transformers``.
"""

from ncollapse.integrations.streaming import CollapseMetrics
from ncollapse.integrations.watching import watch

__all__ = ["CollapseMetrics", "watch"]
