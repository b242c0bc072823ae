"""Stage 2: the ensemble of force-matching teachers.

Members differ by seed and by resampled training blocks, and train side by side in processes of their own. The
processes are spawned, so a Python script that calls `train_teachers` needs the ``if __name__ == "__main__":`` guard.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import queue
import threading
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from ..config import LossWeights, RunConfig
from ..exceptions import CGKDError, TrainingError
from ..frames import Frames
from ..potential.neighbors import check_cutoff
from ..progress import log_to, progress
from ..run_folder import RunFolder, Stage
from .data import FrameGraphs, load_frames, load_prior, mapped_targets, resample_blocks, split_run, target_variances, write_prior
from .fit import BEST, Report, Task, fit

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
    TrainingError
        If a member fails twice; the others are finished first and kept.
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
        resample_blocks(split.training, run.teachers.blocks, run.seed)  # refuses too few frames before any work
        best = [folder.teacher(k) / BEST for k in range(run.teachers.count)]
        inputs = _inputs(run, frames)
        stage = Stage(folder, "teach", {**inputs, "count": run.teachers.count}, [*best, folder.prior])
        if stage.finished:
            return best
        logger.info(
            "teachers: %d members, %d training, %d validation and %d test frames of %d beads",
            len(best), len(split.training), len(split.validation), len(split.test), frames.beads.n_beads,
        )  # fmt: skip
        write_prior(run, frames)
        members = [Stage(folder, f"teacher-{k:02d}", {**inputs, "member": k}, [best[k]]) for k in range(len(best))]
        _train_side_by_side(run, members)
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
    graphs = FrameGraphs(frames, run.model.cutoff, load_prior(folder.prior))
    targets = mapped_targets(graphs)
    seed = run.seed + k
    task = Task(
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
        metadata={"role": "teacher", "member": k, "targets": "noisy", "blocks": run.teachers.blocks},
    )
    return fit(task, report)


# --- member processes -------------------------------------------------------------------------------------------------

_reports: Any = None


def _start_worker(reports: Any, lifeline: Connection, threads: int) -> None:
    global _reports
    _reports = reports
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()


def _end_with_parent(lifeline: Connection) -> None:
    """End when the parent closes its side, by intent or by its death; safe at any moment, every epoch is on disk."""
    with contextlib.suppress(EOFError, OSError):
        lifeline.recv()
    os._exit(1)


def _work(run: RunConfig, k: int, fingerprint: str) -> None:
    def report(epochs: float, note: str) -> None:
        _reports.put((k, epochs, note))

    with log_to(RunFolder(run).teacher(k) / "train.log"):
        try:
            train_member(run, k, fingerprint, report)
        except CGKDError:
            raise
        except Exception as error:
            logger.exception("member %d failed", k)
            raise TrainingError(f"{type(error).__name__}: {error}") from error  # some library errors do not survive pickling


def _train_side_by_side(run: RunConfig, members: list[Stage]) -> None:
    """Train every unfinished member; one that fails is tried a second time."""
    count, epochs = len(members), run.teachers.training.epochs
    done = {k: float(epochs) for k in range(count) if members[k].finished}
    with progress("teachers", count * epochs, sum(done.values())) as meter:
        failed: dict[int, BaseException] = {}
        for attempt in (1, 2):
            pending = [k for k in range(count) if k not in done or k in failed]
            failed = _round(run, members, pending, done, meter)
            for k, error in failed.items():
                logger.warning("teacher %d failed%s: %s", k, ", trying again" if attempt == 1 else " again", error)
            if not failed:
                return
    k, error = next(iter(failed.items()))
    raise TrainingError(
        f"{len(failed)} of {count} teachers failed twice, the first is number {k} ({str(error).rstrip('.')}); "
        f"see {RunFolder(run).teacher(k) / 'train.log'}, then run again: finished teachers are kept."
    )


def _round(run: RunConfig, members: list[Stage], pending: list[int], done: dict[int, float], meter: Any) -> dict[int, BaseException]:
    """Train the pending members and return the errors of those that failed."""
    context = multiprocessing.get_context("spawn")
    cores = os.cpu_count() or 1
    # one network at a time fills a GPU's queue; CPU members are independent single-core jobs
    workers = min(run.workers or (1 if torch.cuda.is_available() else cores), max(1, len(pending)))
    reports = context.Queue()
    far, lifeline = context.Pipe(duplex=False)
    failed: dict[int, BaseException] = {}
    threads = 1 if workers > 1 else cores
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(reports, far, threads)) as pool:
        futures: dict[Future, int] = {pool.submit(_work, run, k, members[k].fingerprint): k for k in pending}
        waiting = set(futures)
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
                _drain(reports, done, meter)
                for future in finished:
                    k = futures[future]
                    if (error := future.exception()) is not None:
                        failed[k] = error
                        continue
                    members[k].finish()
                    done[k] = float(run.teachers.training.epochs)
                    meter.update(sum(done.values()))
        except BaseException:
            lifeline.close()  # members end now instead of finishing a run that nobody waits for
            raise
    lifeline.close()
    return failed


def _drain(reports: Any, done: dict[int, float], meter: Any) -> None:
    note = ""
    while True:
        try:
            k, epochs, note = reports.get_nowait()
        except queue.Empty:
            break
        done[k] = epochs
    if done:
        meter.update(sum(done.values()), note)
