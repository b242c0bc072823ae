"""Reading trajectories of beads."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import mdtraj
import numpy as np

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.bead_trajectory import read_bead_trajectory
from openmm_cgkd.utils.appended import check_written
from openmm_cgkd.utils.foreign import reading


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
        As `read_bead_trajectory`.
    topology_path : path
        PDB file; its format keeps four characters of a name.

    Raises
    ------
    FramesError, BoxError, RecordError
        As `read_bead_trajectory`, or if the topology is missing or not readable.
    """
    if not Path(topology_path).exists():
        raise FramesError(f"{topology_path}: no such file; run 'cgkd simulate' first.")
    check_written(Path(topology_path))
    topology_path = Path(topology_path)
    with reading(topology_path, "a topology", "give a PDB file of beads", FramesError):
        # standard_names would rename beads that happen to be called like an atom of a standard
        # residue
        topology = mdtraj.load_topology(str(topology_path), standard_names=False)
    positions, boxes, times = read_bead_trajectory(path, topology)
    return Trajectory(positions, boxes, [atom.name for atom in topology.atoms], times)
