"""Trajectories of beads that a simulation wrote: the one reader for labels and comparisons."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import mdtraj
import numpy as np

from openmm_cgkd.exceptions import BoxError, FramesError
from openmm_cgkd.utils.appended import check_written
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.foreign import reading, without_native_output
from openmm_cgkd.utils.text_file import check_regular

from .gromacs_files import check_headers
from .netcdf import has_times

# formats that MDTraj reads with certain units (nm or angstrom by definition), and whether they
# carry times: of the others MDTraj makes up the times
_TIMED = {".xtc": True, ".trr": True, ".nc": True, ".ncdf": True, ".dcd": False}
_FARTHEST = 1e12  # nm; farther is damaged


class BeadTrajectory(NamedTuple):
    """A trajectory of beads.

    Attributes
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    times : ndarray, shape (n_frames,), ps, or None
        None if the format has none.
    """

    positions: np.ndarray
    boxes: np.ndarray
    times: np.ndarray | None


def read_bead_trajectory(path: Path | str, topology: mdtraj.Topology) -> BeadTrajectory:
    """Read a periodic trajectory.

    Parameters
    ----------
    path : path
        DCD, XTC, TRR or Amber NetCDF. Other formats are refused: MDTraj takes LAMMPS dumps as
        angstrom, whatever their columns and their unit style are.
    topology : mdtraj.Topology
        As many particles, in the order of the trajectory.

    Raises
    ------
    FramesError
        If the file is missing, of another format, not readable or empty, has other numbers of
        beads, values that are not finite, or times that do not rise.
    BoxError
        If a frame has no periodic box.
    RecordError
        If a simulation wrote it and it was changed since.
    """
    path = Path(path)
    if not path.exists():
        raise FramesError(f"{path}: no such file; run 'cgkd simulate' first.")
    check_regular(path, "a trajectory of beads", FramesError)
    kind = path.suffix.lower()
    if kind not in _TIMED:
        raise FramesError(
            f"{path}: the ending {path.suffix or '(none)'} is of no format whose units are certain;"
            f" convert the trajectory to one of {', '.join(_TIMED)}."
        )
    check_written(path)
    what = f"a trajectory of {topology.n_atoms} beads"
    with reading(path, what, "run the simulation again", FramesError):
        check_headers(path, topology.n_atoms)
        timed = has_times(path) if kind in (".nc", ".ncdf") else _TIMED[kind]
        with without_native_output():
            trajectory = mdtraj.load(str(path), top=topology)
    if trajectory.n_frames == 0:
        raise FramesError(f"{path}: holds no frame; simulate longer or write frames more often.")
    if (
        trajectory.unitcell_vectors is None
        or not (box_volume(trajectory.unitcell_vectors.astype(float)) > 0).all()
    ):
        raise BoxError(f"{path}: has no periodic box, which every frame needs.")
    boxes = trajectory.unitcell_vectors.astype(float)
    for name, values in (("positions", trajectory.xyz), ("box vectors", boxes)):
        bad = ~(np.abs(values) < _FARTHEST).all(axis=(1, 2))
        if bad.any():
            raise FramesError(
                f"{path}: {name} of frame {np.argmax(bad)} are not finite or of no fluid; the"
                " simulation has failed, or the file is damaged, run it again."
            )
    times = trajectory.time if timed else None
    if times is not None and not np.isfinite(times).all():
        raise FramesError(
            f"{path}: the time of frame {np.argmin(np.isfinite(times))} is not finite; the file is"
            " damaged, run the simulation again."
        )
    if times is not None and not (np.diff(times) > 0).all():
        k = int(np.argmax(np.diff(times) <= 0)) + 1
        raise FramesError(
            f"{path}: frame {k} is at {times[k]:g} ps, not after {times[k - 1]:g} ps; give the"
            " parts of joined runs one by one."
        )
    return BeadTrajectory(trajectory.xyz, boxes, times)
