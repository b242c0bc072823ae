"""Mapped frames: in memory, and in the HDF5 file from which they are read.

The file (``docs/formats.md``) is written in HDF5's single-writer mode, so a killed writer leaves a
readable file; a frame counts only when its checksum, which is written last, is right.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.box import box_volume, smallest_height
from openmm_cgkd.utils.disk import disk_errors
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.hdf5_output import Room, hdf5_output
from openmm_cgkd.utils.lock import locked_file

from .checks import (
    BEFORE_ALL,
    check_boxes,
    check_finite,
    check_growth,
    empty_error,
    temperature_of,
)
from .hdf5 import (
    FRAMES,
    QUANTITIES,
    Header,
    append_rows,
    checksums,
    create,
    frame_shapes,
    open_file,
    read_header,
    read_rows,
    whole_file,
)
from .recovery import is_held, is_open, mark_as_written
from .seal import seal

_STREAM = 2**22  # bytes of frames in memory while a file is streamed


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
            self.positions[index],
            self.forces[index],
            self.box[index],
            self.time[index],
            self.step[index],
            self.beads,
            self.attributes,
        )

    def evenly_spaced(self, at_most: int | None) -> Frames:
        """All frames, or `at_most` of them, evenly spaced from the first to the last."""
        if at_most is None or at_most >= len(self):
            return self
        return self[np.linspace(0, len(self) - 1, at_most).round().astype(int)]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Quantities of the frames by name, in the order of the file's checksum."""
        return {name: getattr(self, name) for name in QUANTITIES}

    @property
    def temperature(self) -> float:
        """Temperature of the all-atom run, kelvin; errors as `checks.temperature_of`."""
        return temperature_of(self.attributes)

    @property
    def identity(self) -> str:
        """SHA-256 over everything that training depends on."""
        digest = hashlib.sha256()
        for array in (
            self.positions,
            self.forces,
            self.box,
            self.time,
            self.beads.types,
            self.beads.masses,
            self.beads.bonds,
        ):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(json.dumps(self.beads.type_names).encode())
        return digest.hexdigest()

    @property
    def smallest_height(self) -> float:
        """Smallest distance between opposite box faces over all frames, nm.

        Cutoffs must stay below half of it.
        """
        return float(smallest_height(self.box))


