"""The student: on the teachers' labels or, for comparison, on the mapped forces themselves."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np

from openmm_cgkd.config.run import LossWeights, ModelConfig, SplitConfig, TrainingConfig
from openmm_cgkd.config.section import fingerprint
from openmm_cgkd.exceptions import FramesError, TrainingError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.split import apply_split
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.custom_network import CustomNetwork, NetworkSettings, describe_network
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.potential.prior import PriorParameters
from openmm_cgkd.utils.files import file_hash
from openmm_cgkd.utils.progress import progress
from openmm_cgkd.utils.records import write_record

from .configurations import join, without_forces
from .gradient_check import check_consistency
from .graphs import FrameGraphs
from .held_out import evaluate_student
from .labeling import mapped_error
from .labels import Labels, load_labels
from .mean_force_test import load_mean_force_test
from .predict import predict
from .targets import label_targets, mapped_targets, target_variances
from .task import CONSISTENCY, FORCES_ONLY, TrainingTask

logger = logging.getLogger(__name__)


def distill(
    frames: Frames,
    labels: Path | str | Sequence[Path | str],
    folder: Path | str,
    prior: PriorParameters,
    model: NetworkSettings | None = None,
    training: TrainingConfig | None = None,
    weights: LossWeights | None = None,
    split: SplitConfig | None = None,
    *,
    targets: Literal["ensemble", "single", "noisy"] = "ensemble",
    spread_weights: bool = False,
    seed: int = 1001,
    mean_forces: Path | str | None = None,
    tensorboard: bool = False,
    evaluate: bool = True,
) -> Path:
    """Train the student, or go on training it.

    Parameters
    ----------
    frames : Frames
        Mapped all-atom frames.
    labels : path or sequence of path
        Labels of the frames by `label_frames`, then of configurations beyond them by
        `label_configurations`; an empty list for ``targets="noisy"``.
    folder : path
        Gets ``best.pt``, ``metrics.csv``, ``consistency.json``, the check of forces against
        differences of the energies, and ``test.json``, the errors on the test part.
    prior : PriorParameters
        The one of the teachers.
    model : ModelConfig or CustomNetwork, optional
    training : TrainingConfig, optional
    weights : LossWeights, optional
        Without energies for ``targets="noisy"``.
    split : SplitConfig, optional
        As for the teachers and the labels.
    targets : {"ensemble", "single", "noisy"}
        The teachers' mean, the first teacher alone, or the mapped forces themselves, which is
        direct force matching.
    spread_weights : bool
        Beads on which the teachers disagree count less in the loss.
    seed : int
        Should not be that of a teacher: equal first weights would favour that teacher.
    mean_forces : path, optional
        Mean-force frames, to report errors that are free of noise.
    tensorboard : bool
        Also write the metrics for TensorBoard.
    evaluate : bool
        In the end, compare the student with the test part, which nothing else looks at: only for a
        student that is final.

    Returns
    -------
    Path
        The checkpoint with the smallest validation loss.

    Raises
    ------
    TrainingError
        If targets and weights or labels do not fit each other, loss or gradient are not finite,
        memory runs out, a target does not vary, or forces are not the gradient of the energies.
    FramesError
        If labels are missing, belong to other frames, or were made with another prior.
    BoxError
        If the cutoff exceeds half the smallest box height.
    """
    folder, model = Path(folder), model or ModelConfig()
    training, split = training or TrainingConfig(), split or SplitConfig()
    noisy = targets == "noisy"
    weights = weights or (FORCES_ONLY if noisy else LossWeights())
    files = [Path(labels)] if isinstance(labels, Path | str) else [Path(path) for path in labels]
    _check_targets(noisy, files, weights)
    check_cutoff(frames.box, model.cutoff)
    parts = apply_split(frames, split)
    read = [_read_labels(path, frames, prior) for path in files]
    graphs = FrameGraphs(labeled_configurations(frames, read), model.cutoff, prior)
    wanted = (
        mapped_targets(graphs)
        if noisy
        else label_targets(read, parts.training, targets == "single", spread_weights)
    )
    beyond = np.arange(len(frames), len(graphs))
    inputs = {
        "frames": frames.identity,
        "labels": [file_hash(path) for path in files],
        "prior": prior.as_dict(),
        "seed": seed,
        "split": split,
        "model": describe_network(model),
        "targets": targets,
        "weights": weights,
        "spread_weights": spread_weights,
        "training": training,
    }
    task = TrainingTask(
        folder=folder,
        graphs=graphs,
        targets=wanted,
        training=np.concatenate([parts.training, beyond]),
        validation=parts.validation,
        variances=target_variances(wanted, parts.training),
        model=model,
        weights=weights,
        settings=training,
        seed=seed,
        fingerprint=fingerprint(inputs),
        identity=frames.identity,
        metadata={
            "role": "student",
            "targets": targets,
            "configurations_beyond_frames": len(beyond),
        },
        mean_forces=load_mean_force_test(mean_forces, frames, model.cutoff, prior, parts),
        tensorboard=tensorboard,
    )
    if len(beyond):
        logger.info(
            "student: %d training frames and %d configurations beyond them",
            len(parts.training),
            len(beyond),
        )
    with progress("student", training.epochs, "epochs") as meter:
        from .fit import fit  # Lightning, which only training needs

        best = fit(task, lambda share, note: meter.update(share * training.epochs, note))
        meter.update(training.epochs)
    _check(best, graphs, parts.validation, model)
    if evaluate:
        evaluate_student(
            best,
            frames,
            prior,
            files[0] if files else None,
            split,
            mean_forces=mean_forces,
            network=model if isinstance(model, CustomNetwork) else None,
        )
    return best


def _check_targets(noisy: bool, files: list[Path], weights: LossWeights) -> None:
    if noisy and files:
        raise TrainingError(
            f"labels: got {files[0]}, but targets are noisy, the mapped forces themselves; give an"
            " empty list."
        )
    if not noisy and not files:
        raise TrainingError("labels: none given; label the frames first, or set targets to noisy.")
    if noisy and (weights.energy or weights.bead_energy):
        raise TrainingError(
            f"weights: energy is {weights.energy:g} and bead_energy {weights.bead_energy:g}, but"
            " mapped all-atom frames carry no CG energy; with targets noisy set both to 0."
        )


def _read_labels(path: Path, frames: Frames, prior: PriorParameters) -> Labels:
    labels = load_labels(path, frames)
    if labels.attributes.get("prior", prior.identity) != prior.identity:
        raise FramesError(
            f"{path}: made with another pair prior than the one given; give that of the teachers or"
            " label the frames again."
        )
    return labels


def labeled_configurations(frames: Frames, labels: list[Labels]) -> Frames:
    """The frames, followed by the labelled configurations beyond them."""
    beyond = [
        without_forces(part.positions, part.box, frames)
        for part in labels[1:]
        if part.positions is not None and part.box is not None
    ]
    return join([frames, *beyond]) if beyond else frames


def _check(best: Path, graphs: FrameGraphs, validation: np.ndarray, model: NetworkSettings) -> None:
    """Store the consistency of the trained network and log its error against the mapped forces."""
    network, _ = load_checkpoint(best, model if isinstance(model, CustomNetwork) else None)
    check = check_consistency(network, model.cutoff, graphs.frames, validation)
    logger.info(
        "student: forces against central differences: relative error at most %.1e, RMS %.1e",
        check.max_error,
        check.rms_error,
    )
    write_record(best.parent / CONSISTENCY, asdict(check))
    forces, _ = predict(network, graphs, [int(k) for k in validation])
    rmse, ratio = mapped_error(forces, graphs, validation)
    logger.info(
        "student on %d validation frames: force RMSE against mapped forces %.2f kJ/mol/nm, "
        "%.4f of label variance",
        len(validation), rmse, ratio,
    )  # fmt: skip
