"""Values of HDF5 datasets. What is packed is unpacked here.

HDF5 trusts the size that a compressed chunk expands to: one that is longer than its chunk fills the
memory, and one that is shorter makes HDF5 read, or crash, beyond its end.
"""

from __future__ import annotations

import itertools
import math
import zlib

import h5py
import numpy as np
from h5py import h5d, h5z

FILTERS = (h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE)  # those that are known, in the order of writing


class DamageError(Exception):
    """What of a file does not fit its checksum or its size, without the name of the file."""


def filters_of(dataset: h5d.DatasetID) -> list[int]:
    """Numbers of the filters that chunks of a dataset have gone through."""
    made = dataset.get_create_plist()
    return [made.get_filter(k)[0] for k in range(made.get_nfilters())]


def read_values(dataset: h5py.Dataset, rows: slice = slice(None)) -> np.ndarray:
    """Values of a dataset that `admission.admit` has passed, or some of its rows.

    Raises
    ------
    DamageError
        If a chunk does not expand to its size.
    """
    filters = filters_of(dataset.id)
    if not filters:
        return dataset[rows] if dataset.shape else dataset[()]
    first, last, _ = rows.indices(dataset.shape[0])
    chunk, shape = dataset.chunks, (max(0, last - first), *dataset.shape[1:])
    values = np.empty(shape, dataset.dtype)
    starts = itertools.product(
        range(first // chunk[0] * chunk[0], last, chunk[0]),
        *(range(0, n, step) for n, step in zip(shape[1:], chunk[1:], strict=True)),
    )
    # of the chunks as they are in the file; deflate makes what it cannot pack a little longer
    room = np.empty(math.prod(chunk) * dataset.dtype.itemsize * 101 // 100 + 1024, np.uint8)
    for start in starts:
        try:
            mask, packed = dataset.id.read_direct_chunk(start, out=room)
        except ValueError as error:  # of h5py, where there is no room
            raise DamageError(f"a chunk of {dataset.name} is longer than a chunk can be") from error
        block = unpack(packed, mask, filters, chunk, dataset.dtype, dataset.name)
        block = block[max(first - start[0], 0) :]  # the first chunks may begin before the rows
        place = (max(start[0] - first, 0), *start[1:])
        part = values[tuple(slice(p, p + n) for p, n in zip(place, block.shape, strict=True))]
        part[...] = block[tuple(slice(n) for n in part.shape)]  # and the last ones end after them
    return values


def unpack(
    packed: bytes | memoryview,
    mask: int,
    filters: list[int],
    shape: tuple[int, ...],
    dtype: np.dtype,
    name: str,
) -> np.ndarray:
    """Values of one chunk.

    Parameters
    ----------
    packed : bytes or memoryview
        As they are in the file.
    mask : int
        One bit for every filter that was left out for this chunk.
    filters : list of int
        Of `FILTERS`, in the order of writing.
    shape : tuple of int
        Of the chunk.
    dtype : dtype
    name : str
        Of the dataset, for messages.

    Raises
    ------
    DamageError
        If the chunk does not expand to its size.
    """
    size = math.prod(shape) * dtype.itemsize
    used = [each for k, each in enumerate(filters) if not mask >> k & 1]
    data, whole = packed, True
    if h5z.FILTER_DEFLATE in used:
        stream = zlib.decompressobj()
        try:
            data = stream.decompress(packed, size + 1)
        except zlib.error as error:
            raise DamageError(f"a chunk of {name} cannot be unpacked ({error})") from error
        whole = stream.eof
    if len(data) != size or not whole:
        raise DamageError(f"a chunk of {name} does not expand to the {size} bytes of a chunk")
    found = np.frombuffer(data, np.uint8)
    if h5z.FILTER_SHUFFLE in used:  # all first bytes, then all second ones
        shuffled = found.reshape(dtype.itemsize, -1)
        found = np.empty(shuffled.shape[::-1], np.uint8)
        for k, each in enumerate(shuffled):  # thrice as fast as to transpose
            found[:, k] = each
    return found.view(dtype).reshape(shape)
