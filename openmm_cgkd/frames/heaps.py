"""Global heaps of HDF5 files, in which text of any length is kept.

HDF5 walks through the objects of a heap from one to the next and never ends where one of them has
the length zero, as damage leaves it. So they are walked through here before.

The layout is that of the HDF5 File Format Specification, version 3.0, section III.E.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from .values import DamageError

_START = re.compile(rb"GCOL\x01")
_HEADER = struct.Struct("<5s3xQ")  # signature and version, size of the heap
_OBJECT = struct.Struct("<HH4xQ")  # index (0: free space), references, size of what follows
BLOCK = 2**22  # bytes of the file in memory


def check_heaps(path: Path) -> None:
    """Refuse a file with a heap whose objects do not follow each other to its end.

    Raises
    ------
    DamageError
    """
    with open(path, "rb") as file:
        for start in _starts(file):
            file.seek(start)
            header = file.read(_HEADER.size)
            if len(header) < _HEADER.size:
                return
            size = _HEADER.unpack(header)[1]
            end = file.seek(0, 2)
            if start + size <= end:  # HDF5 itself refuses what reaches beyond the file
                file.seek(start)
                _check(file.read(size), start)


def _starts(file: IO[bytes]) -> Iterator[int]:
    """Where heaps begin."""
    place = 0
    while True:
        file.seek(place)
        block = file.read(BLOCK)
        for found in _START.finditer(block):
            yield place + found.start()
        if len(block) < BLOCK:
            return
        place += BLOCK - 4  # one that begins in this block and ends in the next


def _check(heap: bytes, start: int) -> None:
    place = _HEADER.size
    while place + _OBJECT.size <= len(heap):
        index, _, size = _OBJECT.unpack_from(heap, place)
        whole = size if index == 0 else _OBJECT.size + -(-size // 8) * 8
        if not 0 < whole <= len(heap) - place:
            raise DamageError(f"the text at byte {start + place} has an impossible length")
        place += whole
