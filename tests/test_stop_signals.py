"""Signals that ask for a stop: noted, not raised; the second one ends; ignored ones stay ignored."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from ncollapse.stop_signals import STOP_SIGNALS, RunStopped, stop_signals


@pytest.fixture(autouse=True)
def nothing_is_ignored():
    """A test session that was started by ``nohup`` hands its ignored signals on."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_signal_is_noted_and_the_handler_of_before_is_back(number):
    def work():
        with stop_signals() as stop:
            assert not stop()
            os.kill(os.getpid(), number)
            # Passed on by the parent, and again by the scheduler: one request.
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop()
            raise RunStopped("saved")

    before = signal.getsignal(number)
    with pytest.raises(RunStopped, match="saved") as caught:
        work()
    assert caught.value.signal == number
    assert signal.getsignal(number) == before


def test_all_four_signals_are_known():
    assert {number.name for number in STOP_SIGNALS} == {"SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU"}


def test_other_threads_handle_no_signals():
    found = []

    def work():
        with stop_signals() as stop:
            found.append((stop(), signal.getsignal(signal.SIGTERM)))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [(False, before)]


PROGRAM = """
import os, signal, time
from ncollapse import stop_signals
if {ignored}:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
stop_signals._SAME_SECONDS = 0.0
with stop_signals.stop_signals() as stop:
    os.kill(os.getpid(), signal.SIGHUP)
    print(stop(), flush=True)
    os.kill(os.getpid(), signal.SIGHUP)
print("alive")
"""


@pytest.mark.parametrize(
    ("ignored", "code", "printed"), [(False, -signal.SIGHUP, "True\n"), (True, 0, "False\nalive\n")], ids=["second", "nohup"]
)
def test_a_second_signal_ends_and_nohup_is_kept(ignored, code, printed):
    program = PROGRAM.format(ignored=ignored)
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (code, printed)
