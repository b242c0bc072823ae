"""Check a file of mapped frames from end to end, and save its whole frames if its tail is torn."""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from openmm_cgkd.exceptions import AnalysisError, ConfigError, FramesError
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.hdf5_output import Room
from openmm_cgkd.utils.units import DENSITY_UNIT, HOTTEST

from .checks import empty_error, temperature_of
from .correlation import ForceAutocorrelation
from .frames import (
    Frames,
    frames_header,
    iterate_frames,
    set_attributes,
    torn_error,
    write_stream,
)
from .hdf5 import FRAMES, READ_ERRORS, Header, open_file, read_header, read_rows
from .recovery import is_held, is_open

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FramesReport:
    """What `verify_frames` found.

    Attributes
    ----------
    header : Header
        Beads and provenance.
    frames : int
        Whole frames.
    first, last : float
        Time of the first and the last frame, ps.
    box : ndarray, shape (3, 3), nm
        Mean box vectors.
    volume_spread : float
        Standard deviation of the volume as a share of its mean; zero at constant volume.
    density : float
        Mean, g/cm^3.
    force_rms : float
        Root mean square force component, kJ/mol/nm.
    correlation : ForceAutocorrelation
    being_written : bool
        Whether a process has the file open for writing.
    """

    header: Header
    frames: int
    first: float
    last: float
    box: np.ndarray
    volume_spread: float
    density: float
    force_rms: float
    correlation: ForceAutocorrelation
    being_written: bool

    def rows(self) -> list[tuple[str, str]]:
        """Label and value of every line of the printed table."""
        beads = Counter(self.header.beads.names)
        edges, spread = np.linalg.norm(self.box, axis=1), self.volume_spread
        ensemble = (
            f"volume fluctuates by {100 * spread:.2g} %" if spread > 1e-6 else "constant volume"
        )
        return [
            ("frames", str(self.frames)),
            (
                "beads",
                (
                    f"{self.header.beads.n_beads}"
                    f" ({', '.join(f'{n} {name}' for name, n in beads.items())})"
                ),
            ),
            ("time", f"{self.first:g} to {self.last:g} ps"),
            ("box", f"{' x '.join(f'{edge:.4f}' for edge in edges)} nm, {ensemble}"),
            ("density", f"{self.density:.4f} g/cm^3"),
            ("temperature", f"{float(self.header.attributes['temperature']):g} K"),
            ("force, RMS component", f"{self.force_rms:.1f} kJ/mol/nm"),
            ("force correlation", describe(self.correlation)),
            (
                "checks",
                "schema, checksums, finite values, growing steps and times, boxes: all right",
            ),
            *([("writer", "a process is still writing this file")] if self.being_written else []),
        ]


def describe(correlation: ForceAutocorrelation) -> str:
    """Integrated time and the distance of independent frames, for people."""
    try:
        stride, interval = correlation.independent_stride, correlation.interval
        if stride == 1:
            return f"shorter than the {interval:g} ps between frames; every frame is independent"
        bound = "" if correlation.is_complete else "more than "
        return (
            f"integrated time {bound}{correlation.integrated_time:.3g} ps; one frame in {stride} is"
            " independent"
        )
    except AnalysisError as error:
        return str(error)


def verify_frames(
    path: Path | str, repair: bool = False, temperature: float | None = None
) -> FramesReport:
    """Read a whole file of mapped frames and check it.

    That is its schema, checksums, values, steps, times and boxes.

    Memory does not grow with the number of frames.

    Parameters
    ----------
    path : path
    repair : bool
        Save the whole frames of a file whose tail is torn, because its writer was killed or the end
        of the file is lost. The file is replaced only when the new one is complete and has passed
        the same checks.
    temperature : float, kelvin, optional
        Of the all-atom run, written into a file that does not tell it; the file is replaced by one
        with the same frames and new checksums. It cannot be changed afterwards.

    Raises
    ------
    FramesError
        If the file is missing, foreign, damaged or torn, a check fails, its temperature is not
        known or is not the given one. The file is then as before.
    ConfigError
        If the given temperature is none that a fluid can have.
    """
    path = Path(path)
    if temperature is not None and not 0 < temperature <= HOTTEST:
        raise ConfigError(
            f"--temperature: got {temperature:g}, expected kelvin, above 0 and at most"
            f" {HOTTEST:g}; give the temperature of the all-atom run."
        )
    if path.is_dir():
        raise FramesError(f"{path}: is a folder; give a file of mapped frames.")
    being_written = path.exists() and is_open(path) and is_held(path)
    if repair and being_written:
        raise FramesError(
            f"{path}: is being written by another process; repair it when that has ended."
        )
    try:
        report = _scan(path, being_written, temperature)
    except FramesError as error:
        if not repair or not path.exists():
            raise
        return _repair(path, error, temperature)
    torn = 0 if being_written else report.header.begun - report.frames
    problem = torn_error(path, torn, report.frames)
    if repair and (torn or is_open(path)):
        return _repair(path, problem, temperature)
    if torn:
        raise problem
    if temperature is not None:
        _write_temperature(path, temperature, being_written)
    return report


