"""Reading trajectories of beads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import mdtraj
import numpy as np

from openmm_cgkd.exceptions import AnalysisError

_TIMED = (".xtc", ".trr", ".nc")  # of other formats, such as DCD, MDTraj makes up the times


class Trajectory(NamedTuple):
    """A trajectory of beads.

    Attributes
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    names : list of str
        Names of the beads.
    times : ndarray, shape (n_frames,), ps, or None
        None if the format has none.
    """

    positions: np.ndarray
    boxes: np.ndarray
    names: list[str]
    times: np.ndarray | None


def read_trajectory(path: Path | str, topology_path: Path | str) -> Trajectory:
    """Read a periodic trajectory whose atom names are bead types.

    Parameters
    ----------
    path : path
        Any format that MDTraj reads by its suffix, such as DCD or XTC.
    topology_path : path
        PDB file; its format keeps four characters of a name.

    Raises
    ------
    AnalysisError
        If a file is missing or not readable, has no box, no frame, or values that are not finite.
    """
    for file in (Path(path), Path(topology_path)):
        if not file.exists():
            raise AnalysisError(f"{file}: no such file; run 'cgkd simulate' first.")
    try:
        # standard_names would rename beads that happen to be called like an atom of a standard
        # residue
        topology = mdtraj.load_topology(str(topology_path), standard_names=False)
        trajectory = mdtraj.load(str(path), top=topology)
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        raise AnalysisError(
            f"{path}: cannot be read with topology {topology_path}"
            f" ({' '.join(str(error).split())})."
        ) from error
    if trajectory.n_frames == 0:
        raise AnalysisError(f"{path}: holds no frame; simulate longer or write frames more often.")
    if trajectory.unitcell_vectors is None:
        raise AnalysisError(
            f"{path}: has no periodic box; radial distribution functions need one in every frame."
        )
    boxes = trajectory.unitcell_vectors.astype(float)
    for name, values in (("positions", trajectory.xyz), ("box vectors", boxes)):
        bad = ~np.isfinite(values).all(axis=(1, 2))
        if bad.any():
            raise AnalysisError(
                f"{path}: {name} of frame {np.argmax(bad)} are not finite; the simulation has"
                " failed, run it again."
            )
    times = trajectory.time if Path(path).suffix in _TIMED else None
    return Trajectory(trajectory.xyz, boxes, [atom.name for atom in topology.atoms], times)
