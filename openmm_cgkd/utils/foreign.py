"""Libraries that read files of other programs: whatever they raise becomes one sentence."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from openmm_cgkd.exceptions import CGKDError

from .text_file import shown


@contextmanager
def reading(path: Path, what: str, cure: str, error: type[CGKDError]) -> Iterator[None]:
    """Name the file, its format and the cure if a library fails on it within the block.

    Readers of other projects raise nearly every type on damaged files, so all are taken.

    Parameters
    ----------
    path : path
    what : str
        The format, such as "a GROMACS TRR trajectory".
    cure : str
    error : type of CGKDError
        What is raised.
    """
    try:
        yield
    except CGKDError:
        raise
    except MemoryError as cause:
        raise error(
            f"{path}: cannot be read as {what}: it asks for more memory than there is, as damaged"
            f" files do; {cure}."
        ) from cause
    except Exception as cause:
        reason = shown(" ".join(str(cause).split()) or type(cause).__name__, 200)[1:-1]
        raise error(f"{path}: cannot be read as {what} ({reason}); {cure}.") from cause


@contextmanager
def without_native_output() -> Iterator[None]:
    """Drop what C code prints within the block, such as the lines of MDTraj's DCD reader.

    Standard output is for results.
    """
    _flush()
    try:
        kept = os.dup(1)
    except OSError:  # closed
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        yield
    finally:
        _flush()
        os.dup2(kept, 1)
        os.close(kept)


def _flush() -> None:
    """Write out what Python and the C library still hold back of standard output."""
    with suppress(OSError, ValueError, AttributeError):
        sys.stdout.flush()
    ctypes.CDLL(None).fflush(None)
