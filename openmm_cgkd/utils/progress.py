"""Progress bar with ETA on a terminal, log lines elsewhere; the log file of a stage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

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
console = Console(stderr=True)

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


@contextmanager
def log_to(path: Path) -> Iterator[None]:
    """Append the package's log to a file while a stage runs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
