"""The bytes of an HDF5 file on their way to HDF5, which trusts some of them too far.

Text of any length is kept in global heaps. HDF5 walks through the objects of a heap from one to the
next and never ends where one of them has the length zero, as damage leaves it. So every heap is
walked through here when HDF5 asks for it; those that nobody asks for cost nothing. Heaps do not
overlap, so all walks together are no longer than the file.

Names and attributes are never packed unless somebody asks for that. Such ones may expand without
limit, and are refused.

The layouts are those of the HDF5 File Format Specification, version 3.0: superblock (section II.A),
global heap (III.E) and fractal heap (III.G).
"""

from __future__ import annotations

import io
import os
import struct
from pathlib import Path
from typing import TYPE_CHECKING

from .values import DamageError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_HEAP, _PACKED_HEAP = b"GCOL\x01", b"FRHP\x00"
_HEAP_HEADER = struct.Struct("<5s3xQ")  # signature and version, size of the heap
_OBJECT = struct.Struct("<HH4xQ")  # index (0: free space), references, size of what follows
_FILTERS = slice(7, 9)  # of a fractal heap: bytes that describe how it is packed
_LARGEST_HEAP = 2**26  # bytes; texts of files that are read here are far shorter
_MOST_TIMES = 20  # the size of the file; HDF5 may ask for a heap again


class GuardedFile(io.RawIOBase):
    """A file to read, which ``h5py.File`` takes in place of its path.

    Raises
    ------
    DamageError
        While HDF5 reads, through h5py: where it could not be trusted with what follows.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed in close
        self._end, self._position = os.fstat(self._file.fileno()).st_size, 0
        self._allowed = _MOST_TIMES * self._end + _LARGEST_HEAP
        self._heaps: set[int] = set()  # where those begin that are right
        self._text = 0  # bytes of them all

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = (
            offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._end}[whence]
        )
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        n = max(0, min(len(view), self._end - self._position))
        view[:n] = data = self._bytes(n, self._position)
        self._check(data[:16], self._position)
        self._position += n
        return n

    def _bytes(self, n: int, place: int) -> bytes:
        return os.pread(self._file.fileno(), n, place)

    def _check(self, head: bytes, place: int) -> None:
        if head.startswith(_HEAP):
            self._check_heap(place)
        elif head.startswith(_PACKED_HEAP) and any(head[_FILTERS]):
            raise DamageError(f"the names or attributes at byte {place} are packed")
        elif head.startswith(SIGNATURE) and len(head) > len(SIGNATURE):
            sizes = head[13:15] if head[8] < 2 else head[9:11]
            if sizes != b"\x08\x08":
                raise DamageError("its addresses and lengths have not 8 bytes")

    def _check_heap(self, place: int) -> None:
        """Refuse a heap whose objects do not follow each other to its end."""
        header = self._bytes(_HEAP_HEADER.size, place)
        size = _HEAP_HEADER.unpack(header.ljust(_HEAP_HEADER.size, b"\0"))[1]
        if place + size > self._end:  # HDF5 itself refuses what reaches beyond the file
            return
        self._allowed -= size
        if size > _LARGEST_HEAP or self._allowed < 0:
            raise DamageError(f"the text at byte {place} is far too long")
        if place in self._heaps:
            return
        self._text += size
        if self._text > self._end:
            raise DamageError(f"the text at byte {place} lies within other text")
        heap, at = self._bytes(size, place), _HEAP_HEADER.size
        while at + _OBJECT.size <= len(heap):
            index, _, length = _OBJECT.unpack_from(heap, at)
            whole = length if index == 0 else _OBJECT.size + -(-length // 8) * 8
            if not 0 < whole <= len(heap) - at:
                raise DamageError(f"the text at byte {place + at} has an impossible length")
            at += whole
        self._heaps.add(place)

    def close(self) -> None:
        self._file.close()
        super().close()
