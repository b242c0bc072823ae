"""Stage 3: label the frames, and further configurations if asked for, with the teachers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.training.configurations import join, label_configurations, perturbed, snapshots
from openmm_cgkd.training.ensemble import Ensemble
from openmm_cgkd.training.labeling import label_frames, label_inputs
from openmm_cgkd.utils.files import file_hash

from .inputs import load_frames, load_teachers, mean_forces_of, split_run


def label_run(run: RunConfig) -> Path:
    """Write forces and per-bead energies of the teachers for every frame to `RunFolder.labels`.

    Configurations named in ``student.extra`` are labelled, too, into `RunFolder.extra_labels`.

    Raises
    ------
    ModelFileError
        If a teacher's checkpoint is missing or damaged.
    FramesError
        If a teacher was trained on other frames, or extra configurations are missing or of other
        beads.
    TrainingError
        If a teacher's forces are not the gradient of its energies, a label is not finite, or no
        extra configuration is within bounds.
    """
    folder = RunFolder(run)
    with folder.at_work("label"):
        frames = load_frames(run)
        ensemble = load_teachers(run, frames)
        inputs = label_inputs(frames, ensemble, run.split)
        stage = StageRecord(folder, "label", inputs, [folder.labels])
        if not stage.finished:
            label_frames(
                frames, ensemble, folder.labels, run.split, mean_forces=mean_forces_of(run)
            )
            stage.finish()
        _label_extra(run, frames, ensemble)
    return folder.labels


def _label_extra(run: RunConfig, frames: Frames, ensemble: Ensemble) -> None:
    """Label the configurations named in ``student.extra``, if there are any."""
    folder, extra = RunFolder(run), run.student.extra
    if not (extra.trajectories or extra.perturbed):
        return
    paths = [run.path(path) for path in extra.trajectories]
    for path in paths:
        if not path.exists():
            raise FramesError(
                f"student.extra.trajectories: {path}: no such file; name a DCD or XTC trajectory of"
                " beads."
            )
    inputs = {"extra": extra, "trajectories": [file_hash(path) for path in paths], "seed": run.seed}

    def configurations() -> Frames:
        found = [snapshots(path, frames, extra.snapshots) for path in paths]
        if extra.perturbed:
            training = frames[split_run(run, frames).training]
            found.append(perturbed(training, extra.perturbed, extra.displacement, run.seed))
        return join(found)

    label_beyond_frames(
        run, frames, ensemble, "label-extra", inputs, configurations, folder.extra_labels
    )


def label_beyond_frames(
    run: RunConfig,
    frames: Frames,
    ensemble: Ensemble,
    name: str,
    inputs: dict[str, Any],
    configurations: Callable[[], Frames],
    path: Path,
) -> None:
    """Label configurations and keep those within ``student.max_spread``, unless that is done.

    Parameters
    ----------
    frames : Frames
        All-atom frames, whose labels exist.
    name : str
        Of the stage.
    inputs : dict
        What the configurations depend on.
    configurations : callable
    path : path
        HDF5 file: labels, with positions and boxes.
    """
    folder, bound = RunFolder(run), run.student.max_spread
    shared = label_inputs(frames, ensemble, run.split)
    stage = StageRecord(folder, name, {**shared, **inputs, "max_spread": bound}, [path])
    if stage.finished:
        return
    label_configurations(
        configurations(), frames, ensemble, folder.labels, path, run.split,
        max_spread=bound, name=name,
    )  # fmt: skip
    stage.finish()
