"""Stage 6: coarse-grained molecular dynamics with the student of a run."""

from __future__ import annotations

import json
from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.committee import Committee, SpreadRange
from openmm_cgkd.simulation.simulate import simulate
from openmm_cgkd.simulation.start import Known
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils.appended import is_whole
from openmm_cgkd.utils.files import file_hash

from .committee import export_members, labeled_range
from .inputs import all_frames, split_run
from .timestep import simulation_settings


def simulate_run(run: RunConfig) -> Path:
    """Run the exported student from the last training frame, in the box of that frame.

    Returns the path of the trajectory.

    Raises
    ------
    ConfigError
        If the potential was made for another temperature than that of the frames.
    SimulationError
        If the run explodes, or the teachers disagree and that is to stop it; trajectory and last
        good state are kept.
    """
    folder = RunFolder(run)
    with folder.at_work("simulate", folder.simulation):
        potential = CGPotential(folder.model, run_script=run.run_script)
        frames = all_frames(run)
        Known.of(potential).check_temperature(
            frames.temperature, f"{folder.frames} has", run.simulation.other_temperature
        )
        protocol = simulation_settings(run)
        start = int(split_run(run, frames).training[-1])
        identity = {"model": file_hash(folder.model), "frames": frames.identity, "start": start}
        trajectory = folder.simulation / f"trajectory.{protocol.trajectory}"
        outputs = [trajectory, folder.simulation / "topology.pdb", folder.simulation_report]
        inputs = {**identity, "simulation": protocol, "seed": run.seed}
        stage = StageRecord(folder, "simulate", inputs, outputs)
        # files that were damaged since are made again
        if not stage.finished or not is_whole(folder.simulation):
            simulate(
                potential,
                frames,
                folder.simulation,
                protocol,
                start=start,
                seed=run.seed,
                identity=json.dumps(identity),
                committee=_committee(run, frames, start) if protocol.committee else None,
            )
            stage.finish()
    return trajectory


def _committee(run: RunConfig, frames: Frames, start: int) -> tuple[Committee, SpreadRange]:
    topology = bead_topology_to_openmm(frames.beads, frames.box[start])
    members = Committee(export_members(run, frames), topology, platform=run.simulation.platform)
    return members, labeled_range(run, frames)
