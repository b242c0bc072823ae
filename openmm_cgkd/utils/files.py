"""Files that are complete or absent."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .disk import disk_errors
from .lock import check_locks


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a path to write beside `path`.

    It takes the place of `path` only when the block ends well.

    Raises
    ------
    DiskError
        If the file cannot be written.
    FolderInUseError
        If the lock on its folder was removed.
    """
    fresh = path.with_name(path.name + ".tmp")
    with disk_errors(path):
        check_locks(path)  # before a folder that was removed is made anew
        path.parent.mkdir(parents=True, exist_ok=True)
        # it may be a link to somebody's file
        fresh.unlink(missing_ok=True)
        try:
            yield fresh
            with open(fresh, "rb") as written:
                os.fsync(written.fileno())
            os.replace(fresh, path)
        finally:
            with suppress(OSError):  # must not hide what went wrong
                fresh.unlink()


def write_text(path: Path, text: str) -> None:
    with replacing(path) as fresh:
        fresh.write_text(text)


def cut_table(path: Path, last_step: int) -> None:
    """Drop rows of a CSV file that a resumed simulation will write again, and a torn last one.

    Parameters
    ----------
    path : path
        Its first line is the header, its first column the time step.
    last_step : int
        Rows up to this step stay.
    """
    header, *rows = path.read_text().splitlines(keepends=True)
    kept = [
        row
        for row in rows
        if row.endswith("\n")
        and row.count(",") == header.count(",")
        and int(row.split(",", 1)[0]) <= last_step
    ]
    write_text(path, "".join([header, *kept]))


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
