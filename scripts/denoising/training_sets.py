"""The work of the denoising benchmark.

Trajectories of the known truth come first, then the training sets, each in a process of its own.
Training goes through the package's own stages; only the processes are shared, because starting one
per teacher would take as long as a short training.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.config.execution import ExecutionConfig
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.execution.processes import cores
from openmm_cgkd.execution.tasks import map_tasks
from openmm_cgkd.frames.frames import Frames, read_frames, write_frames
from openmm_cgkd.mean_forces.file import MeanForces, read_mean_forces, write_mean_forces
from openmm_cgkd.mean_forces.noise import noise_floor
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.stages.distill import train_student
from openmm_cgkd.stages.inputs import fit_prior_of, load_frames, load_teachers
from openmm_cgkd.stages.label import label_run
from openmm_cgkd.stages.teach import ensemble_task
from openmm_cgkd.training.ensemble import ensemble_forces, train_member
from openmm_cgkd.training.mean_force_test import MeanForceTest
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.task import BEST
from openmm_cgkd.utils.files import file_hash, replacing
from openmm_cgkd.utils.progress import Report, console, progress
from openmm_cgkd.utils.records import read_record, write_record

from .plan import DIRECT, ENSEMBLE, EXTRA, LABELS, TEACHER, Settings, TrainingSet
from .truth import PARAMETERS, add_noise, join_trajectories, sample

ERRORS = "errors.json"


# --- data of the known truth ----------------------------------------------------------------------


def make_data(folder: Path, settings: Settings) -> tuple[dict[tuple[float, int], Path], Path]:
    """Sample the known truth and put noise on it; what exists is kept.

    Returns
    -------
    noisy : dict
        Files of frames by noise level and seed; level 0 are the true forces.
    truth : Path
        True forces of held-out frames, as mean forces without error.
    """
    most = max(settings.frames, *settings.sizes)
    lengths = [
        settings.held_out,
        *(len(part) for part in np.array_split(np.arange(most), settings.trajectories)),
    ]
    paths = [folder / f"trajectory-{k}.h5" for k in range(len(lengths))]
    tasks = {
        path.stem: (path, k + 1, n)
        for k, (path, n) in enumerate(zip(paths, lengths, strict=True))
        if not path.exists()
    }
    _run_tasks(
        "known truth",
        sample,
        tasks,
        {name: arguments[2] for name, arguments in tasks.items()},
        folder / "tasks",
    )
    truth = folder / "held_out.h5"
    if not truth.exists():
        write_mean_forces(truth, _as_mean_forces(read_frames(paths[0])))
    frames = join_trajectories(paths[1:])
    noisy = {}
    for level in (0, *settings.levels):
        for seed in range(1, settings.seeds + 1):
            noisy[level, seed] = folder / f"noise-{level:g}-seed-{seed}.h5"
            if not noisy[level, seed].exists():
                write_frames(add_noise(frames, level, seed), noisy[level, seed])
    return noisy, truth


def _as_mean_forces(frames: Frames) -> MeanForces:
    nothing = np.zeros_like(frames.forces)
    attributes = {"temperature": PARAMETERS["temperature"]}
    return MeanForces(
        frames.positions, frames.forces, nothing, frames.box, frames.time, frames.beads, attributes
    )


def _run_tasks(
    title: str,
    function: Callable[..., Any],
    tasks: dict[str, tuple],
    costs: dict[str, float],
    folder: Path,
) -> None:
    """Tasks side by side, the longest first, with progress in units of `costs`."""
    done = dict.fromkeys(tasks, 0.0)
    with progress(title, sum(costs.values()), "passes over a frame") as meter:

        def report(name: str, share: float, note: str) -> None:
            done[name] = share * costs[name]
            meter.update(sum(done.values()), f"{name}: {note}")

        ordered = dict(sorted(tasks.items(), key=lambda item: -costs[item[0]]))
        map_tasks(
            function,
            ordered,
            ExecutionConfig(),
            folder,
            cores(),
            lambda name, _: report(name, 1.0, "finished"),
            report,
        )


# --- training sets --------------------------------------------------------------------------------


def run_training_sets(training_sets: list[TrainingSet], folder: Path) -> None:
    """Train and measure every training set that is not finished.

    Raises
    ------
    ExecutionError
        If training sets failed; the others are finished first and kept.
    """
    left = [training_set for training_set in training_sets if not finished(training_set)]
    costs = {training_set.name: sum(training_set.costs.values()) for training_set in left}
    _run_tasks(
        "trainings",
        work,
        {training_set.name: (training_set,) for training_set in left},
        costs,
        folder / "tasks",
    )


def _inputs(training_set: TrainingSet) -> dict[str, Any]:
    run = next(iter(training_set.variants.values()))
    return {
        "frames": file_hash(RunFolder(run).frames),
        "mean_forces": file_hash(training_set.mean_forces),
    }


def finished(training_set: TrainingSet) -> bool:
    path = training_set.folder / ERRORS
    return path.exists() and read_record(path)["inputs"] == _inputs(training_set)


def work(training_set: TrainingSet, report: Report) -> None:
    """Train and measure one training set; what an interruption has left is kept."""
    # several bars on one terminal destroy each other
    if multiprocessing.parent_process() is not None:
        console.file = open(os.devnull, "w")  # noqa: SIM115  open as long as the process
    done, costs = 0.0, training_set.costs
    whole = sum(costs.values())
    for name, cost in costs.items():
        step = partial(_report_part, report, name, done / whole, cost / whole)
        if name in training_set.variants:
            _train_variant(training_set, name)
        else:
            _train_teacher(training_set.teachers, int(name.split()[-1]), step)
        done += cost
        report(done / whole, name)
    write_record(
        training_set.folder / ERRORS,
        {"inputs": _inputs(training_set), "errors": measure(training_set)},
    )


def _report_part(
    report: Report, name: str, done: float, part: float, share: float, note: str
) -> None:
    """Report a share of one part of the work; `done` and `part` are shares of the whole."""
    report(done + part * min(share, 1.0), name)


def _train_teacher(run: RunConfig, k: int, report: Report) -> None:
    """Train one teacher as `train_teachers` does, in this process."""
    folder, frames = RunFolder(run), load_frames(run)
    inputs = {
        "frames": frames.identity,
        "run": run.model_dump(mode="json", include={"seed", "split", "model", "prior", "teachers"}),
    }
    stage = StageRecord(
        folder, f"teacher-{k:02d}", inputs | {"member": k}, [folder.teacher(k) / BEST, folder.prior]
    )
    if not stage.finished:
        fit_prior_of(run, frames)
        train_member(ensemble_task(run), k, report)
        stage.finish()


def _train_variant(training_set: TrainingSet, name: str) -> None:
    run = training_set.variants[name]
    if name != DIRECT:
        label_run(training_set.teachers)
        source, folder = RunFolder(training_set.teachers), RunFolder(run)
        copies = [(source.labels, folder.labels), (source.prior, folder.prior)]
        if name == EXTRA:
            copies.append((source.extra_labels, folder.extra_labels))
        for original, copy in copies:
            with replacing(copy) as fresh:
                shutil.copyfile(original, fresh)
    train_student(run)


def measure(training_set: TrainingSet) -> dict[str, dict[str, float]]:
    """RMSE of the forces against the true or mean forces, kJ/mol/nm, by variant.

    With its standard error over configurations.
    Of the single teachers it is the mean of their RMSE.
    """
    run = next(iter(training_set.variants.values()))
    frames = load_frames(run)
    mean_forces = read_mean_forces(training_set.mean_forces)
    noise = frames.attributes.get("noise_rms")
    if noise is None:
        noise = noise_floor(frames, mean_forces)[-1].noise ** 0.5
    found = {LABELS: {"rmse": float(noise)}}
    if training_set.teachers is not None:
        ensemble = load_teachers(training_set.teachers, frames)
        test = MeanForceTest(mean_forces, frames, ensemble.cutoff, ensemble.prior)
        forces = ensemble_forces(ensemble, test.graphs)
        singles = [_errors(test, single) for single in forces]
        found[TEACHER] = {
            key: float(np.mean([single[key] for single in singles])) for key in ("rmse", "error")
        }
        found[ENSEMBLE] = _errors(test, forces.mean(axis=0))
    for name, run in training_set.variants.items():
        network, _ = load_checkpoint(RunFolder(run).student / BEST)
        test = MeanForceTest(mean_forces, frames, network.cutoff, read_prior(RunFolder(run).prior))
        found[name] = _errors(test, predict(network, test.graphs, range(len(test.graphs)))[0])
    return found


def _errors(test: MeanForceTest, forces: np.ndarray) -> dict[str, float]:
    errors = test.errors(forces)
    return {"rmse": errors["mean_force_rmse"], "error": errors["mean_force_rmse_se"]}
