"""The machine that numbers come from: what is noted of it in a run directory."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

from ncollapse.version import __version__


def machine(device: torch.device) -> dict[str, Any]:
    """Versions, platform and device."""
    return {
        "ncollapse": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
    }
