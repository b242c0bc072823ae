"""Checksums of everything in an HDF5 file but the frames that are appended to it.

A dataset that is written once has the SHA-256 of its values as an attribute. That of the root
covers names, types, shapes and attributes of all objects, and so the others. Frames have checksums
of their own, one per frame, and so the file is whole at every moment while it grows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from pathlib import Path

import h5py
import numpy as np

from .admission import objects
from .values import DamageError, read_values

CONTENT = "content_sha256"  # of the root
_VALUES = "sha256"  # of a dataset
_DIFFERS = f"differs (if you changed it yourself, delete the attribute {CONTENT})"
_BLOCK = 2**22  # bytes of values in memory while a checksum is made


def seal(file: h5py.File, growing: Collection[str] = ()) -> None:
    """Write the checksums into a file that is complete but for frames.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    growing : collection of str
        Names of datasets to which frames are appended.
    """
    for name, item in _items(file):
        if isinstance(item, h5py.Dataset) and name not in growing:
            item.attrs[_VALUES] = np.bytes_(_of_values(item))
    file.attrs[CONTENT] = np.bytes_(_of_outline(file, growing))


def check_seal(file: h5py.File, growing: Collection[str] = ()) -> None:
    """Compare the checksum of the root, if there is one, with names, types and attributes.

    Raises
    ------
    DamageError
    """
    if CONTENT in file.attrs and plain_text(file.attrs[CONTENT]) != _of_outline(file, growing):
        raise DamageError(f"the checksum of its attributes, names, types and shapes {_DIFFERS}")


def read_checked(dataset: h5py.Dataset) -> np.ndarray:
    """All values of a dataset, if their checksum is right or if there is none.

    Raises
    ------
    DamageError
    """
    values = read_values(dataset)
    if CONTENT in dataset.file.attrs and (
        plain_text(dataset.attrs[_VALUES]) != hashlib.sha256(_bytes(values)).hexdigest()
    ):
        raise DamageError(f"the checksum of {dataset.name.strip('/')} {_DIFFERS}")
    return values


def _items(file: h5py.File) -> Iterator[tuple[str, h5py.HLObject]]:
    """Groups and datasets by their names from the root, whose own is empty."""
    names = sorted(name for name, _ in objects(file, Path("file")))
    return ((name.strip("/"), file[name]) for name in names)


def _of_values(dataset: h5py.Dataset) -> str:
    digest = hashlib.sha256()
    if not dataset.shape:
        digest.update(_bytes(read_values(dataset)))
        return digest.hexdigest()
    row = max(1, dataset.dtype.itemsize * int(np.prod(dataset.shape[1:])))
    step = max(1, _BLOCK // row)
    for first in range(0, dataset.shape[0], step):
        digest.update(_bytes(read_values(dataset, slice(first, first + step))))
    return digest.hexdigest()


def _of_outline(file: h5py.File, growing: Collection[str]) -> str:
    digest = hashlib.sha256()

    def add(*parts: object) -> None:
        for part in parts:
            data = part if isinstance(part, bytes) else str(part).encode(errors="surrogateescape")
            digest.update(len(data).to_bytes(8, "little") + data)

    for name, item in _items(file):
        add("object", name)
        if isinstance(item, h5py.Dataset):
            add(item.dtype.str, item.shape[1:] if name in growing else item.shape)
        for key in sorted(item.attrs):
            if name or key != CONTENT:
                add("attribute", key, *_plain(item.attrs[key]))
    return digest.hexdigest()


def _plain(value: object) -> tuple[object, ...]:
    """Type, shape and bytes of an attribute."""
    if isinstance(value, str | h5py.Empty):
        return (value,)
    array = np.asarray(value)
    if array.dtype.hasobject:  # text of any length
        return (array.shape, *array.ravel())
    return array.dtype.str, array.shape, _bytes(array)


def _bytes(values: np.ndarray) -> bytes:
    return np.ascontiguousarray(values).tobytes()


def plain_text(value: object) -> str:
    """Text of an attribute, which may be of fixed or of any length."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