def _write_temperature(path: Path, temperature: float, being_written: bool) -> None:
    if "temperature" in frames_header(path).attributes:
        return
    if being_written:
        raise FramesError(f"{path}: is being written; write its temperature afterwards.")
    if is_open(path):
        raise FramesError(f"{path}: its writer was killed; give --repair, too.")
    with replacing(path) as fresh:
        shutil.copyfile(path, fresh)  # packed frames stay packed
        with closing(Room(fresh)) as room:
            room.require(0)
            set_attributes(fresh, {"temperature": float(temperature)})
    _tell(path, temperature)


def _tell(path: Path, temperature: float) -> None:
    logger.info(
        "%s: has the temperature %g K now, which cannot be changed afterwards", path, temperature
    )


def _completed(header: Header, path: Path, temperature: float | None) -> Header:
    """Header with the given temperature if it has none."""
    if temperature is None:
        return header
    known = header.attributes.get("temperature", temperature)
    if known != temperature:
        raise FramesError(
            f"{path}: has the temperature {known:g} K already, which cannot be changed, got"
            f" {temperature:g} K; leave --temperature out, or make the file again."
        )
    return replace(header, attributes=header.attributes | {"temperature": float(temperature)})


def _scan(path: Path, being_written: bool, temperature: float | None = None) -> FramesReport:
    """Stream all frames once."""
    header, n = _completed(frames_header(path), path, temperature), 0
    temperature_of(header.attributes, path)
    first = last = np.nan
    box, volumes, densities, squares = np.zeros((3, 3)), np.zeros(2), 0.0, 0.0
    correlation = ForceAutocorrelation()
    for frames in iterate_frames(path, torn_tail=True):
        volume = box_volume(frames.box)  # nm^3
        first = frames.time[0] if n == 0 else first
        last, n = frames.time[-1], n + len(frames)
        box += frames.box.sum(axis=0)
        volumes += volume.sum(), (volume**2).sum()
        densities += (header.beads.masses.sum() / volume / DENSITY_UNIT).sum()
        squares += np.vdot(frames.forces, frames.forces)
        correlation.compute(frames)
    if n == 0:
        raise empty_error(path)
    mean, square = volumes / n
    spread = np.sqrt(max(square - mean**2, 0.0)) / mean
    rms = np.sqrt(squares / (3 * n * header.beads.n_beads))
    return FramesReport(
        header, n, first, last, box / n, spread, densities / n, rms, correlation, being_written
    )


def _repair(path: Path, problem: FramesError, temperature: float | None) -> FramesReport:
    """Write the whole frames to a new file, check it, and let it take the place of the old one."""
    try:
        with open_file(path, FRAMES, mend=True) as file:
            found = read_header(file, path)
    except FramesError:
        raise problem from None
    header = _completed(found, path, temperature)
    if "temperature" not in header.attributes:
        raise FramesError(
            f"{path}: the temperature of the all-atom run is not known; save the whole frames with"
            f" 'cgkd verify {path} --repair --temperature KELVIN'."
        ) from problem
    with replacing(path) as fresh:
        n = write_stream(fresh, header.beads, header.attributes, _rescued(path, header))
        if n == 0:
            raise problem
        try:
            report = _scan(fresh, being_written=False)
        except FramesError:  # what is wrong is not its tail
            raise problem from None
    logger.info("%s: kept %d whole frames, dropped %d torn", path, n, header.begun - n)
    if temperature is not None and "temperature" not in found.attributes:
        _tell(path, temperature)
    return report


def _rescued(path: Path, header: Header) -> Iterator[Frames]:
    """Whole frames one by one, up to the first that is torn or cannot be read."""
    torn = None
    with open_file(path, FRAMES, mend=True) as file:
        for k in range(header.rows):
            try:
                arrays, good = read_rows(file, slice(k, k + 1))
            except READ_ERRORS:
                good = np.array([False])
            if good[0] and torn is not None:
                raise FramesError(
                    f"{path}: frame {torn} is damaged but frame {k} is not, so it is not the tail;"
                    " restore it from a copy."
                )
            if good[0]:
                yield Frames(**arrays, beads=header.beads, attributes=header.attributes)
            elif torn is None:
                torn = k
