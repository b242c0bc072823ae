"""Small liquids of beads and run folders around them."""

from __future__ import annotations

import mdtraj
import numpy as np

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.frames.frames import FrameWriter
from openmm_cgkd.mapping.beads import BeadTopology


def beads_of(*counts: int, names: tuple[str, ...] = ("A", "B", "C")) -> BeadTopology:
    types = np.repeat(np.arange(len(counts)), counts)
    return BeadTopology(
        names[: len(counts)], types, np.full(len(types), 20.0), np.arange(len(types))
    )


def liquid(n_frames: int, seed: int, diameter: float = 0.35) -> np.ndarray:
    """Hard-sphere-like configurations of 30 beads in a box of 2 nm.

    By random insertion without overlap.
    """
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(n_frames):
        placed = np.empty((0, 3))
        while len(placed) < 30:
            point = rng.uniform(0, 2, 3)
            delta = placed - point
            if np.all(np.linalg.norm(delta - 2 * np.round(delta / 2), axis=1) > diameter):
                placed = np.vstack([placed, point])
        frames.append(placed)
    return np.array(frames)


def make_run(
    folder,
    aa,
    cg,
    *,
    names=("CHO", "CL"),
    cg_names=None,
    cg_length=2.0,
    counts=(12, 18),
    suffix="dcd",
    **comparison,
):
    """A run folder as the stages before leave it."""
    beads = beads_of(*counts, names=names)
    with FrameWriter(
        folder / "frames.h5", beads, {"system": "toy", "temperature": 300.0}
    ) as writer:
        for k, positions in enumerate(aa):
            writer.append(positions, np.zeros_like(positions), 2 * np.eye(3), float(k), k)
    simulation = folder / "run" / "simulation"
    simulation.mkdir(parents=True)
    trajectory = mdtraj.Trajectory(
        cg,
        beads_of(*counts, names=cg_names or names).to_mdtraj(),
        unitcell_lengths=np.full((len(cg), 3), cg_length),
        unitcell_angles=np.full((len(cg), 3), 90.0),
    )
    trajectory[0].save_pdb(simulation / "topology.pdb")
    trajectory.save(str(simulation / f"trajectory.{suffix}"))
    data = {
        "system": "system.yaml",
        "folder": "run",
        "frames": "frames.h5",
        "simulation": {"trajectory": suffix},
    }
    return parse(
        RunConfig,
        data | {"comparison": {"bins": 40, **comparison}},
        "run.yaml",
        folder,
    )
