"""Signals that ask a run to end: one exception for all, raised where it does no harm.

Ctrl-C, a batch system at the end of a job's time (SIGTERM) and a closed terminal (SIGHUP) mean the
same: save what can be saved and end.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_ASK_TO_END = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_asked = 0


class StopRequest(KeyboardInterrupt):
    """A signal asks the run to end.

    Attributes
    ----------
    number : int
        The signal.
    """

    def __init__(self, number: int = signal.SIGINT) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


def handle_stop_requests() -> None:
    """Turn signals that ask to end into a `StopRequest` in the main thread, which must call this.

    A signal that is ignored stays so: nohup and the background of a shell rely on it.
    """
    for number in _ASK_TO_END:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _stop)
    sys.unraisablehook = _where_nothing_can_be_raised


def _where_nothing_can_be_raised(report: sys.UnraisableHookArgs) -> None:
    """Answer an exception that Python drops, as it does in destructors."""
    global _asked
    if isinstance(report.exc_value, StopRequest):
        _asked, number, returns = 0, report.exc_value.number, threading.Event()

        def again() -> None:
            returns.wait()  # here an exception would be dropped, too
            time.sleep(0.05)
            os.kill(os.getpid(), number)

        threading.Thread(target=again).start()
        returns.set()
    elif not isinstance(report.exc_value, OSError):  # the disk has told before, at the last write
        sys.__unraisablehook__(report)


@contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold signals that ask to end back until the block ends, for work that is saved in pieces.

    What the signal does without this function it does then: raise a `StopRequest` or a
    `KeyboardInterrupt`, or end the process. Signals that are ignored stay so. Only the main thread
    hears of signals, so in others nothing is to be held back.

    Yields
    ------
    callable
        Whether a signal has come: the work is to be saved and the block to be left.
    """
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if came and number != signal.SIGINT:
            return
        came.append(number)
        _answer_again(len(came), number)

    before = {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in _ASK_TO_END}
        # None: a handler that is not of Python, which could not be put back
        before = {n: each for n, each in handlers.items() if each not in (None, signal.SIG_IGN)}
    try:
        for number in before:
            signal.signal(number, note)
        yield lambda: bool(came)
    finally:
        stop = _put_back(before)
        if stop is not None:
            raise stop
        if came:
            signal.raise_signal(came[0])


def _put_back(handlers: dict[signal.Signals, Any]) -> BaseException | None:
    """Set all handlers, also if one that is set already raises; returns what it has raised.

    Blocking the signals would not help: other threads of the process still take them, and the main
    thread runs the handlers.
    """
    # those that Python runs come last: before, nothing is raised
    left = sorted(handlers.items(), key=lambda item: callable(item[1]))
    stop = None
    while left:
        try:
            while left:
                signal.signal(*left[0])
                del left[0]
        except BaseException as error:
            stop = stop or error
    return stop


def end_silently() -> None:
    """From here on the signals end the process at once and without a word."""
    for number in _ASK_TO_END:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


def _stop(number: int, frame: FrameType | None) -> None:
    global _asked
    # wrappers pass on a Ctrl-C that the terminal sends as well, and sessions end with two signals
    if _asked and number != signal.SIGINT:
        return
    _asked += 1
    if _asked == 1:
        raise_outside_openmm(StopRequest(number), frame)
    _answer_again(_asked, number)


def _answer_again(times: int, number: int) -> None:
    """Answer a Ctrl-C that comes while the work is being saved."""
    if times == 2:
        os.write(2, b"saving and ending; a third Ctrl-C ends at once\n")
    elif times > 2:
        os._exit(128 + number)


def raise_outside_openmm(error: BaseException, frame: FrameType | None) -> None:
    """Raise an exception; in Python that OpenMM's C++ has called, only when OpenMM returns.

    An exception that leaves such Python ends the process with a segmentation fault.

    Parameters
    ----------
    error : exception
    frame : frame, optional
        Where Python was when the signal came.
    """
    library = getattr(sys.modules.get("openmm.openmm"), "__file__", None)
    inside, caller = None, frame and frame.f_back
    while caller is not None:
        if caller.f_code.co_filename == library:
            inside = caller
        caller = caller.f_back
    if inside is None:
        raise error

    def raise_there(*_: object) -> None:
        sys.settrace(None)
        inside.f_trace = None
        raise error

    # the only way to be told of the return: the frame's trace function, which Python asks while any
    # is set for the thread
    inside.f_trace = raise_there
    sys.settrace(lambda *_: None)
