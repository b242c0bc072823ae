"""Processes of which each reports its progress, ends with its parent, and hands over its error.

They are spawned, so a Python script that starts them needs the ``if __name__ == "__main__":``
guard.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from typing import Any

from openmm_cgkd.exceptions import CGKDError, ExecutionError
from openmm_cgkd.utils.progress import Report
from openmm_cgkd.utils.signals import StopRequest, handle_stop_requests

logger = logging.getLogger(__name__)

_OF_THE_PARENT = (signal.SIGINT, signal.SIGHUP)  # signals that it alone answers


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


class Worker:
    """A process that runs ``function(*arguments, report)``.

    Parameters
    ----------
    function, arguments
        Must be importable and picklable.
    threads : int, optional
        Threads of PyTorch in the process; as PyTorch finds them if absent.

    Attributes
    ----------
    connection : Connection
        The end of the process's pipe; something can be read when the process has news.
    reports : list of (float, str)
        What the function reported; the reader empties it.
    result : object
        What the function returned.
    error : Exception or None
        Why the function did not end well.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Any, ...], threads: int | None = None
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, far = context.Pipe()
        self._process = context.Process(target=_work, args=(function, arguments, threads, far))
        resource_tracker.ensure_running()  # here, because it unblocks signals when it begins
        # Ctrl-C and a closed terminal reach the parent, which ends the process; it shall not hear
        # of them itself, not even while it starts
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OF_THE_PARENT)
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        far.close()
        self.reports: list[tuple[float, str]] = []
        self.result: Any = None
        self.error: Exception | None = None
        self._answered = False

    def ended(self) -> bool:
        """Take in what the process has sent; whether it has ended."""
        try:
            while self.connection.poll():
                kind, content = self.connection.recv()
                if kind == "report":
                    self.reports.append(content)
                    continue
                self._answered = True
                if kind == "error":
                    self.error = content
                else:
                    self.result = content
        except (EOFError, OSError):
            self._process.join()
            if not self._answered:
                self.error = ExecutionError(_cause(self._process.exitcode))
            return True
        return False

    def wait(self) -> Any:
        """Wait for the result of the function and return it, or raise its error."""
        while not (self.ended() or self._answered):
            wait_for([self.connection])
        self.stop()
        if self.error is not None:
            raise self.error
        return self.result

    def stop(self) -> None:
        """Close the connection, upon which the process ends itself at once, and wait for that."""
        self.connection.close()
        self._process.join()

    def terminate(self) -> None:
        """Ask the process to save and end; for threads other than the one that waits."""
        self._process.terminate()

    def kill(self) -> None:
        """Have the operating system end the process at once; otherwise as `terminate`."""
        self._process.kill()


def _cause(code: int | None) -> str:
    if code == -signal.SIGKILL:
        return (
            "its process was killed, as happens when memory runs out; use fewer workers or a"
            " smaller batch_size"
        )
    return f"its process ended with exit code {code}"


def _work(
    function: Callable[..., Any],
    arguments: tuple[Any, ...],
    threads: int | None,
    connection: Connection,
) -> None:
    """Main function of the process: send reports, then the result or the error."""
    for number in _OF_THE_PARENT:
        signal.signal(number, signal.SIG_IGN)
    handle_stop_requests()
    threading.Thread(target=_end_with_parent, args=(connection,), daemon=True).start()

    def report(share: float, note: str) -> None:
        connection.send(("report", (share, note)))

    try:
        if threads is not None:
            import torch  # not before the function has set the number of threads by other means

            torch.set_num_threads(threads)
        answer = "result", function(*arguments, report)
    except StopRequest as stop:  # the parent waits for no answer
        sys.exit(128 + stop.number)
    except CGKDError as error:
        answer = "error", error
    except Exception as error:
        logger.exception("a process failed")
        # some library errors do not survive pickling
        answer = "error", ExecutionError(f"{type(error).__name__}: {error}")
    connection.send(answer)


def _end_with_parent(connection: Connection) -> None:
    """End when the parent closes its side, by intent or by its death."""
    with contextlib.suppress(EOFError, OSError):
        connection.recv()
    os._exit(1)


def run_together(
    jobs: list[tuple[Callable[..., Any], tuple[Any, ...]]], report: Report, threads: int
) -> None:
    """Run jobs that work on one thing, each in a process of its own, and pass on their reports.

    Parameters
    ----------
    jobs : list of (callable, tuple)
        Functions and their arguments, as `Worker` takes them.
    report : callable
        Gets what any of them reports.
    threads : int
        Threads of PyTorch in all processes together, at least one in each.

    Raises
    ------
    CGKDError
        That of the job that fails first; the others are ended.
    """
    share = max(1, threads // len(jobs))
    workers = [Worker(function, arguments, share) for function, arguments in jobs]
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
