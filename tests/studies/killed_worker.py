"""A run that is killed again and again: ``python killed_worker.py FOLDER KILLS`` prints how often, and where it had come to."""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from ncollapse.studies import override, recipe_by_name, run_recipe

SETTINGS = [
    "data.per_class=20", "train.epochs=40", "train.checkpoint_every=3", "measure.epochs=[0,1,5,20,33]", "model.width=16",
    "model.num_blocks=2", "train.batch_size=50", "measure.transport_samples=50",
]  # fmt: skip


def run_in_child(out: Path) -> int:
    """Begin or continue the run in a process of its own; forked, since importing takes longer than the run."""
    child = os.fork()
    if child == 0:
        run_recipe(override(recipe_by_name("demo"), SETTINGS), out, resume=True)
        os._exit(0)
    return child


def main() -> None:
    """Run once to the end, then once with kills at random moments."""
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    begun = time.monotonic()
    assert os.waitpid(run_in_child(folder / "whole"), 0)[1] == 0
    seconds = time.monotonic() - begun
    moments = random.Random(0)
    killed, epochs = 0, []
    for _ in range(kills):
        child = run_in_child(folder / "killed")
        # All sleeps together are at most as long as the run.
        time.sleep(moments.uniform(0, seconds / kills))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        status = folder / "killed" / "status.json"
        epochs.append(json.loads(status.read_text())["epoch"] if status.exists() else None)
    assert os.waitpid(run_in_child(folder / "killed"), 0)[1] == 0
    print(json.dumps({"killed": killed, "epochs": epochs, "seconds": seconds}))


if __name__ == "__main__":
    main()
