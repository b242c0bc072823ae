"""Stage 2: the ensemble of force-matching teachers.

Members differ by seed and by resampled training blocks, and train side by side; see `execution` for
what that asks of a script.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from openmm_cgkd.config.run import LossWeights, RunConfig
from openmm_cgkd.execution.processes import cores
from openmm_cgkd.execution.tasks import map_tasks
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.training.batches import resample_blocks
from openmm_cgkd.training.callbacks import BEST
from openmm_cgkd.training.fit import TrainingTask, fit
from openmm_cgkd.training.graphs import (
    FrameGraphs,
    load_frames,
    load_prior,
    mapped_targets,
    split_run,
    target_variances,
    write_prior,
)
from openmm_cgkd.training.mean_force_test import load_mean_force_test
from openmm_cgkd.utils.progress import Report, log_to, progress

logger = logging.getLogger(__name__)

FORCES_ONLY = LossWeights(force=1.0, energy=0.0, bead_energy=0.0)


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
    with log_to(folder.log("teach")):
        frames = load_frames(run)
        check_cutoff(frames.box, run.model.cutoff)
        split = split_run(run, frames)
        # refuses too few frames before any work
        resample_blocks(split.training, run.teachers.blocks, run.seed)
        best = [folder.teacher(k) / BEST for k in range(run.teachers.count)]
        inputs = _inputs(run, frames)
        stage = StageRecord(
            folder, "teach", {**inputs, "count": run.teachers.count}, [*best, folder.prior]
        )
        if stage.finished:
            return best
        logger.info(
            "teachers: %d members, %d training, %d validation and %d test frames of %d beads",
            len(best), len(split.training), len(split.validation), len(split.test),
            frames.beads.n_beads,
        )  # fmt: skip
        # logs the noise floor
        load_mean_force_test(run, frames, run.model.cutoff, write_prior(run, frames))
        _train_members(
            run,
            [
                StageRecord(folder, f"teacher-{k:02d}", {**inputs, "member": k}, [best[k]])
                for k in range(len(best))
            ],
        )
        stage.finish()
    return best


def _inputs(run: RunConfig, frames: Frames) -> dict[str, Any]:
    """What a member's result depends on, apart from its number."""
    return {
        "frames": frames.identity,
        "seed": run.seed,
        "split": run.split,
        "model": run.model,
        "prior": run.prior,
        "blocks": run.teachers.blocks,
        "training": run.teachers.training,
    }


def train_member(run: RunConfig, k: int, fingerprint: str, report: Report) -> Path:
    """Train member `k` of the ensemble in this process; `report` as in `fit`."""
    folder = RunFolder(run)
    frames = load_frames(run)
    split = split_run(run, frames)
    prior = load_prior(folder.prior)
    graphs = FrameGraphs(frames, run.model.cutoff, prior)
    targets = mapped_targets(graphs)
    seed = run.seed + k
    task = TrainingTask(
        folder=folder.teacher(k),
        graphs=graphs,
        targets=targets,
        training=resample_blocks(split.training, run.teachers.blocks, seed),
        validation=split.validation,
        variances=target_variances(targets, split.training),
        model=run.model,
        weights=FORCES_ONLY,
        settings=run.teachers.training,
        seed=seed,
        fingerprint=fingerprint,
        identity=frames.identity,
        metadata={
            "role": "teacher",
            "member": k,
            "targets": "noisy",
            "blocks": run.teachers.blocks,
        },
        mean_forces=load_mean_force_test(run, frames, run.model.cutoff, prior),
        tensorboard=run.tensorboard,
    )
    return fit(task, report)


def _train_and_log(run: RunConfig, k: int, fingerprint: str, report: Report) -> None:
    """`train_member` in a process of its own, whose log goes to the member's folder."""
    torch.set_num_threads(_threads(run))
    with log_to(RunFolder(run).teacher(k) / "train.log"):
        train_member(run, k, fingerprint, report)


def _at_once(run: RunConfig) -> int | None:
    """Members that train at a time on this machine; None leaves it to Parsl."""
    if run.workers or run.execution.backend == "parsl":
        return run.workers
    # one network at a time fills a GPU's queue; CPU members are independent jobs
    return 1 if torch.cuda.is_available() else max(1, cores() // run.teachers.training.devices)


def _threads(run: RunConfig) -> int:
    """Threads of each member; independent of which members are finished, because rounding
    depends on threads.
    """
    at_once = len(run.execution.accelerators) or _at_once(run) or cores()
    return max(1, cores() // min(at_once, run.teachers.count))


def _train_members(run: RunConfig, members: list[StageRecord]) -> None:
    """Train every member that is not finished; one that fails is tried again, the others go on."""
    count, epochs = len(members), float(run.teachers.training.epochs)
    names = [f"teacher-{k:02d}" for k in range(count)]
    done = {names[k]: epochs if members[k].finished else 0.0 for k in range(count)}
    tasks = {
        names[k]: (run, k, members[k].fingerprint) for k in range(count) if done[names[k]] == 0
    }
    with progress("teachers", count * epochs, sum(done.values())) as meter:

        def report(name: str, share: float, note: str) -> None:
            done[name] = share * epochs
            meter.update(sum(done.values()), note)

        def finished(name: str, _: None) -> None:
            members[names.index(name)].finish()
            report(name, 1.0, "")

        map_tasks(
            _train_and_log,
            tasks,
            run.execution,
            RunFolder(run).tasks("teach"),
            _at_once(run),
            finished,
            report,
        )
