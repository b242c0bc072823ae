"""What the stages read: frames, split, prior, teachers and labels of a run."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import younger_at_default
from openmm_cgkd.exceptions import FramesError, TrainingError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.frames.split import Split, apply_split
from openmm_cgkd.potential.prior import PriorParameters, fit_exponential, read_prior, write_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.training.ensemble import Ensemble, load_ensemble
from openmm_cgkd.training.task import BEST
from openmm_cgkd.utils.files import file_hash

from .same_fluid import check_same_fluid

logger = logging.getLogger(__name__)


def all_frames(run: RunConfig) -> Frames:
    """All frames of a run.

    Raises
    ------
    FramesError
        If the file is missing or damaged, or its frames are not of the fluid of the run.
    """
    path = RunFolder(run).frames
    frames = read_frames(path)
    check_same_fluid(run.path(run.system), frames, path)
    return frames


def load_frames(run: RunConfig) -> Frames:
    """Frames that training and labelling use, at most `max_frames`, evenly spaced."""
    return all_frames(run).evenly_spaced(run.max_frames)


def split_run(run: RunConfig, frames: Frames) -> Split:
    """Training, validation and test part of `load_frames`."""
    return apply_split(frames, run.split)


def fit_prior_of(run: RunConfig, frames: Frames) -> PriorParameters:
    """Fit the prior to the training part and write it to `RunFolder.prior`.

    A run that an earlier version began keeps its repulsion without a stiffness, unless the
    configuration names another stiffness than the default: its networks were trained with it.
    """
    path = RunFolder(run).prior
    before = fit_exponential(frames[split_run(run, frames).training], run.prior)
    if "stiffness" in younger_at_default(run.prior) and _holds(path, before):
        return prior_of(run)
    prior = before.bent(run.prior.stiffness)
    write_prior(prior, path)
    return prior


def _holds(path: Path, prior: PriorParameters) -> bool:
    try:
        return read_prior(path).identity == prior.identity
    except TrainingError:  # missing or damaged
        return False


def prior_of(run: RunConfig) -> PriorParameters:
    """Read the prior of a run; errors as `read_prior`."""
    path = RunFolder(run).prior
    prior = read_prior(path)
    if prior.stiffness is None:
        logger.warning(
            "%s: of an earlier version: the repulsion is exponential to its end, which long time"
            " steps do not survive; delete it to train again with prior.stiffness of run.yaml",
            path,
        )
    return prior


def load_teachers(run: RunConfig, frames: Frames) -> Ensemble:
    """Read the teachers of a run; errors as `load_ensemble` and `read_prior`."""
    folder = RunFolder(run)
    checkpoints = [folder.teacher(k) / BEST for k in range(run.teachers.count)]
    return load_ensemble(checkpoints, read_prior(folder.prior), frames)


def mean_forces_of(run: RunConfig) -> Path | None:
    """File of mean forces that a run names."""
    return None if run.mean_forces is None else run.path(run.mean_forces)


def refuse_stale(path: Path, attributes: dict[str, Any], folder: RunFolder) -> None:
    """Refuse labels of teachers or of a prior that the run has replaced since.

    Where the teachers are gone, the labels stand alone.

    Raises
    ------
    FramesError
    """
    checkpoints = [folder.teacher(k) / BEST for k in range(folder.config.teachers.count)]
    if all(checkpoint.exists() for checkpoint in checkpoints) and list(attributes["teachers"]) != [
        file_hash(c) for c in checkpoints
    ]:
        raise FramesError(
            f"{path}: made by other teachers than those of this run; run 'cgkd label' again."
        )
    if folder.prior.exists() and attributes.get("prior") != read_prior(folder.prior).identity:
        raise FramesError(
            f"{path}: made with another pair prior than that of this run; run 'cgkd label' again."
        )
