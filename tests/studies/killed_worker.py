"""A run that is killed again and again: ``python killed_worker.py FOLDER KILLS`` prints how often, and how far it had come."""

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
    "data.name=gaussian_mixture", "data.per_class=20", "train.epochs=40", "train.checkpoint_every=3", "train.batch_size=50",
    "model.width=16", "model.num_blocks=2", "measure.epochs=[0,1,5,20,33]", "measure.transport_samples=50",
]  # fmt: skip


def run_whole(out: Path) -> None:
    """Begin or continue the run."""
    run_recipe(override(recipe_by_name("demo"), SETTINGS), out, resume=True)


def run_in_child(out: Path) -> int:
    """The same in a process of its own; forked, since importing takes longer than the run."""
    child = os.fork()
    if child == 0:
        run_whole(out)
        os._exit(0)
    return child


def main() -> None:
    """Run to the end, then with kills at random moments."""
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    # Here, so that the processes find imported what a run imports.
    run_whole(folder / "whole")
    begun = time.monotonic()
    assert os.waitpid(run_in_child(folder / "timed"), 0)[1] == 0
    seconds = time.monotonic() - begun
    moments = random.Random(0)
    killed, epoch = 0, 0
    for _ in range(kills):
        child = run_in_child(folder / "killed")
        # Short enough not to reach the end, long enough to get on: each beginning takes a part of it.
        time.sleep(moments.uniform(0, 1.6 * seconds / kills))
        os.kill(child, signal.SIGKILL)
        killed += os.WIFSIGNALED(os.waitpid(child, 0)[1])
        status = folder / "killed" / "status.json"
        epoch = json.loads(status.read_text())["epoch"] if status.exists() else 0
    assert os.waitpid(run_in_child(folder / "killed"), 0)[1] == 0
    print(json.dumps({"killed": killed, "epoch": epoch, "seconds": seconds}))


if __name__ == "__main__":
    main()
