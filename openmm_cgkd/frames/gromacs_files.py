"""GROMACS trajectories, checked before a library in C trusts what they say of themselves.

Such libraries take the numbers of particles and bytes in the header of each frame, and the numbers
of particles in its packed positions, as they stand, and write beyond their memory where a damaged
file has others.

Formats: GROMACS, ``trnio.cpp``, ``xtcio.cpp`` and ``libxdrf.cpp``; all numbers are big-endian.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

# magic, lengths of the text and text; bytes of ten blocks, particles, step, energies
_TRR = struct.Struct(">3i 12s 10i 3i")
_TRR_BEGIN = (1993, 13, 12, b"GMX_trn_file")
# magic, particles, step, time, box, particles
_XTC = struct.Struct(">3i 10f i")
_XTC_MAGIC = (1995, 2023)  # the second has 64-bit sizes
_FEWEST_PACKED = 10  # particles; fewer are stored as they are
# precision, smallest and largest integers, size of small differences
_PACKED = struct.Struct(">f 6i i")
_SIZES = range(9, 73)  # bits of three small differences
_PLAIN = 0xFFFFFF  # beyond this span the three integers are packed one by one


class ParticlesError(ValueError):
    """The first frame holds another number of particles."""


def check_trr(path: Path, n_particles: int) -> None:
    """Go through the headers of all frames of a TRR file.

    Parameters
    ----------
    path : path
    n_particles : int
        What every frame must hold.

    Raises
    ------
    ParticlesError
        If the first frame holds another number.
    ValueError
        Naming the frame whose header does not fit.
    """
    for k, file, left in _frames(path):
        *begin, ir, e, box, virial, pressure, top, sym, x, v, f, n, _, _ = _read(file, _TRR, k)
        if tuple(begin) != _TRR_BEGIN or n != n_particles:
            raise _unfit(k, n, n_particles)
        real = 8 if 24 * n in (x, v, f) else 4
        if (
            {ir, e, top, sym} != {0}
            or not {box, virial, pressure} <= {0, 9 * real}
            or not {x, v, f} <= {0, 3 * n * real}
        ):
            raise _unfit(k, n, n_particles)
        _skip(file, 2 * real + box + virial + pressure + x + v + f, left - _TRR.size, k)


def check_xtc(path: Path, n_particles: int) -> None:
    """Go through all frames of an XTC file, the packed positions too; arguments as `check_trr`."""
    for k, file, left in _frames(path):
        magic, n, *_, again = _read(file, _XTC, k)
        if magic not in _XTC_MAGIC or not n == again == n_particles:
            raise _unfit(k, n, n_particles)
        if n < _FEWEST_PACKED:
            _skip(file, 12 * n, left - _XTC.size, k)
            continue
        precision, *bounds, size = _read(file, _PACKED, k)
        length = struct.Struct(">i" if magic == _XTC_MAGIC[0] else ">q")
        (n_bytes,) = _read(file, length, k)
        spans = [high - low for low, high in zip(bounds[:3], bounds[3:], strict=True)]
        if not (precision > 0 and all(0 <= span < 2**31 for span in spans) and size in _SIZES):
            raise _unfit(k, n, n_particles)
        padded = (n_bytes + 3) // 4 * 4
        if not 0 <= padded <= left - _XTC.size - _PACKED.size - length.size:
            raise ValueError(f"frame {k} is cut off")
        data = np.frombuffer(file.read(padded), np.uint8)
        if not _unpacker()(data, n, _bits(spans), size, 8 * n_bytes):
            raise ValueError(f"the packed positions of frame {k} are damaged")


def check_headers(path: Path, n_particles: int) -> None:
    """`check_trr` or `check_xtc`, by the ending of the name; nothing for other formats."""
    check = {".trr": check_trr, ".xtc": check_xtc}.get(path.suffix.lower())
    if check is not None:
        check(path, n_particles)


def _bits(spans: list[int]) -> int:
    """Bits of three integers of these spans."""
    if max(spans) >= _PLAIN:
        return sum((span + 1).bit_length() for span in spans)
    x, y, z = (span + 1 for span in spans)
    return (x * y * z).bit_length()


@cache
def _unpacker() -> Callable[[np.ndarray, int, int, int, int], bool]:
    from numba import njit  # takes a second, and few programs read XTC

    return njit(_unpacks)


def _unpacks(data: np.ndarray, n: int, bits: int, small: int, n_bits: int) -> bool:
    """Whether packed positions are those of `n` particles and no longer than `n_bits`.

    A particle takes `bits`, and a flag. If that is set, five bits say how many of the next
    particles are stored as differences, in `small` bits each, and whether `small` changes.
    """
    at, done, run = 0, 0, 0
    while done < n:
        at += bits + 1
        done += 1
        change = 0
        if at > n_bits:
            return False
        if (data[(at - 1) >> 3] >> (7 - ((at - 1) & 7))) & 1:
            if at + 5 > n_bits:
                return False
            run = 0
            for k in range(at, at + 5):
                run = 2 * run + ((data[k >> 3] >> (7 - (k & 7))) & 1)
            at += 5
            change = run % 3 - 1
            run = run // 3
        at += run * small
        done += run
        small += change
        if small < 9 or small > 72:
            return False
    return done == n and at <= n_bits


def _frames(path: Path) -> Iterator[tuple[int, BinaryIO, int]]:
    """Number of each frame, the file at its beginning, and the bytes from there."""
    size, k = path.stat().st_size, 0
    with open(path, "rb") as file:
        while file.tell() < size:
            yield k, file, size - file.tell()
            k += 1


def _read(file: BinaryIO, layout: struct.Struct, k: int) -> tuple[Any, ...]:
    data = file.read(layout.size)
    if len(data) < layout.size:
        raise ValueError(f"frame {k} is cut off")
    return layout.unpack(data)


def _skip(file: BinaryIO, n_bytes: int, left: int, k: int) -> None:
    if not 0 <= n_bytes <= left:
        raise ValueError(f"frame {k} is cut off")
    file.seek(n_bytes, 1)


def _unfit(k: int, n: int, expected: int) -> ValueError:
    if n != expected:
        kind = ValueError if k else ParticlesError
        return kind(f"frame {k} has {n} particles, not {expected}")
    return ValueError(f"the header of frame {k} is damaged")
