"""Stage 4: the student, on the teachers' labels or, for comparison, on the mapped forces
themselves.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np

from openmm_cgkd.config.run import ModelConfig, RunConfig
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.training.callbacks import BEST
from openmm_cgkd.training.checkpoint import load_checkpoint
from openmm_cgkd.training.configurations import join, without_forces
from openmm_cgkd.training.fit import TrainingTask, fit
from openmm_cgkd.training.gradient_check import check_consistency
from openmm_cgkd.training.graphs import (
    FrameGraphs,
    Targets,
    load_frames,
    load_prior,
    mapped_targets,
    split_run,
    target_variances,
    write_prior,
)
from openmm_cgkd.training.labels import Labels, load_labels, refuse_stale
from openmm_cgkd.training.mean_force_test import load_mean_force_test
from openmm_cgkd.training.predict import predict
from openmm_cgkd.utils.files import file_hash, write_text
from openmm_cgkd.utils.progress import log_to, progress

from .label import mapped_error

logger = logging.getLogger(__name__)

CONSISTENCY = "consistency.json"


def train_student(run: RunConfig, round_: int = 0) -> Path:
    """Train the student, or go on training it.

    Writes the best checkpoint, the metrics, and ``consistency.json`` with the force-energy check to
    `RunFolder.student_of_round`.

    Parameters
    ----------
    run : RunConfig
    round_ : int
        On-policy round, whose labels and those of the rounds before it exist; 0: before the first
        one.

    Returns
    -------
    Path
        The best checkpoint.

    Raises
    ------
    TrainingError
        If loss or gradient are not finite, memory runs out, a target does not vary, or forces are
        not the gradient of the energies.
    FramesError
        If labels are missing, belong to other frames, or are of other teachers than those in the
        run folder.
    BoxError
        If the cutoff exceeds half the smallest box height.
    """
    folder, student = RunFolder(run), run.student
    model = student.model or run.model
    with log_to(folder.log("distill")):
        frames = load_frames(run)
        check_cutoff(frames.box, model.cutoff)
        noisy = student.targets == "noisy"
        sources = [] if noisy else _label_files(run, round_)
        for path in sources:  # refuses labels of other frames or teachers before any work
            refuse_stale(path, load_labels(path, frames).attributes, folder)
        prior = write_prior(run, frames) if noisy else load_prior(folder.prior)
        inputs = {
            "frames": frames.identity,
            "labels": [file_hash(path) for path in sources],
            "prior": prior.as_dict(),
            "seed": run.seed,
            "split": run.split,
            # those are in the labels
            "student": student.model_dump(
                mode="json", exclude={"extra", "on_policy", "max_spread"}
            ),
            "model": model,
        }
        output = folder.student_of_round(round_)
        stage = StageRecord(
            folder,
            "distill" if round_ == 0 else f"distill-{round_:02d}",
            inputs,
            [output / BEST, output / CONSISTENCY],
        )
        if not stage.finished:
            _train(run, output, model, frames, prior, sources, stage.fingerprint)
            stage.finish()
    return output / BEST


def _label_files(run: RunConfig, round_: int) -> list[Path]:
    """Labels of the frames, then those of configurations beyond them."""
    folder = RunFolder(run)
    extra = (
        [folder.extra_labels]
        if run.student.extra.trajectories or run.student.extra.perturbed
        else []
    )
    return [
        folder.labels,
        *extra,
        *(folder.on_policy(k) / "labels.h5" for k in range(1, round_ + 1)),
    ]


def _configurations(frames: Frames, labels: list[Labels]) -> Frames:
    """The frames, followed by the labelled configurations beyond them."""
    return (
        join([frames, *(without_forces(part.positions, part.box, frames) for part in labels[1:])])
        if len(labels) > 1
        else frames
    )


def _label_targets(run: RunConfig, labels: list[Labels], training: np.ndarray) -> Targets:
    """Targets, and weights where beads on which the teachers disagree shall count less."""
    prefix = "single_" if run.student.targets == "single" else ""
    names = (f"{prefix}forces", f"{prefix}energies", "force_spread", "energy_spread")
    forces, energies, *spreads = (
        np.concatenate([getattr(part, name) for part in labels]) for name in names
    )
    weights = (
        [spread_weights(spread, training) for spread in spreads]
        if run.student.spread_weights
        else [None, None]
    )
    return Targets(forces, energies, *weights)


def spread_weights(spread: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Weights 1 / (1 + s^2 / <s^2>) of beads, with mean 1; s is the teachers' spread and < > the
    mean over the training frames.

    The inverse variance of a label whose error has a part common to all beads and a part given by
    the spread, both equal where the spread is typical. Without the common part the few beads on
    which teachers agree by chance would dominate.

    Parameters
    ----------
    spread : ndarray, shape (n_frames, n_beads)
    training : ndarray of int
    """
    squares = spread.astype(float) ** 2
    typical = squares[training].mean()
    weights = 1 / (1 + squares / typical) if typical > 0 else np.ones_like(squares)
    return weights / weights[training].mean()


def _train(
    run: RunConfig,
    output: Path,
    model: ModelConfig,
    frames: Frames,
    prior: PriorParameters,
    sources: list[Path],
    fingerprint: str,
) -> None:
    student, split = run.student, split_run(run, frames)
    labels = [load_labels(path, frames) for path in sources]
    graphs = FrameGraphs(_configurations(frames, labels), model.cutoff, prior)
    targets = _label_targets(run, labels, split.training) if labels else mapped_targets(graphs)
    beyond = np.arange(len(frames), len(graphs))
    task = TrainingTask(
        folder=output,
        graphs=graphs,
        targets=targets,
        training=np.concatenate([split.training, beyond]),
        validation=split.validation,
        variances=target_variances(targets, split.training),
        model=model,
        weights=student.weights,
        settings=student.training,
        # not a teacher's seed: equal first weights would favour that teacher
        seed=run.seed + run.teachers.count,
        fingerprint=fingerprint,
        identity=frames.identity,
        metadata={
            "role": "student",
            "targets": student.targets,
            "configurations_beyond_frames": len(beyond),
        },
        mean_forces=load_mean_force_test(run, frames, model.cutoff, prior),
        tensorboard=run.tensorboard,
    )
    if len(beyond):
        logger.info(
            "student: %d training frames and %d configurations beyond them",
            len(split.training),
            len(beyond),
        )
    epochs = student.training.epochs
    with progress("student", epochs) as meter:
        best = fit(task, lambda share, note: meter.update(share * epochs, note))
        meter.update(epochs)
    _check(best, graphs, split.validation)


def _check(best: Path, graphs: FrameGraphs, validation: np.ndarray) -> None:
    """Store the consistency of the trained network and log its error against the mapped forces."""
    network, _ = load_checkpoint(best)
    check = check_consistency(network, network.cutoff, graphs.frames, validation)
    logger.info(
        "student: forces against central differences: relative error at most %.1e, RMS %.1e",
        check.max_error,
        check.rms_error,
    )
    write_text(best.parent / CONSISTENCY, json.dumps(asdict(check), indent=1))
    rmse, ratio = mapped_error(predict(network, graphs, validation)[0], graphs, validation)
    logger.info(
        "student on %d validation frames: force RMSE against mapped forces %.2f kJ/mol/nm, "
        "%.4f of label variance",
        len(validation), rmse, ratio,
    )  # fmt: skip
