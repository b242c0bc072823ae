"""What can be compared: trajectories of beads and files of mapped frames."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_cgkd.analysis.observables.neighbors import Frame
from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.simulation.outputs import log_column
from openmm_cgkd.utils.files import file_hash

from .trajectory import read_trajectory

_TRAJECTORIES = ("trajectory.dcd", "trajectory.xtc")


@dataclass(frozen=True)
class Source:
    """A trajectory of beads, all-atom or coarse-grained.

    Attributes
    ----------
    label : str
        Name of the model; sources of the same label are independent trainings of it.
    path : Path
        The file that it was read from.
    identity : str
        SHA-256 of its content.
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    names : list of str
        Type of every bead, cut to four characters as in a PDB file.
    type_names : tuple of str
        Bead types in the order of reports.
    times : ndarray, shape (n_frames,), ps, or None
        None if they are not known.
    attributes : dict
        Provenance, of mapped frames.
    """

    label: str
    path: Path
    identity: str
    positions: np.ndarray
    boxes: np.ndarray
    names: list[str]
    type_names: tuple[str, ...]
    times: np.ndarray | None
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.positions)

    @cached_property
    def beads(self) -> BeadTopology:
        """Beads as the names tell; a trajectory says nothing of masses and molecules."""
        types = np.array([self.type_names.index(name) for name in self.names])
        return BeadTopology(
            self.type_names, types, np.full(len(types), np.nan), np.arange(len(types))
        )

    def stretches(self) -> tuple[float, list[slice]] | None:
        """Usual time between frames (ps), and the stretches of frames that are so far apart.

        None if the times are not known.
        """
        if self.times is None or len(self.times) < 2:
            return None
        steps = np.diff(self.times)
        usual = float(np.median(steps))
        if not usual > 0:
            return None
        # a file may keep times in single precision
        gaps = np.flatnonzero(np.abs(steps - usual) > 1e-3 * usual + 1e-6 * abs(self.times[-1])) + 1
        edges = [0, *gaps.tolist(), len(self.times)]
        return usual, [slice(start, stop) for start, stop in pairwise(edges)]

    def frames(self, chosen: np.ndarray) -> list[Frame]:
        """Some of the configurations."""
        names = np.array(self.names)
        return [Frame(self.positions[k], self.boxes[k], names) for k in chosen]


def source_of_frames(frames: Frames, path: Path, label: str = "AA") -> Source:
    """Mapped frames as a source."""
    names = [name[:4] for name in frames.beads.names]
    type_names = tuple(name[:4] for name in frames.beads.type_names)
    return Source(
        label,
        path,
        frames.identity,
        frames.positions,
        frames.box,
        names,
        type_names,
        frames.time,
        frames.attributes,
    )


def read_source(path: Path | str, label: str = "") -> Source:
    """Read a trajectory, the folder that holds it, or a file of mapped frames.

    Parameters
    ----------
    path : path
        A folder with ``simulation/trajectory.dcd`` (or xtc), or with the trajectory itself; an HDF5
        file of mapped frames; or a trajectory that MDTraj reads with ``topology.pdb``, or a PDB
        file of its own name, beside it.
    label : str
        Name of the folder or of the file if empty.

    Raises
    ------
    AnalysisError
        If there is no trajectory, no topology, or it cannot be read.
    FramesError
        If a file of mapped frames is not valid.
    """
    path = Path(path)
    if path.is_dir():
        label = label or path.resolve().name
        path = _trajectory_in(path)
    if not path.exists():
        raise AnalysisError(
            f"{path}: no such file or folder; name a run folder, a trajectory or a file of mapped"
            " frames."
        )
    if h5py.is_hdf5(path):
        return source_of_frames(read_frames(path), path, label or path.stem)
    topology = next(
        (
            file
            for file in (path.with_name("topology.pdb"), path.with_suffix(".pdb"))
            if file.exists()
        ),
        None,
    )
    if topology is None:
        raise AnalysisError(
            f"{path}: has no topology beside it; put a PDB file of the beads there as topology.pdb."
        )
    positions, boxes, names, times = read_trajectory(path, topology)
    times = _logged_times(path, len(positions)) if times is None else times
    return Source(
        label or path.stem,
        path,
        file_hash(path),
        positions,
        boxes,
        names,
        tuple(dict.fromkeys(names)),
        times,
        {},
    )


def _trajectory_in(folder: Path) -> Path:
    for parent in (folder / "simulation", folder):
        for name in _TRAJECTORIES:
            if (parent / name).exists():
                return parent / name
    raise AnalysisError(
        f"{folder}: holds no trajectory (simulation/trajectory.dcd or .xtc); run 'cgkd simulate'"
        " first."
    )


def _logged_times(path: Path, n_frames: int) -> np.ndarray | None:
    """Times of the frames from the log of the simulation beside them, if it fits."""
    log = path.with_name("state.csv")
    times = log_column(log, "Time") if log.exists() else np.zeros(0)
    return times if len(times) == n_frames else None
