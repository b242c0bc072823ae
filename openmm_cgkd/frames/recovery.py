"""Read an HDF5 file whose writer was killed or whose tail is lost, without changing it.

HDF5 refuses such files, or, in single-writer mode, retries for minutes what it cannot read. Here it
sees the file through a superblock that says "closed", with zeros in place of lost bytes; what the
zeros spoil, the checksums of frames show.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import IO

from .guard import SIGNATURE, GuardedFile

_SIGNATURE = SIGNATURE + b"\x03"  # with the version of the superblock of single-writer files
# bytes: 8 signature, version, sizes of offsets and lengths, flags, 4 addresses (the third: end of
# file), checksum
_SUPERBLOCK = 48
_LOCK = struct.Struct("@hhqqi0q")  # struct flock: type, whence, start, length, process


def is_open(path: Path) -> bool:
    """Whether the file says that a writer has it open: the writer is alive or was killed."""
    with open(path, "rb") as file:
        head = file.read(12)
    # flags: 1 open for writing, 4 single writer
    return head[:9] == _SIGNATURE and head[11:] > b"\0"


def mark_as_written(path: Path) -> IO[bytes]:
    """Mark a file as being written by this process.

    The mark stays until the returned file is closed or the process ends.
    """
    file = open(path, "rb")  # noqa: SIM115 - closed by the caller
    try:
        fcntl.fcntl(file, fcntl.F_OFD_SETLK, _LOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0))
    except OSError:  # some network file systems have no locks
        return file
    return file


def is_held(path: Path, unknown: bool = True) -> bool:
    """Whether a living process holds the file; `unknown` where the file system cannot tell."""
    with open(path, "rb") as file:
        try:
            answer = fcntl.fcntl(
                file, fcntl.F_OFD_GETLK, _LOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            )
        except OSError:
            return unknown
    return _LOCK.unpack(answer)[0] != fcntl.F_UNLCK


class TruncatedFile(GuardedFile):
    """The bytes of an HDF5 file, as if it had been closed and were complete; for ``h5py.File``.

    Raises
    ------
    OSError
        If the file has not the superblock of files of mapped frames.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        head = super()._bytes(_SUPERBLOCK, 0)
        if head[:9] != _SIGNATURE or len(head) < _SUPERBLOCK:
            self.close()
            raise OSError(f"{path}: has no HDF5 superblock of version 3")
        self._end = max(self._end, struct.unpack_from("<Q", head, 28)[0])
        head = head[:11] + b"\0" + head[12:28] + struct.pack("<Q", self._end) + head[36:44]
        self._head = head + struct.pack("<I", lookup3(head))

    def _bytes(self, n: int, place: int) -> bytes:
        data = super()._bytes(n, place)
        data += bytes(n - len(data))
        if place < _SUPERBLOCK:
            data = (self._head[place:] + data[_SUPERBLOCK - place :])[:n]
        return data


def lookup3(data: bytes) -> int:
    """Checksum of HDF5's metadata.

    It is ``hashlittle`` of Bob Jenkins' lookup3 (public domain, 2006) with initial value 0.
    """
    mask = 0xFFFFFFFF

    def rotate(x: int, k: int) -> int:
        return ((x << k) | (x >> (32 - k))) & mask

    a = b = c = (0xDEADBEEF + len(data)) & mask
    blocks = [data[k : k + 12] for k in range(0, len(data), 12)]
    for block in blocks[:-1]:
        a, b, c = (
            (x + y) & mask for x, y in zip((a, b, c), struct.unpack("<III", block), strict=True)
        )
        for k in (4, 6, 8, 16, 19, 4):
            a = ((a - c) & mask) ^ rotate(c, k)
            c = (c + b) & mask
            a, b, c = b, c, a
    a, b, c = (
        (x + y) & mask
        for x, y in zip((a, b, c), struct.unpack("<III", blocks[-1].ljust(12, b"\0")), strict=True)
    )
    for k in (14, 11, 25, 16, 4, 14, 24):
        c = ((c ^ b) - rotate(b, k)) & mask
        a, b, c = b, c, a
    return b  # where the last rotation of names left c
