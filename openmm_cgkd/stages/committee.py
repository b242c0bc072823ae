"""The teachers of a run as a committee: potential files, and their disagreement on the labels."""

from __future__ import annotations

from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.export import export_potential
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.simulation.committee import SpreadRange
from openmm_cgkd.training.labels import load_labels
from openmm_cgkd.training.task import BEST
from openmm_cgkd.utils.files import file_hash

from .inputs import load_frames


def export_members(run: RunConfig, frames: Frames) -> list[Path]:
    """Write every teacher of a run as a potential file, ``potential.pt`` beside its checkpoint.

    Raises
    ------
    ModelFileError
        If a teacher has not been trained.
    """
    folder, found = RunFolder(run), []
    for k in range(run.teachers.count):
        checkpoint, path = folder.teacher(k) / BEST, folder.teacher_potential(k)
        found.append(path)
        if not checkpoint.exists():
            raise ModelFileError(f"{checkpoint}: no such file; run 'cgkd teach' first.")
        inputs = {"checkpoint": file_hash(checkpoint), "prior": file_hash(folder.prior)}
        stage = StageRecord(folder, f"export-teacher-{k:02d}", inputs, [path])
        if not stage.finished:
            export_potential(checkpoint, path, frames, read_prior(folder.prior), fast=False)
            stage.finish()
    return found


def labeled_range(run: RunConfig, frames: Frames) -> SpreadRange:
    """Range of the disagreement in the labels of a run.

    Raises
    ------
    FramesError
        If there are no labels, or labels of other frames.
    """
    labels = load_labels(RunFolder(run).labels, load_frames(run))
    return SpreadRange.of(labels.force_spread, frames.beads.names)
