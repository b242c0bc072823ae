"""Progress bar with ETA on a terminal, log lines elsewhere; the log file of a stage."""

from __future__ import annotations

import io
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any, cast

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

logger = logging.getLogger("openmm_cgkd")


class _Stderr(io.TextIOBase):
    """Standard error; that nobody reads it, as after the terminal was closed, does no harm."""

    @property
    def _stream(self) -> Any:
        # a progress bar of Rich puts itself in between
        return getattr(sys.stderr, "rich_proxied_file", sys.stderr)

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError, AttributeError):  # broken, closed, absent
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError, AttributeError):
            self._stream.flush()

    def isatty(self) -> bool:
        with suppress(OSError, ValueError, AttributeError):
            return bool(self._stream.isatty())
        return False

    def fileno(self) -> int:
        return int(self._stream.fileno())

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return getattr(self._stream, "encoding", None) or "utf-8"


console = Console(file=cast(IO[str], _Stderr()))

# told how far a piece of work is: the share done, from 0 to 1, and a short note
Report = Callable[[float, str], None]
_report: ContextVar[Report | None] = ContextVar("report", default=None)


# seconds of the first estimate of the time left, which is rough, and between lines of a log
_FIRST_LINE, _BETWEEN_LINES = 5.0, 30.0


def duration_words(seconds: float) -> str:
    """A duration in the two largest units that tell something: 25 min, 2 h 10 min, 3 d 4 h."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    hours = round(seconds / 3600)
    return f"{hours // 24} d {hours % 24} h"


class Meter:
    """Counts work done; `update` is cheap enough to call at every small piece of work."""

    def __init__(
        self, label: str, total: float, unit: str, done: float, bar: Progress | None
    ) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._start, self._first = time.monotonic(), done
        self._next_line = self._start + _FIRST_LINE
        self._shown: tuple[Progress, TaskID] | None = None
        if bar is not None:
            self._shown = bar, bar.add_task(label, total=total, unit=unit)
            bar.update(self._shown[1], completed=done)

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done; `note` is a short figure of merit shown beside the bar."""
        if (report := _report.get()) is not None:
            report(done / self._total if self._total else 1.0, note)
        elif self._shown is not None:
            bar, task = self._shown
            bar.update(task, completed=done, description=f"{self._label} {note}".strip())
        elif (now := time.monotonic()) > self._next_line:
            self._next_line = now + _BETWEEN_LINES
            rate = (done - self._first) / (now - self._start)
            left = f", {duration_words((self._total - done) / rate)} left" if rate > 0 else ""
            amount = f"{done:.0f} of {self._total:.0f} {self._unit}"
            logger.info("%s", f"{self._label}: {amount}{left} {note}".rstrip())


@contextmanager
def progress(label: str, total: float, unit: str, done: float = 0) -> Iterator[Meter]:
    """Show the progress of one piece of work.

    Parameters
    ----------
    label : str
        What is done.
    total : float
        Amount of work.
    unit : str
        Of the amount, such as "ps" or "frames".
    done : float
        Amount that was done before.
    """
    if not console.is_terminal or _report.get() is not None:
        yield Meter(label, total, unit, done, None)
        return
    amount = TextColumn("{task.completed:.0f} of {task.total:.0f} {task.fields[unit]}")
    times = TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), amount, *times, console=console
    ) as bar:
        yield Meter(label, total, unit, done, bar)


@contextmanager
def progress_to(report: Report) -> Iterator[None]:
    """Send progress within the block to `report` instead of to the terminal.

    For tasks on which another process waits.
    """
    token = _report.set(report)
    try:
        yield
    finally:
        _report.reset(token)


class _LogFile(logging.FileHandler):
    """A log file; if the disk takes no more, the work that it tells of will say so."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def _open(self) -> Any:
        # not through a link, which may lead to somebody's file
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        return open(os.open(self.baseFilename, flags, 0o666), "a", encoding=self.encoding)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append the package's log to a file while a stage runs, and what has ended it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _LogFile(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    except BaseException as error:
        # to the file alone: on the terminal the command says it
        what = f"{type(error).__name__}: {error}"
        handler.handle(logger.makeRecord(logger.name, logging.ERROR, "", 0, what, (), None))
        raise
    finally:
        logger.removeHandler(handler)
        handler.close()
