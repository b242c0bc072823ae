"""Libraries that read files of other programs: whatever they raise becomes one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
