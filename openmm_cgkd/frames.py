"""The HDF5 file of mapped frames: write, append after a crash, read, split.

Layout (``docs/formats.md``): one extendable dataset per quantity with the frame as first axis, a CRC-32 per frame,
bead data under ``/beads``, provenance as attributes of the root. The file is written in HDF5's single-writer mode,
so a killed writer leaves a readable file; a frame counts only when its checksum, which is written last, is right.
"""

from __future__ import annotations

import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from .exceptions import FramesError
from .files import replacing
from .mapping import BeadTopology

FORMAT = "openmm_cgkd frames"
VERSION = 1
_SHAPES = {"positions": (-1, 3), "forces": (-1, 3), "box": (3, 3), "time": (), "step": ()}
_TYPES = {"positions": "f4", "forces": "f4", "box": "f8", "time": "f8", "step": "i8"}


def _checksum(frame: dict[str, np.ndarray]) -> int:
    crc = 0
    for name in _SHAPES:
        crc = zlib.crc32(np.ascontiguousarray(frame[name], dtype=_TYPES[name]).tobytes(), crc)
    return crc


@dataclass(frozen=True)
class Frames:
    """Mapped frames in memory.

    Attributes
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
        Not wrapped into the box.
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
    box : ndarray, shape (n_frames, 3, 3), nm
        Box vectors as rows.
    time : ndarray, shape (n_frames,), ps
    step : ndarray, shape (n_frames,)
    beads : BeadTopology
    attributes : dict
        Provenance: system, temperature (kelvin), seed, commands, versions.
    """

    positions: np.ndarray
    forces: np.ndarray
    box: np.ndarray
    time: np.ndarray
    step: np.ndarray
    beads: BeadTopology
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.positions)

    def __getitem__(self, index: slice | np.ndarray) -> Frames:
        return Frames(
            self.positions[index], self.forces[index], self.box[index], self.time[index], self.step[index], self.beads, self.attributes
        )

    @property
    def temperature(self) -> float:
        """Temperature of the all-atom run, kelvin."""
        return float(self.attributes["temperature"])

    @property
    def identity(self) -> str:
        """SHA-256 over everything that training depends on."""
        digest = hashlib.sha256()
        for array in (self.positions, self.forces, self.box, self.time, self.beads.types, self.beads.masses):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(json.dumps(self.beads.type_names).encode())
        return digest.hexdigest()

    @property
    def smallest_height(self) -> float:
        """Smallest distance between opposite box faces over all frames, nm; cutoffs must stay below half of it."""
        return float(smallest_height(self.box))


def smallest_height(box: np.ndarray) -> float:
    """Smallest distance between opposite faces of boxes of shape (..., 3, 3)."""
    return (1.0 / np.linalg.norm(np.linalg.inv(box), axis=-2)).min()


