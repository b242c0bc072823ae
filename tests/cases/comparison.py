"""All-atom frames and coarse-grained run folders of a toy liquid, for comparisons."""

from __future__ import annotations

import mdtraj
import numpy as np

from openmm_cgkd.frames.frames import FrameWriter
from openmm_cgkd.stages.compare import comparison_settings
from tests.cases.liquids import beads_of

NAMES = ("CHO", "CL")
BEADS = beads_of(12, 18, names=NAMES)
SETTINGS = comparison_settings(bins=60, r_max="0.99 nm")
BOX = 2 * np.eye(3)


def write_run(
    folder,
    positions: np.ndarray,
    interval: float = 0.5,
    names=NAMES,
    counts=(12, 18),
    length: float = 2.0,
):
    """Trajectory, topology and log as the simulation stage leaves them."""
    simulation = folder / "simulation"
    simulation.mkdir(parents=True)
    n = len(positions)
    trajectory = mdtraj.Trajectory(
        positions,
        beads_of(*counts, names=names).to_mdtraj(),
        unitcell_lengths=np.full((n, 3), length),
        unitcell_angles=np.full((n, 3), 90.0),
    )
    trajectory[0].save_pdb(simulation / "topology.pdb")
    trajectory.save_dcd(simulation / "trajectory.dcd")
    (simulation / "state.csv").write_text(
        '#"Step","Time (ps)"\n' + "".join(f"{k},{interval * (k + 1)}\n" for k in range(n))
    )
    return folder


def write_frames(path, positions: np.ndarray, times: np.ndarray | None = None):
    with FrameWriter(path, BEADS, {"system": "toy", "temperature": 300.0}) as writer:
        for k, frame in enumerate(positions):
            writer.append(
                frame, np.zeros_like(frame), BOX, float(k if times is None else times[k]), k
            )
    return path
