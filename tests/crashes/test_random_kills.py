"""Commands killed at random moments, again and again, with the worker processes of a sweep: nothing is lost."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from crashes.commands import TINY, in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks, on Linux")
LONGER = ["train.epochs=40", "train.checkpoint_every=3", "measure.epochs=[0,1,5,20,33]"]
TABLES = {"measurements.csv", "depth.json", "history.csv", "checkpoint.safetensors"}


def kills_survived(command, kills, seed):
    """Kill a command again and again until it has been killed that often; whenever it ends, its files must be as expected."""
    begun = time.monotonic()
    assert in_child(command.words, command.begun()).code == 0
    seconds, moments, killed = time.monotonic() - begun, random.Random(seed), 0
    command.begun()
    while killed < kills:
        ending = in_child(command.words, command.place, seconds=moments.uniform(0, seconds))
        assert command.lost() == ""
        if ending.code == -signal.SIGKILL:
            killed += 1
            continue
        assert command.finished() == ""
        command.begun()
    assert command.finished() == ""


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("name", "kills"), [("run", 60), ("replaced run", 40), ("report", 40), ("measure", 40)])
def test_kills_at_random_moments(known, name, kills):
    kills_survived(known(name), kills, seed=kills)


def sweep(folder):
    """Start a sweep in two worker processes, as a user does."""
    words = [
        "sweep",
        "demo",
        "--workers",
        "2",
        "--over",
        "train.weight_decay=0,0.01,0.02",
        "--seeds",
        "2",
        "--out",
        str(folder),
    ]
    command = [sys.executable, "-m", "ncollapse", *words, "--set", *TINY, *LONGER]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def tables(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.glob("*/*") if path.name in TABLES}


def workers_of(process):
    """List the processes that work on runs: Python starts another one beside them, which keeps track of semaphores."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_kills_of_a_sweep_and_of_its_two_workers(tmp_path):
    whole = sweep(tmp_path / "whole")
    begun = time.monotonic()
    whole.communicate()
    assert whole.returncode == 0
    seconds, moments = time.monotonic() - begun, random.Random(0)
    killed, rounds, process = {"workers": 0, "sweeps": 0}, 0, sweep(tmp_path / "0")
    while killed["workers"] < 20 or killed["sweeps"] < 10:
        time.sleep(moments.uniform(0, seconds / 2))
        if process.poll() is not None:
            # It has finished, or a run has died three times.
            _, words = process.communicate()
            assert process.returncode == 0 or "died 3 times" in words, words
            if process.returncode == 0:
                assert tables(tmp_path / str(rounds)) == tables(tmp_path / "whole")
                rounds += 1
        elif killed["workers"] < 20 and (alive := workers_of(process)):
            os.kill(moments.choice(alive), signal.SIGKILL)
            killed["workers"] += 1
            continue
        else:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
            killed["sweeps"] += 1
        process = sweep(tmp_path / str(rounds))
    while (words := process.communicate()[1]) and process.returncode != 0:
        assert "died 3 times" in words
        process = sweep(tmp_path / str(rounds))
    assert tables(tmp_path / str(rounds)) == tables(tmp_path / "whole")
    print(f"sweep: {killed} killed, {rounds + 1} brought to their end")
