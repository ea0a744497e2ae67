"""Runs that are killed again and again: ``python killed_worker.py FOLDER KILLS`` prints how many, and how far one had come."""

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
    runs, killed, furthest = 1, 0, 0
    while killed < kills:
        out = folder / f"killed-{runs}"
        child = run_in_child(out)
        time.sleep(moments.uniform(0, seconds / 3))
        os.kill(child, signal.SIGKILL)
        if not os.WIFSIGNALED(os.waitpid(child, 0)[1]):
            runs += 1  # this one had come to its end before
            continue
        killed += 1
        status = out / "status.json"
        furthest = max(furthest, json.loads(status.read_text())["epoch"] if status.exists() else 0)
    assert os.waitpid(run_in_child(folder / f"killed-{runs}"), 0)[1] == 0
    print(json.dumps({"runs": runs, "killed": killed, "furthest": furthest, "seconds": seconds}))


if __name__ == "__main__":
    main()
