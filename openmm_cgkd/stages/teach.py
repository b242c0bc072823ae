"""Stage 2: the ensemble of force-matching teachers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.training.batches import frames_of_teacher
from openmm_cgkd.training.ensemble import EnsembleTask, drawn_frames, train_ensemble
from openmm_cgkd.training.resume import move_damaged_aside
from openmm_cgkd.training.task import BEST

from .inputs import fit_prior_of, load_frames, mean_forces_of, split_run


def train_teachers(run: RunConfig) -> list[Path]:
    """Train the ensemble; finished members are kept, half-finished ones resumed.

    Writes the pair prior (`RunFolder.prior`) and one folder per member.

    Returns
    -------
    list of Path
        Best checkpoint of every member.

    Raises
    ------
    ExecutionError
        If a member fails again and again; the others are finished first and kept.
    TrainingError
        If there are fewer training frames than blocks.
    BoxError
        If the cutoff exceeds half the smallest box height.
    FramesError
        If the frames are missing, damaged or too few to split.
    """
    folder = RunFolder(run)
    with folder.at_work("teach"):
        frames = load_frames(run)
        # refuse before any file is written
        check_cutoff(frames.box, run.model.cutoff)
        frames_of_teacher(run.teachers, split_run(run, frames).training, run.seed)
        best = [folder.teacher(k) / BEST for k in range(run.teachers.count)]
        inputs = {
            "frames": frames.identity,
            "seed": run.seed,
            "split": run.split,
            "model": run.model,
            "prior": run.prior,
            **drawn_frames(run.teachers),
            "training": run.teachers.training,
            "count": run.teachers.count,
        }
        move_damaged_aside(*best)
        stage = StageRecord(folder, "teach", inputs, [*best, folder.prior])
        if not stage.finished:
            train_ensemble(
                frames,
                folder.teachers,
                fit_prior_of(run, frames),
                run.model,
                run.teachers,
                run.split,
                seed=run.seed,
                mean_forces=mean_forces_of(run),
                workers=run.workers,
                execution=run.execution,
                reader=partial(load_frames, run),
                tasks=folder.tasks("teach"),
                tensorboard=run.tensorboard,
            )
            stage.finish()
    return best


def ensemble_task(run: RunConfig) -> EnsembleTask:
    """What the members of a run's ensemble share, to train one of them in this process.

    The prior of the run must exist.
    """
    folder = RunFolder(run)
    return EnsembleTask(
        folder.teachers,
        partial(load_frames, run),
        read_prior(folder.prior),
        run.model,
        run.teachers,
        run.split,
        run.seed,
        mean_forces_of(run),
        run.tensorboard,
    )
