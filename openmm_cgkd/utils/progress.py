"""Progress bar with ETA on a terminal, log lines elsewhere; the log file of a stage."""

from __future__ import annotations

import io
import logging
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
    MofNCompleteColumn,
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


class Meter:
    """Counts work done; `update` is cheap enough to call at every small piece of work."""

    def __init__(self, label: str, total: float, done: float, bar: Progress | None) -> None:
        self._label, self._total = label, total
        self._start, self._first, self._last_line = time.monotonic(), done, time.monotonic()
        self._shown: tuple[Progress, TaskID] | None = None
        if bar is not None:
            self._shown = bar, bar.add_task(label, total=total)
            bar.update(self._shown[1], completed=done)

    def update(self, done: float, note: str = "") -> None:
        """Set the amount done; `note` is a short figure of merit shown beside the bar."""
        if (report := _report.get()) is not None:
            report(done / self._total if self._total else 1.0, note)
        elif self._shown is not None:
            bar, task = self._shown
            bar.update(task, completed=done, description=f"{self._label} {note}".strip())
        elif time.monotonic() - self._last_line > 30:
            self._last_line = time.monotonic()
            rate = (done - self._first) / (self._last_line - self._start)
            eta = f", {(self._total - done) / rate / 60:.1f} min left" if rate > 0 else ""
            logger.info("%s: %.0f of %.0f%s %s", self._label, done, self._total, eta, note)


@contextmanager
def progress(label: str, total: float, done: float = 0) -> Iterator[Meter]:
    """Show the progress of one piece of work."""
    if not console.is_terminal or _report.get() is not None:
        yield Meter(label, total, done, None)
        return
    times = TaskProgressColumn(), TimeElapsedColumn(), TimeRemainingColumn()
    with Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times, console=console
    ) as bar:
        yield Meter(label, total, done, bar)


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
