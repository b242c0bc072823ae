"""Check a file of mapped frames from end to end, and save its whole frames if its tail is torn."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from openmm_cgkd.exceptions import AnalysisError, FramesError
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.units import DENSITY_UNIT

from .checks import check_temperature, empty_error, temperature_of
from .correlation import ForceAutocorrelation
from .frames import Frames, frames_header, iterate_frames, torn_error, write_stream
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


def verify_frames(path: Path | str, repair: bool = False) -> FramesReport:
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

    Raises
    ------
    FramesError
        If the file is missing, foreign, damaged or torn, or a check fails. The file is then as
        before.
    """
    path = Path(path)
    if path.is_dir():
        raise FramesError(f"{path}: is a folder; give a file of mapped frames.")
    being_written = path.exists() and is_open(path) and is_held(path)
    if repair and being_written:
        raise FramesError(
            f"{path}: is being written by another process; repair it when that has ended."
        )
    try:
        report = _scan(path, being_written)
    except FramesError as error:
        if not repair or not path.exists():
            raise
        return _repair(path, error)
    torn = 0 if being_written else report.header.begun - report.frames
    problem = torn_error(path, torn, report.frames)
    if repair and (torn or is_open(path)):
        return _repair(path, problem)
    if torn:
        raise problem
    return report


def add_temperature(path: Path, temperature: float, repair: bool = False) -> None:
    """Write the temperature of the all-atom run into a file of mapped frames that does not tell it.

    The file is replaced by one with the same frames and new checksums, complete or not at all.

    Parameters
    ----------
    path : path
    temperature : float, kelvin
    repair : bool
        Leave out a torn tail.

    Raises
    ------
    FramesError
        If the temperature is none or the file has another one, is being written, is damaged, or is
        torn and `repair` is not set.
    """
    header = frames_header(path)
    check_temperature({"temperature": temperature}, path)
    known = header.attributes.get("temperature", temperature)
    if known != temperature:
        raise FramesError(
            f"{path}: has the temperature {known:g} K already, got {temperature:g} K; leave it out,"
            " or make the file again."
        )
    if is_open(path):
        if is_held(path):
            raise FramesError(f"{path}: is being written; write its temperature afterwards.")
        if not repair:
            raise FramesError(f"{path}: its writer was killed; give --repair, too.")
    if "temperature" not in header.attributes:
        attributes = header.attributes | {"temperature": temperature}
        write_stream(path, header.beads, attributes, iterate_frames(path, torn_tail=repair))


def _scan(path: Path, being_written: bool) -> FramesReport:
    """Stream all frames once."""
    header, n = frames_header(path), 0
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


def _repair(path: Path, problem: FramesError) -> FramesReport:
    """Write the whole frames to a new file, check it, and let it take the place of the old one."""
    try:
        with open_file(path, FRAMES, mend=True) as file:
            header = read_header(file, path)
    except FramesError:
        raise problem from None
    with replacing(path) as fresh:
        n = write_stream(fresh, header.beads, header.attributes, _rescued(path, header))
        if n == 0:
            raise problem
        try:
            report = _scan(fresh, being_written=False)
        except FramesError:  # what is wrong is not its tail
            raise problem from None
    logger.info("%s: kept %d whole frames, dropped %d torn", path, n, header.begun - n)
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
