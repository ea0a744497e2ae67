"""A command whose disk or memory fails at any step ends in one line, leaves nothing behind, and can be given again."""

import os
import random

import pytest

from crashes.commands import COMMANDS, in_child
from crashes.steps import disk_error, interrupt, no_memory, no_space

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="forks, on Linux")

# A full disk stays full, for whatever needs room; anything else fails once.
NEEDS_ROOM = {"open", "write", "mkdir", "link", "symlink"}
FAILURES = {
    "full disk": (no_space, lambda first: lambda step, kind: step >= first and kind in NEEDS_ROOM, 2),
    "disk error": (disk_error, lambda first: lambda step, kind: step == first, 2),
    "no memory": (no_memory, lambda first: lambda step, kind: step == first, 2),
    "Ctrl-C": (interrupt, lambda first: lambda step, kind: step == first, 130),
}


def goes_wrong(known, failure, first):
    """Fail at a step and give the command again; say what is wrong with how it ended, and what was lost, if anything."""
    act, chosen, code = FAILURES[failure]
    ending = in_child(known.words, known.begun(), chosen(first), act)
    if ending.code == 0:
        # Such as to remove a file that is gone already: nothing was missed.
        return known.differs()
    lines = [line for line in ending.words.splitlines() if line.startswith("ncollapse: ")]
    if ending.code != code or len(lines) != 1 or not ending.words.endswith(f"{lines[0]}\n") or "Traceback" in ending.words:
        return f"ended with {ending.code} and the words {ending.words}"
    # The save before, whose epoch may be another, is kept.
    names = {str(path.relative_to(known.place)) for path in known.place.rglob("*")}
    left = {name for name in names if "/previous/" not in f"{name}/" and not name.endswith("/.lock")}
    known_names = {str(path.relative_to(root)) for root in (known.before, known.after) for path in root.rglob("*")}
    if left - known_names:
        return f"left {sorted(left - known_names)}"
    # A sweep in which a run fails writes the pages of the others, which state what the claims were then.
    return known.lost() or known.finished(("/report.html",) if known.name == "sweep" else ())


@pytest.mark.parametrize("failure", ["full disk", "no memory"])
def test_some_failing_steps(known, failure):
    command = known("run")
    first = random.Random(failure).randint(1, command.steps)
    assert goes_wrong(command, failure, first) == "", first


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("name", COMMANDS)
def test_every_failing_step(known, name, failure):
    command = known(name)
    found = {first: goes_wrong(command, failure, first) for first in range(1, command.steps + 1)}
    wrong = {first: what for first, what in found.items() if what}
    print(f"{name}, {failure}: {len(found)} steps, {len(wrong)} end badly")
    assert wrong == {}
