"""HDF5 files: how all kinds are opened and checked, and the layout of mapped frames.

A file of mapped frames (``docs/formats.md``) has one extendable dataset per quantity with the frame
as first axis, a CRC-32 per frame, bead data under ``/beads``, provenance as attributes of the root.
What the frames mean, and how they are read and written, is in ``frames.py``.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np
from h5py import h5a

from openmm_cgkd.exceptions import CGKDError, DiskError, FramesError
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.disk import describe_disk_error
from openmm_cgkd.utils.hdf5_output import hdf5_output
from openmm_cgkd.utils.text_file import check_regular, shown

from .admission import admit, check_attribute
from .checks import check_temperature
from .guard import GuardedFile
from .recovery import TruncatedFile, is_held, is_open
from .seal import CONTENT, check_seal, plain_text, read_checked, seal
from .values import DamageError, read_values

_SHAPES = {"positions": (-1, 3), "forces": (-1, 3), "box": (3, 3), "time": (), "step": ()}
_TYPES = {"positions": "f4", "forces": "f4", "box": "f8", "time": "f8", "step": "i8"}
QUANTITIES = tuple(_SHAPES)
_BEAD_DATA = ("types", "masses", "molecules", "charges")
# what h5py raises on damaged files
READ_ERRORS = (
    DamageError,
    OSError,
    LookupError,
    RuntimeError,
    ValueError,
    TypeError,
    AttributeError,
    ArithmeticError,
    MemoryError,
    SystemError,
    struct.error,
)
_BLOCK = 256  # frames whose checksums are computed at once
_CHUNK = 2**16  # bytes of an HDF5 chunk of a file that is written at once


@dataclass(frozen=True)
class FileKind:
    """One of the kinds of HDF5 files that this package writes.

    Attributes
    ----------
    format : str
        The attribute ``format`` of its files.
    version : int
        The newest version of the format, which is written; older ones are read, too.
    content : str
        What its files hold, for messages.
    command : str
        Commands that make such a file, for messages.
    repairable : bool
        Whether ``cgkd verify --repair`` knows such files.
    growing : tuple of str
        Datasets to which rows with checksums of their own are appended.
    """

    format: str
    version: int
    content: str
    command: str
    repairable: bool = False
    growing: tuple[str, ...] = ()

    @property
    def attributes(self) -> dict[str, str | int]:
        """The attributes of the root that mark a file as one of this kind."""
        return {"format": self.format, "version": self.version}


FRAMES = FileKind(
    "openmm_cgkd frames",
    1,
    "mapped frames",
    "'cgkd reference' or 'cgkd map'",
    repairable=True,
    growing=(*QUANTITIES, "checksum"),
)


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes
    ----------
    beads : BeadTopology
    attributes : dict
        Provenance.
    rows : int
        Frames that have all quantities; the last ones may be torn.
    begun : int
        Frames that have any quantity.
    finished : bool
        Whether the writer has closed the file.
    """

    beads: BeadTopology
    attributes: dict[str, Any]
    rows: int
    begun: int
    finished: bool


def checksums(arrays: dict[str, np.ndarray]) -> np.ndarray:
    """CRC-32 of each frame over all quantities in the order of `QUANTITIES`, shape (n_frames,)."""
    n = len(arrays["step"])
    sums = np.zeros(n, dtype="u4")
    for first in range(0, n, _BLOCK):
        parts = []
        for name in QUANTITIES:
            values = np.ascontiguousarray(arrays[name][first : first + _BLOCK], dtype=_TYPES[name])
            parts.append(values.reshape(len(values), math.prod(values.shape[1:])).view(np.uint8))
        sums[first : first + _BLOCK] = [zlib.crc32(row) for row in np.concatenate(parts, axis=1)]
    return sums


def frame_shapes(n_beads: int) -> dict[str, tuple[int, ...]]:
    """Shape of each quantity in one frame."""
    return {
        name: tuple(n_beads if s == -1 else s for s in shape) for name, shape in _SHAPES.items()
    }


