"""Stage 4: the student, on the teachers' labels or, for comparison, on the mapped forces themselves."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..config import ModelConfig, RunConfig
from ..files import file_hash, write_text
from ..frames import Frames
from ..potential.neighbors import check_cutoff
from ..potential.prior import PriorParameters
from ..progress import log_to, progress
from ..run_folder import RunFolder, Stage
from .checkpoint import load_checkpoint
from .consistency import check_consistency
from .data import FrameGraphs, Targets, load_frames, load_prior, mapped_targets, split_run, target_variances, write_prior
from .fit import BEST, Task, fit
from .label import load_labels, mapped_error, predict

logger = logging.getLogger(__name__)

CONSISTENCY = "consistency.json"


def train_student(run: RunConfig) -> Path:
    """Train the student, or go on training it.

    Writes the best checkpoint, the metrics, and ``consistency.json`` with the force-energy check to `RunFolder.student`.

    Returns
    -------
    Path
        The best checkpoint.

    Raises
    ------
    TrainingError
        If the loss is not finite, a target does not vary, or forces are not the gradient of the energies.
    FramesError
        If labels are missing or belong to other frames.
    BoxError
        If the cutoff exceeds half the smallest box height.
    """
    folder, student = RunFolder(run), run.student
    model = student.model or run.model
    with log_to(folder.log("distill")):
        frames = load_frames(run)
        check_cutoff(frames.box, model.cutoff)
        noisy = student.targets == "noisy"
        if not noisy:
            load_labels(folder.labels, frames)  # refuses labels of other frames before any work
        prior = write_prior(run, frames) if noisy else load_prior(folder.prior)
        inputs = {
            "frames": frames.identity,
            "labels": None if noisy else file_hash(folder.labels),
            "prior": asdict(prior),
            "seed": run.seed,
            "split": run.split,
            "student": student,
            "model": model,
        }
        best, report = folder.student / BEST, folder.student / CONSISTENCY
        stage = Stage(folder, "distill", inputs, [best, report])
        if stage.finished:
            return best
        _train(run, model, frames, prior, stage.fingerprint)
        stage.finish()
    return best


def _targets(run: RunConfig, graphs: FrameGraphs) -> Targets:
    if run.student.targets == "noisy":
        return mapped_targets(graphs)
    labels = load_labels(RunFolder(run).labels, graphs.frames)
    if run.student.targets == "single":
        return Targets(labels.single_forces, labels.single_energies)
    return Targets(labels.forces, labels.energies)


def _train(run: RunConfig, model: ModelConfig, frames: Frames, prior: PriorParameters, fingerprint: str) -> None:
    folder, student = RunFolder(run), run.student
    split = split_run(run, frames)
    graphs = FrameGraphs(frames, model.cutoff, prior)
    targets = _targets(run, graphs)
    task = Task(
        folder=folder.student,
        graphs=graphs,
        targets=targets,
        training=split.training,
        validation=split.validation,
        variances=target_variances(targets, split.training),
        model=model,
        weights=student.weights,
        settings=student.training,
        seed=run.seed + run.teachers.count,  # not a teacher's seed: equal first weights would favour that teacher
        fingerprint=fingerprint,
        metadata={"role": "student", "targets": student.targets},
    )
    with progress("student", student.training.epochs) as meter:
        best = fit(task, meter.update)
        meter.update(student.training.epochs)
    _check(best, graphs, split.validation)


def _check(best: Path, graphs: FrameGraphs, validation: np.ndarray) -> None:
    """Store the consistency of the trained network and log its error against the mapped forces."""
    network, _ = load_checkpoint(best)
    check = check_consistency(network, network.cutoff, graphs.frames, validation)
    logger.info("student: forces against central differences: relative error at most %.1e, RMS %.1e", check.max_error, check.rms_error)
    write_text(best.parent / CONSISTENCY, json.dumps(asdict(check), indent=1))
    rmse, ratio = mapped_error(predict(network, graphs, validation)[0], graphs, validation)
    logger.info(
        "student on %d validation frames: force RMSE against mapped forces %.2f kJ/mol/nm, %.4f of label variance",
        len(validation), rmse, ratio,
    )  # fmt: skip
