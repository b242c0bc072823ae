"""The stages as one run: each skips what is finished and resumes what was interrupted."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.system import load_system
from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.utils.files import file_hash

logger = logging.getLogger(__name__)

# ps, time step of on-policy rounds where none is given: no search for a student that is about to be
# replaced
_CAREFUL = 0.002


def run_all(run: RunConfig) -> None:
    """Run every stage in order; the all-atom stage only if the configuration names no frames,
    training only if no potential.

    Parameters
    ----------
    run : RunConfig

    Raises
    ------
    CGKDError
        Of whichever stage cannot go on; a second call resumes there.
    """
    if run.frames is None:
        from openmm_cgkd.allatom.run import run_reference

        run_reference(load_system(run.path(run.system)), RunFolder(run).reference)
    for name, stage in _stages(training=run.potential is None).items():
        logger.info("%s", name)
        stage(run)


def _stages(training: bool) -> dict[str, Callable[[RunConfig], object]]:
    """Stages after the all-atom one, in order; imported here because they load torch."""
    from .compare import compare
    from .simulate import simulate

    last = {"simulate": simulate, "compare": compare}
    if not training:
        return last
    from openmm_cgkd.potential.export import export_student

    from .label import label_frames
    from .teach import train_teachers

    return {
        "teach": train_teachers,
        "label": label_frames,
        "distill": distill,
        "export": export_student,
        **last,
    }


def distill(run: RunConfig) -> Path:
    """Train the student, with the on-policy rounds that the configuration asks for; returns its
    checkpoint.
    """
    from .on_policy import train_on_policy

    return train_on_policy(run, simulate_student)


def simulate_student(run: RunConfig, checkpoint: Path, folder: Path) -> Path:
    """Dynamics with the student of a checkpoint for an on-policy round, from the last training
    frame; returns the trajectory.

    A student that explodes is what such a round is for: what it has written until then is returned.
    """
    from openmm_cgkd.frames.frames import read_frames
    from openmm_cgkd.potential.checkpoint import load_checkpoint
    from openmm_cgkd.potential.export import type_masses, write_potential
    from openmm_cgkd.potential.metadata import PotentialMetadata
    from openmm_cgkd.potential.prior import read_prior
    from openmm_cgkd.simulation.cgpotential import CGPotential
    from openmm_cgkd.simulation.dynamics import run_dynamics
    from openmm_cgkd.simulation.topology import bead_topology_to_openmm

    from .inputs import split_run

    frames, prior = read_frames(RunFolder(run).frames), read_prior(RunFolder(run).prior)
    network, stored = load_checkpoint(checkpoint)
    facts = {
        "type_names": list(stored["type_names"]),
        "masses": type_masses(frames.beads),
        "cutoff": network.cutoff,
    }
    metadata = PotentialMetadata(**facts, prior=prior.as_dict(), network=stored["model"])
    start = split_run(run, frames).training[-1]
    positions, box, model = frames.positions[start], frames.box[start], folder / "student.pt"
    write_potential(
        model, network, prior, metadata, frames.beads.types, positions, box, frames.beads.bonds
    )
    topology = bead_topology_to_openmm(frames.beads, box)
    system = CGPotential(model).createSystem(topology)
    settings = run.student.on_policy
    timestep = run.simulation.timestep or _CAREFUL
    # at least one time step between snapshots
    interval = max(settings.production / settings.snapshots, timestep)
    changes = {
        "timestep": timestep,
        "production": settings.production,
        "frame_interval": interval,
        "pressure": None,
        "committee": None,
    }
    protocol = run.simulation.model_copy(update=changes)
    trajectory = folder / f"trajectory.{protocol.trajectory}"
    try:
        run_dynamics(
            system,
            topology,
            positions,
            folder,
            protocol,
            frames.temperature,
            run.seed,
            file_hash(checkpoint),
        )
    except SimulationError as error:
        if not trajectory.exists():
            raise
        logger.warning("on-policy simulation: %s", error)
    return trajectory


def summary(run: RunConfig) -> list[tuple[str, str]]:
    """Labels and values of what a finished run has made: paths, RDF errors, speed.

    Parameters
    ----------
    run : RunConfig
        Finished by `run_all`.
    """
    folder = RunFolder(run)
    report = json.loads((folder.comparison / "comparison.json").read_text())
    speed = json.loads((folder.simulation / "simulation.json").read_text())
    rows = [
        ("student", str(folder.model)),
        ("trajectory", str(folder.simulation / f"trajectory.{run.simulation.trajectory}")),
        ("report picture", str(folder.comparison / "rdf.png")),
        ("", ""),
        ("pair", "RDF error (mean |g_CG - g_AA|), and all-atom halves against each other"),
    ]
    for pair in (*report["pairs"], {"types": ["mean of all"], **report["mean"]}):
        rows.append(
            (
                "-".join(pair["types"]),
                f"{pair['mean_absolute_error']:.3f}   {pair['all_atom_halves']:.3f}",
            )
        )
    return [
        *rows,
        ("", ""),
        ("speed", f"{speed['ns_per_day']:.3g} ns/day on {speed['platform']}"),
        ("time per step", f"{speed['step_time_ms']:.3g} ms"),
        ("temperature", f"{speed['mean_temperature']:.1f} K, set {speed['temperature']:g} K"),
    ]
