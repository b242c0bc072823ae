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
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.training.configurations import label_beyond, snapshots
from openmm_cgkd.training.ensemble import load_ensemble
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.progress import log_to

from .distill import train_student
from .inputs import load_frames

logger = logging.getLogger(__name__)

# simulates with the student of a checkpoint and returns the trajectory; takes run, checkpoint and
# folder
Sampler = Callable[[RunConfig, Path, Path], Path]


def train_on_policy(run: RunConfig, sample: Sampler) -> Path:
    """Train the student, then again in every on-policy round, from fresh weights, on all labels
    gathered so far.

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
    best = train_student(run)
    for k in range(1, run.student.on_policy.rounds + 1):
        with log_to(RunFolder(run).log("distill")):
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
    }
    inputs |= {"simulation": run.simulation, "seed": run.seed}

    def configurations():
        return snapshots(sample(run, student, folder / "simulation"), frames, settings.snapshots)

    label_beyond(
        run,
        frames,
        load_ensemble(run, frames),
        f"on-policy-{k:02d}",
        inputs,
        configurations,
        folder / "labels.h5",
    )
