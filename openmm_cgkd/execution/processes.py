"""Processes that train one model together: each reports its progress, ends with its parent, and
hands over its error.

They are spawned, so a Python script that trains on several devices needs the ``if __name__ ==
"__main__":`` guard.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for

import torch

from openmm_cgkd.exceptions import CGKDError, TrainingError

logger = logging.getLogger(__name__)

Report = Callable[[float, str], None]  # takes the epochs done and a figure of merit


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Worker:
    """A process that runs ``function(*arguments, report)``.

    Parameters
    ----------
    function, arguments
        Must be importable and picklable.
    threads : int
        Threads of PyTorch in the process.

    Attributes
    ----------
    reports : list of (float, str)
        What the function reported; the reader empties it.
    error : Exception or None
        Why the function did not end well, once the process has ended.
    """

    def __init__(self, function: Callable[..., object], arguments: tuple, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far = context.Pipe()
        self._process = context.Process(target=_work, args=(function, arguments, threads, far))
        self._process.start()
        far.close()
        self.reports: list[tuple[float, str]] = []
        self.error: Exception | None = None
        self._done = False

    def ended(self) -> bool:
        """Take in what the process has sent; whether it has ended."""
        try:
            while self.connection.poll():
                message = self.connection.recv()
                if isinstance(message, Exception):
                    self.error = message
                elif message is None:
                    self._done = True
                else:
                    self.reports.append(message)
        except (EOFError, OSError):
            self._process.join()
            if not self._done and self.error is None:
                self.error = TrainingError(_cause(self._process.exitcode))
            return True
        return False

    def stop(self) -> None:
        """End the process now; safe at any moment, because every epoch is on disk."""
        self.connection.close()
        self._process.join()


def _cause(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed, as happens when memory runs out; use fewer workers or a"
            " smaller batch_size"
        )
    return f"its process ended with exit code {code}"


def _work(
    function: Callable[..., object], arguments: tuple, threads: int, connection: Connection
) -> None:
    # Ctrl-C reaches the parent, which ends this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()

    def report(epochs: float, note: str) -> None:
        connection.send((epochs, note))

    try:
        function(*arguments, report)
    except CGKDError as error:
        connection.send(error)
    except Exception as error:
        logger.exception("training failed")
        # some library errors do not survive pickling
        connection.send(TrainingError(f"{type(error).__name__}: {error}"))
    else:
        connection.send(None)


def _end_with_parent(connection: Connection) -> None:
    """End when the parent closes its side, by intent or by its death."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)


def run_together(jobs: list[tuple[Callable[..., object], tuple]], report: Report) -> None:
    """Run jobs that work on one thing, each in a process of its own, and pass on their reports.

    Raises
    ------
    CGKDError
        That of the job that fails first; the others are ended.
    """
    threads = max(1, torch.get_num_threads() // len(jobs))
    workers = [Worker(function, arguments, threads) for function, arguments in jobs]
    try:
        running = list(workers)
        while running:
            wait_for([worker.connection for worker in running])
            for worker in list(running):
                ended = worker.ended()
                while worker.reports:
                    report(*worker.reports.pop(0))
                if worker.error is not None:
                    raise worker.error
                if ended:
                    running.remove(worker)
    finally:
        for worker in workers:
            worker.stop()


def free_port() -> int:
    """A TCP port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
