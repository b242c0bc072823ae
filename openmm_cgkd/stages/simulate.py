"""Stage 6: coarse-grained molecular dynamics with the student of a run."""

from __future__ import annotations

import json
from pathlib import Path

from openmm import app

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.frames.split import split_frames
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.committee import Committee, SpreadRange
from openmm_cgkd.simulation.dynamics import run_dynamics
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.progress import log_to

from .committee import export_members, labeled_range
from .timestep import simulation_settings


def simulate(run: RunConfig) -> Path:
    """Run the exported student from the last training frame, in the box of that frame.

    Returns the path of the trajectory.

    Raises
    ------
    SimulationError
        If the run explodes, or the teachers disagree and that is to stop it; trajectory and last
        good state are kept.
    """
    folder = RunFolder(run)
    with log_to(folder.log("simulate")):
        potential, protocol = CGPotential(folder.model), simulation_settings(run)
        frames = read_frames(folder.frames)
        start = split_frames(
            frames.time, run.split.validation, run.split.test, run.split.gap
        ).training[-1]
        identity = {
            "model": file_hash(folder.model),
            "frames": frames.identity,
            "start": int(start),
        }
        trajectory = folder.simulation / f"trajectory.{protocol.trajectory}"
        outputs = [
            trajectory,
            folder.simulation / "topology.pdb",
            folder.simulation_report,
        ]
        stage = StageRecord(
            folder, "simulate", {**identity, "simulation": protocol, "seed": run.seed}, outputs
        )
        if not stage.finished:
            topology = bead_topology_to_openmm(frames.beads, frames.box[start])
            system, positions = potential.createSystem(topology), frames.positions[start]
            watch = _committee(run, frames, topology) if protocol.committee else None
            key = json.dumps(identity)
            run_dynamics(
                system,
                topology,
                positions,
                folder.simulation,
                protocol,
                frames.temperature,
                run.seed,
                key,
                watch,
            )
            stage.finish()
    return trajectory


def _committee(
    run: RunConfig, frames: Frames, topology: app.Topology
) -> tuple[Committee, SpreadRange]:
    return Committee(
        export_members(run, frames), topology, platform=run.simulation.platform
    ), labeled_range(run, frames)
