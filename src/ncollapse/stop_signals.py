"""Signals by which schedulers ask a program to stop before they kill it, and what a run raises once it has stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

# Sent by Slurm at the end of the time or before preemption (SIGTERM, or the one that --signal names), by a terminal that is
# closed (SIGHUP), by batch systems (SIGUSR1), at the limit of CPU time (SIGXCPU). Windows has the first alone.
STOP_SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGXCPU") if hasattr(signal, name))
# A scheduler signals all processes of a job, and torchrun or a sweep passes the signal on to processes that have it already:
# within this time it is the same request.
_SAME_SECONDS = 2.0


class RunStopped(Exception):
    """A run or a sweep has stopped because it was asked to; what it has is saved.

    Attributes:
        signal: What asked for it, if ``stop_signals`` knows.
    """

    signal: signal.Signals | None = None


class StopRequest:
    """Whether a signal has asked this process to stop; call it to know."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._since = 0.0

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.signal is not None

    def note(self, number: int, _: object = None) -> None:
        """Note a signal; a second one ends the process at once."""
        if self.signal is None:
            self.signal, self._since = signal.Signals(number), time.monotonic()
        elif time.monotonic() - self._since > _SAME_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@contextmanager
def stop_signals(signals: tuple[signal.Signals, ...] = STOP_SIGNALS) -> Iterator[StopRequest]:
    """Let signals ask the work in the body to stop, instead of ending the process.

    Pass what it yields as ``should_stop`` to ``run_recipe``, ``run_sweep`` or ``train``. A second signal, two seconds later or
    more, ends the process at once. Outside the main thread, where Python handles no signals, nothing is changed.

    Yields:
        Whether a signal has come, as a function without arguments.

    Raises:
        RunStopped: What the body raises, with the signal.
    """
    request = StopRequest()
    with handling(signals, request.note):
        try:
            yield request
        except RunStopped as stopped:
            stopped.signal = request.signal
            raise


@contextmanager
def handling(signals: tuple[signal.Signals, ...], handler: signal._HANDLER) -> Iterator[None]:
    """Handle signals by a function in the body, but for those that the process was started to ignore, as by nohup."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signals}
    # A shell lets everything that it starts in the background ignore SIGINT: who asks for that one here means another sender.
    before = {n: held for n, held in before.items() if held is not signal.SIG_IGN or n == signal.SIGINT}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handled in before.items():
            signal.signal(number, handled)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Put the handlers of before in place again after the body, whatever it has put there."""
    before = {number: signal.getsignal(number) for number in (*STOP_SIGNALS, signal.SIGINT)}
    yield
    if threading.current_thread() is threading.main_thread():
        for number, handled in before.items():
            # One that was not set from Python is unknown to it.
            if handled is not None:
                signal.signal(number, handled)