def create(
    path: Path | IO[bytes], beads: BeadTopology, attributes: dict[str, Any], at_once: bool = False
) -> h5py.File:
    """New file without frames.

    Parameters
    ----------
    path : path or file
        As ``h5py.File`` takes it.
    at_once : bool
        The file is written in large pieces and not shared while it grows. Otherwise every frame of
        beads is a chunk of its own, so that appending never rewrites an earlier frame.
    """
    shortened: dict[str, str] = {}
    for name in beads.type_names:
        other = shortened.setdefault(name[:4], name)
        if other != name:
            raise FramesError(
                f"Bead types {other} and {name} are alike in their first four characters,"
                " which is all that PDB files hold; rename one of them."
            )
    if wrong := beads.objection():
        raise FramesError(f"{path}: {wrong}; correct the beads.")
    file = h5py.File(path, "w", libver="latest")
    file.attrs.update({**FRAMES.attributes, **attributes})
    write_beads(file, beads)
    for name, shape in frame_shapes(beads.n_beads).items():
        rows = 256
        if name in ("positions", "forces"):
            rows = max(1, _CHUNK // (12 * beads.n_beads)) if at_once else 1
        file.create_dataset(
            name,
            shape=(0, *shape),
            maxshape=(None, *shape),
            chunks=(rows, *shape),
            dtype=_TYPES[name],
        )
    file.create_dataset("checksum", shape=(0,), maxshape=(None,), chunks=(256,), dtype="u4")
    seal(file, FRAMES.growing)
    return file


@contextmanager
def whole_file(path: Path, beads: BeadTopology, attributes: dict[str, Any]) -> Iterator[h5py.File]:
    """New file without frames that is written in large pieces and not shared while it grows."""
    with hdf5_output(path) as output, create(output, beads, attributes, at_once=True) as file:
        yield file


def write_beads(file: h5py.File, beads: BeadTopology) -> None:
    """Group ``beads``; bonds are left out where there are none."""
    group = file.create_group("beads")
    group.attrs["type_names"] = list(beads.type_names)
    for name in _BEAD_DATA:
        group[name] = getattr(beads, name)
    if len(beads.bonds):
        group["bonds"] = beads.bonds


def read_beads(file: h5py.File, path: Path) -> BeadTopology:
    """What `write_beads` has written.

    Raises
    ------
    FramesError
        If that is no set of beads, or is not physical.
    """
    group = file["beads"]
    names = np.atleast_1d(group.attrs["type_names"])
    beads = BeadTopology(
        type_names=tuple(plain_text(name) for name in names),
        **{name: read_checked(group[name]) for name in _BEAD_DATA},
        **({"bonds": read_checked(group["bonds"])} if "bonds" in group else {}),
    )
    if wrong := beads.objection():
        raise FramesError(f"{path}: {wrong}; make the file again.")
    return beads


def append_rows(file: h5py.File, arrays: dict[str, np.ndarray]) -> None:
    """Append frames; the checksums come last, because they make a frame count."""
    first, last = len(file["checksum"]), len(file["checksum"]) + len(arrays["step"])
    for name, values in {**arrays, "checksum": checksums(arrays)}.items():
        file[name].resize(last, axis=0)
        file[name][first:last] = values


def read_rows(file: h5py.File, rows: slice) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Quantities of some frames, and whether the checksum of each is right."""
    arrays = {name: read_values(file[name], rows) for name in QUANTITIES}
    return arrays, checksums(arrays) == read_values(file["checksum"], rows)


@contextmanager
def open_file(path: Path, kind: FileKind, mend: bool = False) -> Iterator[h5py.File]:
    """Open a file for reading, whether its writer closed it, still writes it, or was killed.

    Parameters
    ----------
    path : path
    kind : FileKind
        What the file must be.
    mend : bool
        Read zeros where the file's tail is lost.

    Raises
    ------
    FramesError
        If the file is missing, is not readable HDF5, is of another kind or a newer version, holds
        what `admission` does not admit, or was changed after it was written; also if a part that is
        read within the block is damaged.
    DiskError
        If the file system does not let it be read.
    """
    if not path.exists():
        raise FramesError(f"{path}: no such file; make {kind.content} with {kind.command}.")
    check_regular(path, f"a file of {kind.content}", FramesError)
    try:
        written = is_open(path)
        live = written and is_held(path) and not mend
        if not live or not is_held(path, unknown=False):
            guarded = TruncatedFile(path) if mend or written else GuardedFile(path)
            with guarded, h5py.File(guarded, "r") as file:
                _check(file, path, kind)
                if not live:
                    yield file
        # single-writer mode only if needed: in that mode HDF5 retries for minutes what it cannot
        # read in a damaged file
        if live:
            with h5py.File(path, "r", libver="latest", swmr=True) as file:
                _check(file, path, kind)
                yield file
    except CGKDError:
        raise
    except DamageError as error:
        raise FramesError(
            f"{path}: is damaged: {error}; restore it from a copy, or make it again with"
            f" {kind.command}."
        ) from error
    except READ_ERRORS as error:
        if message := describe_disk_error(error, path):
            raise DiskError(message) from error
        repair = f"try 'cgkd verify {path} --repair', or make it again" if kind.repairable else ""
        raise FramesError(
            f"{path}: is not an HDF5 file of {kind.content}, or is damaged;"
            f" {repair or f'make it again with {kind.command}'}."
        ) from error


def _check(file: h5py.File, path: Path, kind: FileKind) -> None:
    _check_kind(file, path, kind)
    admit(file, path)
    check_seal(file, kind.growing)


def _check_kind(file: h5py.File, path: Path, kind: FileKind) -> None:
    found = {}
    for name in kind.attributes:
        if name not in file.attrs:
            break
        check_attribute("/", h5a.open(file["/"].id, name.encode()), path)
        found[name] = file.attrs[name]
    if plain_text(found.get("format")) != kind.format:
        raise FramesError(f"{path}: is not a file of {kind.content}; make one with {kind.command}.")
    version = found.get("version")
    if not isinstance(version, np.integer):
        raise FramesError(
            f"{path}: has the format version {shown(version)}, which is no whole number; make it"
            f" again with {kind.command}."
        )
    if version > kind.version:
        raise FramesError(
            f"{path}: has format version {version}, this package reads up to {kind.version};"
            " upgrade openmm_cgkd."
        )


def file_attributes(file: h5py.File) -> dict[str, Any]:
    """Provenance: attributes of the root as plain numbers and text, without format and checksum."""
    return {
        key: plain_text(value)
        if isinstance(value, bytes)
        else value.item()
        if isinstance(value, np.generic)
        else value
        for key, value in file.attrs.items()
        if key not in ("format", "version", CONTENT)
    }


def read_header(file: h5py.File, path: Path) -> Header:
    """Check what every file of mapped frames must have.

    Raises
    ------
    FramesError
        If a quantity is missing or has another shape.
    """
    missing = [name for name in (*QUANTITIES, "checksum") if name not in file]
    if missing:
        raise FramesError(
            f"{path}: has no {' and no '.join(missing)}; force matching needs positions and forces"
            " of every frame."
        )
    beads = read_beads(file, path)
    for name, expected in frame_shapes(beads.n_beads).items():
        if file[name].shape[1:] != expected:
            raise FramesError(
                f"{path}: {name} have shape {file[name].shape[1:]} per frame, expected {expected}"
                f" for {beads.n_beads} beads."
            )
    for name, kind in {**_TYPES, "checksum": "u4"}.items():
        if not np.can_cast(file[name].dtype, kind, "same_kind"):
            raise FramesError(
                f"{path}: {name} are of type {file[name].dtype}, expected {np.dtype(kind)}; make"
                " the file again."
            )
    check_temperature(attributes := file_attributes(file), path)
    rows = [len(file[name]) for name in (*QUANTITIES, "checksum")]
    finished = not file.swmr_mode and not is_open(path)
    return Header(beads, attributes, min(rows), max(rows), finished)
