"""Rows of whole commands, each in a fresh process: starting, the demo, and claims."""

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from timing import Calls, Ratio, Row


def python(*words: str) -> Callable[[], object]:
    """Run the interpreter of this process, with one thread, and throw away what it prints."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return lambda: subprocess.run([sys.executable, *words], env=environment, check=True, stdout=subprocess.DEVNULL)


def starting() -> Calls:
    """Import, and print the command's help, beside torch alone."""
    return {
        "import torch": python("-c", "import torch"),
        "import ncollapse": python("-c", "import ncollapse; ncollapse.measure"),
        "ncollapse --help": python("-m", "ncollapse", "--help"),
    }


def demo() -> Calls:
    """Run the demo and, on a short run, the claims."""
    folder = tempfile.mkdtemp()
    whole, short = Path(folder, "whole"), str(Path(folder, "short"))
    python("-m", "ncollapse", "run", "demo", "--set", "train.epochs=10", "--out", short)()

    def fresh() -> None:
        with contextlib.suppress(FileNotFoundError):
            whole.rename(Path(folder, str(len(list(Path(folder).iterdir())))))
        python("-m", "ncollapse", "demo", "--out", str(whole))()

    return {"import torch": python("-c", "import torch"), "demo": fresh, "claims": python("-m", "ncollapse", "claims", short)}


ROWS = {
    "starting": Row(
        "a fresh process",
        starting,
        {name: Ratio(name, "import torch") for name in ("import ncollapse", "ncollapse --help")},
    ),
    "demo": Row("`ncollapse demo` and `ncollapse claims`", demo, {}, rounds=1, slow=True),
}
