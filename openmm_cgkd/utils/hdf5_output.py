"""HDF5 files on a disk that takes no more.

The HDF5 library ends the process with a segmentation fault when it closes a file whose last pieces
it could not write. So it must never learn of that: either its file is one of Python, or the room on
the disk is its own before it writes.
"""

from __future__ import annotations

import ctypes
import errno
import io
import os
import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

MARGIN = 2**22  # bytes; what HDF5 writes beside the data
_KEEP_SIZE = 1  # of the file, while blocks behind its end become its own
_UNKNOWN = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)  # file systems that cannot reserve blocks


class _Output(io.RawIOBase):
    """A new file; the first error is kept, and from then on nothing is written."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self._path, self._file = path, file
        self.error: OSError | None = None

    def __str__(self) -> str:
        return str(self._path)

    def _try(self, do: Any, *arguments: Any) -> Any:
        if self.error is None:
            try:
                return do(*arguments)
            except OSError as error:
                self.error = error
        return None

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while len(left) and self.error is None:  # a file without a buffer may take a part
            left = left[self._try(self._file.write, left) or 0 :]
        return size

    def truncate(self, size: int | None = None) -> int:
        self._try(self._file.truncate, size)
        return size or 0

    def flush(self) -> None:
        self._try(self._file.flush)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = self._file.readinto(view) or 0  # type: ignore[attr-defined]
        view[count:] = bytes(len(view) - count)  # what could not be written
        return len(view)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


@contextmanager
def hdf5_output(path: Path) -> Iterator[Any]:
    """A new file that ``h5py.File`` takes in place of its path, to be closed within the block.

    Raises
    ------
    OSError
        If not all of it could be written, whatever the block has made of that.
    """
    with open(path, "w+b", buffering=0) as file:
        output = _Output(path, file)
        try:
            yield output
        finally:
            if output.error is not None:
                raise output.error


class Room:
    """Room on the disk for a file that HDF5 must write by itself.

    Parameters
    ----------
    path : path
        An existing file.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._until = path, 0
        self._file = open(path, "r+b")  # noqa: SIM115 - closed in close; the file may be renamed

    def require(self, size: int) -> None:
        """Make sure that the file can grow by so many bytes.

        Raises
        ------
        OSError
            If disk or quota have no room, or the file would be larger than files may be.
        """
        end = os.fstat(self._file.fileno()).st_size + size + MARGIN
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
        if limit != resource.RLIM_INFINITY and end > limit:
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(self._path))
        if end > self._until:
            _reserve(self._file.fileno(), self._path, self._until, end + MARGIN)
            self._until = end + MARGIN

    def close(self) -> None:
        """Give back what the file does not need."""
        with self._file:
            os.ftruncate(self._file.fileno(), os.fstat(self._file.fileno()).st_size)


def _reserve(file: int, path: Path, first: int, last: int) -> None:
    """Make blocks of the disk those of a file, or try whether there are as many."""
    try:
        take_blocks(file, first, last)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise OSError(error.errno, error.strerror, str(path)) from error
        with tempfile.TemporaryFile(dir=path.parent) as trial:
            try:
                os.posix_fallocate(trial.fileno(), 0, 2 * MARGIN)
                os.fsync(trial.fileno())  # some network file systems tell only then
            except OSError as full:
                raise OSError(full.errno, full.strerror, str(path)) from full


def take_blocks(file: int, first: int, last: int) -> None:
    """Give a file blocks of the disk, from one byte to another, also behind its end.

    Its size stays.

    Raises
    ------
    OSError
        If disk or quota have no more, or the file system does not know of this.
    """
    libc, kind = ctypes.CDLL(None, use_errno=True), ctypes.c_int64
    if libc.fallocate(file, _KEEP_SIZE, kind(first), kind(last - first)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
