"""A command that dies at any step, given again, ends with the files of one that was never stopped, to the bit."""

import os
import random

import pytest

from crashes.commands import COMMANDS, in_child
from crashes.steps import die

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks, on Linux")


def survives(known, step):
    """Die at a step and give the command again; say what was lost, if anything."""
    ending = in_child(known.words, known.begun(), lambda count, kind: count == step, die)
    if ending.code != -9:
        return f"did not die: {ending}"
    return known.lost() or known.finished()


@pytest.mark.parametrize(("name", "number"), [("run", 4), ("replaced run", 2), ("measure", 2), ("reproduce", 1)])
def test_some_crash_points(known, name, number):
    command = known(name)
    assert command.steps > 40
    for step in random.Random(name).sample(range(1, command.steps + 1), number):
        assert survives(command, step) == "", step


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_crash_point(known, name):
    command = known(name)
    found = {step: survives(command, step) for step in range(1, command.steps + 1)}
    lost = {step: what for step, what in found.items() if what}
    print(f"{name}: {len(found)} crash points, {len(lost)} lost")
    assert lost == {}
