"""On-policy rounds: the student visits configurations in its own dynamics, the teachers label them,
the student trains again.

A force field meets in its own simulation what the all-atom data never showed, and its errors there
are what spoils the structure. The teachers can label such configurations as long as they agree on
them. Learning on the configurations that the learner itself reaches, with labels of an expert, is
dataset aggregation (Ross, Gordon and Bagnell, AISTATS 2011).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.export import export_potential
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.simulation.simulate import simulate
from openmm_cgkd.simulation.timestep.criteria import CAREFUL
from openmm_cgkd.training.configurations import snapshots
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.utils.seeds import derived_seed

from .distill import train_student
from .inputs import all_frames, load_frames, load_teachers, split_run
from .label import label_beyond_frames

logger = logging.getLogger(__name__)

# simulates with the student of a checkpoint and returns the trajectory; takes run, checkpoint and
# folder
Sampler = Callable[[RunConfig, Path, Path], Path]


def simulate_student(run: RunConfig, checkpoint: Path, folder: Path) -> Path:
    """Simulate with the student of a checkpoint from the last training frame.

    Returns the trajectory.

    A student that explodes is what such a round is for: what it has written until then is returned.
    """
    files = RunFolder(run)
    frames, model = all_frames(run), folder / "student.pt"
    export_potential(checkpoint, model, frames, read_prior(files.prior), fast=False)
    settings = run.student.on_policy
    # no search for a student that is about to be replaced
    timestep = run.simulation.timestep or CAREFUL
    changes = {
        "timestep": timestep,
        "production": settings.production,
        # at least one time step between snapshots
        "frame_interval": max(settings.production / settings.snapshots, timestep),
        "pressure": None,
        "committee": None,
    }
    protocol = run.simulation.model_copy(update=changes)
    trajectory = folder / f"trajectory.{protocol.trajectory}"
    try:
        simulate(
            model,
            frames,
            folder,
            protocol,
            start=int(split_run(run, frames).training[-1]),
            seed=derived_seed(run.seed, f"on-policy {folder.parent.name}"),
            identity=file_hash(checkpoint),
        )
    except SimulationError as error:
        if not trajectory.exists():
            raise
        logger.warning("on-policy simulation: %s", error)
    return trajectory


def train_on_policy(run: RunConfig, sample: Sampler = simulate_student) -> Path:
    """Train the student, then again in every on-policy round on all labels gathered so far.

    Every training begins with fresh weights.

    Parameters
    ----------
    run : RunConfig
    sample : callable
        Simulates with the student of a checkpoint, goes on with interrupted work, and returns a
        trajectory.

    Returns
    -------
    Path
        Best checkpoint of the last round.

    Raises
    ------
    CGKDError
        Of whichever step cannot go on, for example a `TrainingError` if no visited configuration is
        within the bound on the spread.
    """
    folder = RunFolder(run)
    with locked(folder.root):
        best = train_student(run)
        for k in range(1, run.student.on_policy.rounds + 1):
            with folder.at_work("distill"):
                logger.info("on-policy round %d of %d", k, run.student.on_policy.rounds)
                _label_round(run, k, best, sample)
            best = train_student(run, k)
    return best


def _label_round(run: RunConfig, k: int, student: Path, sample: Sampler) -> None:
    """Label what the student of the round before visits."""
    frames, folder, settings = load_frames(run), RunFolder(run).on_policy(k), run.student.on_policy
    inputs = {
        "student": file_hash(student),
        "on_policy": {"production": settings.production, "snapshots": settings.snapshots},
        "simulation": run.simulation,
        "seed": run.seed,
    }

    def configurations() -> Frames:
        return snapshots(sample(run, student, folder / "simulation"), frames, settings.snapshots)

    label_beyond_frames(
        run,
        frames,
        load_teachers(run, frames),
        f"on-policy-{k:02d}",
        inputs,
        configurations,
        RunFolder(run).on_policy_labels(k),
    )
