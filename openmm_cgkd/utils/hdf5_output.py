"""HDF5 files on a disk that takes no more.

The HDF5 library ends the process with a segmentation fault when it closes a file whose last pieces
it could not write. So it must never learn of that.
"""

from __future__ import annotations

import errno
import io
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

_MARGIN = 2**22  # bytes; what HDF5 writes beside the data, and others at the same time


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


def require_room(path: Path, size: int) -> None:
    """Check that a file can grow, where HDF5 must write it by itself.

    Parameters
    ----------
    path : path
    size : int
        Bytes to come.

    Raises
    ------
    OSError
        If the disk is too full, or the file would be larger than files may be.
    """
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if limit != resource.RLIM_INFINITY and path.stat().st_size + size + _MARGIN > limit:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    disk = os.statvfs(path)
    if disk.f_blocks and disk.f_bavail * disk.f_frsize < size + _MARGIN:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