class FrameWriter:
    """Append mapped frames to an HDF5 file, one at a time.

    The file is safe against a crash between any two instructions.

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

    def __init__(
        self,
        path: Path | str,
        beads: BeadTopology,
        attributes: dict[str, Any],
        after_step: int | None = None,
    ) -> None:
        self.path = Path(path)
        with locked_file(self.path):  # another one may begin at the same time
            continued = self.path.exists()
            if continued:
                if is_open(self.path) and is_held(self.path, unknown=False):
                    raise FramesError(f"{self.path}: is being written; write to another file.")
                found = frames_header(self.path)
                if any(
                    not np.array_equal(getattr(found.beads, name), getattr(beads, name))
                    for name in ("type_names", "types", "bonds")
                ):
                    raise FramesError(f"{self.path}: holds other beads; write to another file.")
                attributes = found.attributes
            # a killed HDF5 writer leaves the file marked as open: a fresh one takes its place
            fresh = self.path.with_name(self.path.name + ".tmp")
            try:
                with disk_errors(self.path):
                    with hdf5_output(fresh) as output, create(output, beads, attributes) as file:
                        for frames in (
                            iterate_frames(self.path, torn_tail=True) if continued else ()
                        ):
                            kept = slice(None) if after_step is None else frames.step <= after_step
                            append_rows(file, frames[kept].arrays)
                        steps, times = file["step"], file["time"]
                        self._last = (int(steps[-1]), float(times[-1])) if len(steps) else None
                    self._room = Room(fresh)
                    self._room.require(0)
                    self._file = h5py.File(fresh, "r+", libver="latest")
                    # before the file takes its name, so that a reader never meets a locked one
                    self._file.swmr_mode = True
            except BaseException:  # a full disk or a signal, too, must leave nothing behind
                fresh.unlink(missing_ok=True)
                raise
            self._hold = mark_as_written(fresh)
            os.replace(fresh, self.path)

    def append(
        self, positions: np.ndarray, forces: np.ndarray, box: np.ndarray, time: float, step: int
    ) -> None:
        """Append one frame; units as in `Frames`.

        Raises
        ------
        FramesError
            If step or time do not grow, a shape does not fit the beads, a value is not finite, or
            the box has no volume.
        DiskError
            If the disk takes no more; what is whole is kept.
        """
        if self._last is not None and step <= self._last[0]:
            raise FramesError(
                f"{self.path}: step {step} is not after the last frame; resume with after_step or"
                " write to another file."
            )
        given = (positions, forces, box, time, step)
        frame: dict[str, Any] = dict(zip(QUANTITIES, given, strict=True))
        for name, values in frame.items():
            expected = self._file[name].shape[1:]
            if np.shape(values) != expected:
                raise FramesError(
                    f"{self.path}: expected {name} of shape {expected}, got {np.shape(values)};"
                    " give every bead of the file."
                )
            if not np.all(np.isfinite(values)):
                raise FramesError(
                    f"{self.path}: {name} at step {step} are not finite; the simulation has failed,"
                    " use a smaller time step."
                )
        if self._last is not None and time <= self._last[1]:
            raise FramesError(
                f"{self.path}: the time {time:g} ps at step {step} is not after the"
                f" {self._last[1]:g} ps of the last frame; set the time of the"
                " simulation, or write to another file."
            )
        if not box_volume(np.asarray(box, dtype=float)) > 0:
            raise FramesError(
                f"{self.path}: the box at step {step} has no volume; set the periodic box vectors."
            )
        with disk_errors(self.path):
            self._room.require(sum(np.asarray(values).nbytes for values in frame.values()))
            self._put(frame)
            self._file.flush()
        self._last = step, float(time)

    def _put(self, frame: dict[str, Any]) -> None:
        n = len(self._file["checksum"])
        for name in QUANTITIES:
            self._file[name].resize(n + 1, axis=0)
            self._file[name][n] = frame[name]
            self._file[name].flush()
        self._file["checksum"].resize(n + 1, axis=0)  # last, because it makes the frame count
        self._file["checksum"][n] = checksums(
            {name: np.asarray(values)[None] for name, values in frame.items()}
        )[0]

    def close(self) -> None:
        with self._hold, disk_errors(self.path):
            self._file.close()
            self._room.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def frames_header(path: Path | str) -> Header:
    """Beads, provenance and number of frames of a file, without its frames.

    Raises
    ------
    FramesError
        If the file is missing, foreign or damaged.
    """
    with open_file(Path(path), FRAMES) as file:
        return read_header(file, Path(path))


def iterate_frames(path: Path | str, torn_tail: bool = False) -> Iterator[Frames]:
    """Stream every whole frame of a file in pieces of a few megabytes.

    Memory does not grow with the file.

    Parameters
    ----------
    path : path
    torn_tail : bool
        Leave out what comes after the last whole frame of a file that its writer has closed, too.
        Of a file that is being written or whose writer was killed it is always left out.

    Raises
    ------
    FramesError
        If the file is missing or foreign, holds a damaged frame, a value that is not finite, a step
        or time that does not grow, or a box without volume.
    """
    path = Path(path)
    with open_file(path, FRAMES) as file:
        header = read_header(file, path)
        size = max(1, _STREAM // (24 * header.beads.n_beads))
        yield from _whole_frames(file, header, path, size, torn_tail)


def _whole_frames(
    file: h5py.File, header: Header, path: Path, size: int, torn_tail: bool = False
) -> Iterator[Frames]:
    """Frames up to the first torn one, `size` at a time."""
    torn = None  # index of the first torn frame, once it is met
    last = BEFORE_ALL
    cure = "remove that frame or make the file again"
    for first in range(0, header.rows, size):
        arrays, good = read_rows(file, slice(first, min(first + size, header.rows)))
        n = 0 if torn is not None else len(good) if good.all() else int(np.argmin(good))
        if n < len(good):
            torn = first + n if torn is None else torn
            if good[n:].any():
                raise FramesError(
                    f"{path}: frame {torn} is damaged (checksum differs) but later ones are not;"
                    " restore it from a copy."
                )
        if n:
            frames = Frames(**arrays, beads=header.beads, attributes=header.attributes)[:n]
            check_finite(frames.arrays, path, ("positions", "forces", "box"), cure, first)
            check_boxes(frames.box, path, cure, first)
            last = check_growth(frames.arrays, last, path, first)
            yield frames
    whole = header.rows if torn is None else torn
    if header.finished and not torn_tail and whole < header.begun:
        raise torn_error(path, header.begun - whole, whole)


def torn_error(path: Path, torn: int, whole: int) -> FramesError:
    """What is wrong with a file whose last frames are not whole."""
    return FramesError(
        f"{path}: ends in {torn} torn after {whole} whole frames; save these with 'cgkd verify"
        f" {path} --repair'."
    )


def read_frames(path: Path | str, allow_empty: bool = False) -> Frames:
    """Read every whole frame of a file.

    Its writer may have closed it, still write it, or have been killed.

    Raises
    ------
    FramesError
        As `iterate_frames`, or if the file is empty.
    """
    path = Path(path)
    with open_file(path, FRAMES) as file:
        header = read_header(file, path)
        # one piece at most; the generator runs to its end, where it looks at the tail of the file
        for frames in list(_whole_frames(file, header, path, max(1, header.rows))):
            return frames
    if not allow_empty:
        raise empty_error(path)
    empty = {
        name: np.zeros((0, *shape)) for name, shape in frame_shapes(header.beads.n_beads).items()
    }
    return Frames(**empty, beads=header.beads, attributes=header.attributes)


def write_stream(
    path: Path, beads: BeadTopology, attributes: dict[str, Any], parts: Iterable[Frames]
) -> int:
    """Write frames as they come, complete or not at all; memory does not grow with their number.

    Returns
    -------
    int
        Number of frames.
    """
    with replacing(path) as fresh, whole_file(fresh, beads, attributes) as file:
        for part in parts:
            append_rows(file, part.arrays)
        return len(file["checksum"])


def set_attributes(path: Path, attributes: dict[str, Any]) -> None:
    """Add provenance to a file that nobody else writes."""
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)
        seal(file, FRAMES.growing)


def write_frames(frames: Frames, path: Path | str) -> None:
    """Write frames as a compressed file, complete or not at all."""
    with (
        locked_file(path),
        replacing(Path(path)) as fresh,
        whole_file(fresh, frames.beads, frames.attributes) as file,
    ):
        for name, values in frames.arrays.items():
            del file[name]
            file.create_dataset(name, data=values, chunks=True, compression="gzip", shuffle=True)
        del file["checksum"]
        file["checksum"] = checksums(frames.arrays)
        seal(file, FRAMES.growing)