class FrameWriter:
    """Append mapped frames to an HDF5 file, one at a time, safe against a crash between any two instructions.

    Parameters
    ----------
    path : path
        Created if absent; an existing file of the same beads is continued.
    beads : BeadTopology
    attributes : dict
        Provenance written once, when the file is created.
    after_step : int, optional
        Drop frames beyond this step: the step from which the interrupted simulation resumes.
    """

    def __init__(self, path: Path | str, beads: BeadTopology, attributes: dict[str, Any], after_step: int | None = None) -> None:
        self.path = Path(path)
        kept = None
        if self.path.exists():
            kept = read_frames(self.path, allow_empty=True)
            if kept.beads.type_names != beads.type_names or not np.array_equal(kept.beads.types, beads.types):
                raise FramesError(f"{self.path}: holds other beads than this simulation; write to another file.")
            attributes = kept.attributes
            kept = kept[kept.step <= after_step] if after_step is not None else kept
        # a killed HDF5 writer leaves the file marked as open, so continue in a fresh file that then takes its place
        fresh = self.path.with_name(self.path.name + ".tmp")
        self._file = _create(fresh, beads, attributes)
        if kept is not None:
            _fill(self._file, kept)
        self._file.swmr_mode = True  # before the file takes its name, so that a reader never meets a locked one
        os.replace(fresh, self.path)

    def append(self, positions: np.ndarray, forces: np.ndarray, box: np.ndarray, time: float, step: int) -> None:
        """Append one frame; units as in `Frames`.

        Raises
        ------
        FramesError
            If the step does not grow, a shape does not fit the beads, or a value is not finite.
        """
        n = len(self._file["checksum"])
        if n and step <= self._file["step"][n - 1]:
            raise FramesError(f"{self.path}: step {step} is not after the last frame; resume with after_step or write to another file.")
        frame = {"positions": positions, "forces": forces, "box": box, "time": time, "step": step}
        for name, values in frame.items():
            expected = self._file[name].shape[1:]
            if np.shape(values) != expected:
                raise FramesError(f"{self.path}: expected {name} of shape {expected}, got {np.shape(values)}; give every bead of the file.")
            if not np.all(np.isfinite(values)):
                raise FramesError(f"{self.path}: {name} at step {step} are not finite; the simulation has failed, use a smaller time step.")
        self._put(frame)
        self._file.flush()

    def _put(self, frame: dict[str, Any]) -> None:
        n = len(self._file["checksum"])
        for name in _SHAPES:
            self._file[name].resize(n + 1, axis=0)
            self._file[name][n] = frame[name]
            self._file[name].flush()
        self._file["checksum"].resize(n + 1, axis=0)  # last, because it makes the frame count
        self._file["checksum"][n] = _checksum(frame)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _shapes(beads: BeadTopology) -> dict[str, tuple[int, ...]]:
    """Shape of each quantity in one frame."""
    return {name: tuple(beads.n_beads if s == -1 else s for s in shape) for name, shape in _SHAPES.items()}


def _create(path: Path, beads: BeadTopology, attributes: dict[str, Any]) -> h5py.File:
    file = h5py.File(path, "w", libver="latest")
    file.attrs.update({"format": FORMAT, "version": VERSION, **attributes})
    group = file.create_group("beads")
    group.attrs["type_names"] = list(beads.type_names)
    for name in ("types", "masses", "molecules", "charges"):
        group[name] = getattr(beads, name)
    for name, shape in _shapes(beads).items():
        rows = 1 if len(shape) == 2 and shape[0] > 3 else 256
        file.create_dataset(name, shape=(0, *shape), maxshape=(None, *shape), chunks=(rows, *shape), dtype=_TYPES[name])
    file.create_dataset("checksum", shape=(0,), maxshape=(None,), chunks=(256,), dtype="u4")
    return file


def _fill(file: h5py.File, frames: Frames) -> None:
    """Write all frames at once into a new file."""
    for name in _SHAPES:
        file[name].resize(len(frames), axis=0)
        file[name][:] = getattr(frames, name)
    file["checksum"].resize(len(frames), axis=0)
    file["checksum"][:] = _checksums(frames)


def _checksums(frames: Frames) -> np.ndarray:
    sums = [_checksum({name: getattr(frames, name)[k] for name in _SHAPES}) for k in range(len(frames))]
    return np.array(sums, dtype="u4")


def read_frames(path: Path | str, allow_empty: bool = False) -> Frames:
    """Read every whole frame of a file, whether its writer closed it, still writes it, or was killed.

    Raises
    ------
    FramesError
        If the file is missing, foreign, empty, or holds a damaged frame before its last whole one.
    """
    path = Path(path)
    if not path.exists():
        raise FramesError(f"{path}: no such file; make mapped frames with 'cgkd reference' or 'cgkd map'.")
    try:
        with _open(path) as file:
            frames, stored = _read(file, path)
    except (OSError, KeyError, RuntimeError) as error:  # h5py raises all of these on damaged files
        raise FramesError(f"{path}: is not an HDF5 file of mapped frames, or is damaged beyond reading; make it again.") from error
    good = _checksums(frames) == stored
    whole = len(frames) if good.all() else int(np.argmin(good))
    if good[whole:].any():
        raise FramesError(f"{path}: frame {whole} is damaged (checksum differs) but later ones are not; restore the file from a copy.")
    if whole == 0 and not allow_empty:
        raise FramesError(f"{path}: holds no whole frame; make mapped frames with 'cgkd reference' or 'cgkd map'.")
    frames = frames[:whole]
    for name in ("positions", "forces", "box"):
        bad = ~np.isfinite(getattr(frames, name)).all(axis=(1, 2))
        if bad.any():
            raise FramesError(f"{path}: {name} of frame {np.argmax(bad)} are not finite; remove that frame or make the file again.")
    return frames


