"""Two processes that reproduce one experiment in one folder at once: each waits for the runs of the other."""

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from crashes.commands import in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks, on Linux")


@pytest.mark.filterwarnings("default::ncollapse.records.errors.RunDirectoryWarning")
def test_two_processes_reproduce_one_experiment(known):
    command = known("reproduce")
    place = command.begun()
    with ThreadPoolExecutor(2) as pool:
        endings = list(pool.map(lambda _: in_child(command.words, place), range(2)))
    for ending in endings:
        assert ending.code == 0, ending.words
        # Told by whoever waits, about a run that the other one trains.
        assert all("has been training this run since" in line for line in ending.words.splitlines() if "ncollapse: " in line)
        assert "pfc:tiny" in ending.out
    assert command.differs() == ""
