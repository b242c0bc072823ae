"""Which HDF5 files are read: those that hold their data themselves, in sizes that fit the file.

An HDF5 file can name data in other files, declare any size with nothing behind it, and hold chunks
that expand a thousandfold. All that shows in its objects before a value is read. How chunks are
unpacked is in ``values.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import h5py
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t

from openmm_cgkd.exceptions import FramesError

from .values import FILTERS, filters_of

# bytes that a file may expand to: mapped frames shrink to a half at most when they are compressed
_EXPANSION, _ALWAYS_ALLOWED = 20, 2**26
_LARGEST_ATTRIBUTE, _MOST_TEXTS = 2**20, 1000
_MOST_OBJECTS = 10_000
_NUMBERS = (h5t.INTEGER, h5t.FLOAT)


def admit(file: h5py.File, path: Path) -> None:
    """Refuse a file that holds anything but plain arrays of numbers and short attributes.

    Nothing outside the file is touched, and no value is read.

    Raises
    ------
    FramesError
        Naming the object and the cure.
    """
    for name, item in objects(file, path):
        if isinstance(item, h5d.DatasetID):
            check_numbers(name, item, path)
        _check_attributes(name, item, path)
    check_reach(file, path)


def check_reach(file: h5py.File, path: Path, soft_links: bool = False) -> None:
    """Refuse a file whose data lie elsewhere or are far larger than the file.

    Parameters
    ----------
    file : h5py.File
    path : path
    soft_links : bool
        Whether links by name within the file are allowed.

    Raises
    ------
    FramesError
        Naming the object and the cure.
    """
    allowed = _EXPANSION * path.stat().st_size + _ALWAYS_ALLOWED
    total = 0
    for name, item in objects(file, path, soft_links):
        if isinstance(item, h5d.DatasetID):
            _check_storage(name, item, path)
            total += _declared(item)
            if total > allowed:
                raise FramesError(
                    f"{path}: declares {total / 2**20:.0f} MB of data up to {name}, far more than"
                    f" a file of {path.stat().st_size / 2**20:.1f} MB can hold; make it again."
                )


def objects(
    file: h5py.File | h5py.Group, path: Path, soft_links: bool = False
) -> Iterator[tuple[str, h5g.GroupID | h5d.DatasetID]]:
    """Every group and dataset with its name, each once; no link out of the file is followed.

    Raises
    ------
    FramesError
        If there is a link to elsewhere, something else than groups and datasets, or too much.
    """
    allowed = {h5l.TYPE_HARD, h5l.TYPE_SOFT} if soft_links else {h5l.TYPE_HARD}
    waiting: list[tuple[str, h5g.GroupID]] = [("", file["/"].id)]
    seen = {h5o.get_info(waiting[0][1]).addr}
    yield "/", waiting[0][1]
    while waiting:
        parent, group = waiting.pop()
        for key in group:
            name = f"{parent}/{key.decode(errors='replace')}"
            kind = group.links.get_info(key).type
            if kind not in allowed:
                raise FramesError(
                    f"{path}: {name} is a link, maybe to another file; put the data themselves"
                    " there, or make the file again."
                )
            if kind != h5l.TYPE_HARD:
                continue
            item = h5o.open(group, key)
            if not isinstance(item, h5g.GroupID | h5d.DatasetID):
                raise FramesError(f"{path}: {name} is no group and no dataset; remove it.")
            address = h5o.get_info(item).addr
            if address in seen:
                continue
            seen.add(address)
            if len(seen) > _MOST_OBJECTS:
                raise FramesError(f"{path}: holds more than {_MOST_OBJECTS} objects; remove some.")
            yield name, item
            if isinstance(item, h5g.GroupID):
                waiting.append((name, item))


def check_numbers(name: str, dataset: h5d.DatasetID, path: Path) -> None:
    """Refuse a dataset `name` that holds anything but numbers."""
    kind = dataset.get_type()
    if kind.get_class() not in _NUMBERS or kind.get_size() > 8 or kind.committed():
        raise FramesError(
            f"{path}: {name} does not hold plain numbers of at most 64 bits; write it as float or"
            " int, or make the file again."
        )


def _check_attributes(name: str, item: h5g.GroupID | h5d.DatasetID, path: Path) -> None:
    for index in range(h5a.get_num_attrs(item)):
        check_attribute(name, h5a.open(item, index=index), path)


def check_attribute(name: str, attribute: h5a.AttrID, path: Path) -> None:
    """Refuse an attribute of `name` that is large or neither numbers nor text."""
    kind, n = attribute.get_type(), _size(attribute.get_space())
    boolean = kind.get_class() == h5t.ENUM and kind.get_size() == 1
    text = kind.get_class() == h5t.STRING
    label = f"{path}: attribute {attribute.name.decode(errors='replace')!r} of {name}"
    if not (text or boolean or (kind.get_class() in _NUMBERS and kind.get_size() <= 8)):
        raise FramesError(f"{label} is neither numbers nor text; remove it.")
    if n * kind.get_size() > _LARGEST_ATTRIBUTE or (text and n > _MOST_TEXTS):
        raise FramesError(f"{label} is larger than an attribute may be; remove it.")


def _check_storage(name: str, dataset: h5d.DatasetID, path: Path) -> None:
    made = dataset.get_create_plist()
    if made.get_layout() == h5d.VIRTUAL or made.get_external_count():
        raise FramesError(
            f"{path}: the data of {name} lie in another file; put them into this one, or make it"
            " again."
        )
    filters = filters_of(dataset)
    if filters != [known for known in FILTERS if known in filters]:
        raise FramesError(
            f"{path}: {name} is packed in a way that is not read; write it with gzip, or without"
            " compression."
        )
    if made.get_layout() != h5d.CHUNKED and dataset.get_storage_size() < _declared(dataset):
        raise FramesError(
            f"{path}: {name} declares {_declared(dataset)} bytes, of which the file holds"
            f" {dataset.get_storage_size()}; make it again."
        )


def _declared(dataset: h5d.DatasetID) -> int:
    """Bytes of a dataset, or of one of its chunks if that is more."""
    made = dataset.get_create_plist()
    chunk = math.prod(made.get_chunk()) if made.get_layout() == h5d.CHUNKED else 0
    return max(_size(dataset.get_space()), chunk) * dataset.get_type().get_size()


def _size(space: h5s.SpaceID) -> int:
    if space.get_simple_extent_type() == h5s.NULL:
        return 0
    return math.prod(int(n) for n in space.get_simple_extent_dims())