def _read(file: h5py.File, path: Path) -> tuple[Frames, np.ndarray]:
    """Frames whose datasets are all long enough, and their stored checksums."""
    if file.attrs.get("format") != FORMAT:
        raise FramesError(f"{path}: is not a file of mapped frames; make one with 'cgkd reference' or 'cgkd map'.")
    if file.attrs["version"] > VERSION:
        raise FramesError(f"{path}: has format version {file.attrs['version']}, this package reads up to {VERSION}; upgrade openmm_cgkd.")
    missing = [name for name in (*_SHAPES, "checksum") if name not in file]
    if missing:
        raise FramesError(f"{path}: has no {' and no '.join(missing)}; force matching needs positions and forces of every frame.")
    group = file["beads"]
    arrays = (group[name][:] for name in ("types", "masses", "molecules", "charges"))
    beads = BeadTopology(tuple(str(name) for name in group.attrs["type_names"]), *arrays)
    for name, expected in _shapes(beads).items():
        if file[name].shape[1:] != expected:
            raise FramesError(f"{path}: {name} have shape {file[name].shape[1:]} per frame, expected {expected} for {beads.n_beads} beads.")
    n = min(len(file[name]) for name in (*_SHAPES, "checksum"))
    attributes = {key: _plain(value) for key, value in file.attrs.items() if key not in ("format", "version")}
    return Frames(**{name: file[name][:n] for name in _SHAPES}, beads=beads, attributes=attributes), file["checksum"][:n]


def _open(path: Path) -> h5py.File:
    """Open for reading, in single-writer mode if the file's writer is alive or was killed.

    Only then: in that mode HDF5 retries for minutes what it cannot read in a damaged file.
    """
    with open(path, "rb") as file:
        head = file.read(12)
    # superblock of version 3: signature, version, sizes of offsets and lengths, flags (1: open for writing, 4: single writer)
    if head[:9] == b"\x89HDF\r\n\x1a\n\x03" and head[11:] > b"\0":
        return h5py.File(path, "r", libver="latest", swmr=True)
    return h5py.File(path, "r")


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value


def write_frames(frames: Frames, path: Path | str) -> None:
    """Write frames as a compressed file, complete or not at all; for shipping and for parts of a file."""
    with replacing(Path(path)) as fresh, _create(fresh, frames.beads, frames.attributes) as file:
        for name in _SHAPES:
            del file[name]
            file.create_dataset(name, data=getattr(frames, name), chunks=True, compression="gzip", shuffle=True)
        del file["checksum"]
        file["checksum"] = _checksums(frames)


@dataclass(frozen=True)
class Split:
    """Frame indices of each part; every part is a contiguous stretch of time."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_frames(time: np.ndarray, validation: float, test: float, gap: float) -> Split:
    """Split into contiguous time blocks: training, gap, validation, gap, test.

    Parameters
    ----------
    time : ndarray, shape (n_frames,), ps
    validation, test : float
        Shares of all frames.
    gap : float
        Time in ps between parts; longer than the force correlation time, so that held-out frames are independent.

    Raises
    ------
    FramesError
        If a part would be empty.
    """
    n = len(time)
    n_test, n_validation = round(n * test), round(n * validation)
    first_test, first_validation = n - n_test, n - n_test - n_validation
    index = np.arange(n)
    if min(n_test, n_validation, first_validation) > 0:
        in_training = time < time[first_validation] - gap
        in_validation = (index >= first_validation) & (time < time[first_test] - gap)
        split = Split(index[:first_validation][in_training[:first_validation]], index[in_validation], index[first_test:])
        if min(len(split.training), len(split.validation)) > 0:
            return split
    span = time[-1] - time[0] if n else 0.0
    raise FramesError(
        f"{n} frames over {span:g} ps cannot be split into training, validation ({validation:g}) and test ({test:g}) "
        f"with gaps of {gap:g} ps; use more frames, larger shares or a smaller gap."
    )
