"""The teachers of a run as a committee: potential files, and their disagreement on the labels."""

from __future__ import annotations

from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.export import type_masses, write_potential
from openmm_cgkd.potential.metadata import PotentialMetadata
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.simulation.committee import SpreadRange
from openmm_cgkd.training.labels import load_labels
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
        checkpoint = folder.teacher(k) / "best.pt"
        path = folder.teacher(k) / "potential.pt"
        found.append(path)
        network, stored = load_checkpoint(checkpoint)
        inputs = {"checkpoint": file_hash(checkpoint), "prior": file_hash(folder.prior)}
        stage = StageRecord(folder, f"export-teacher-{k:02d}", inputs, [path])
        if stage.finished:
            continue
        prior = read_prior(folder.prior)
        metadata = PotentialMetadata(
            type_names=list(stored["type_names"]),
            masses=type_masses(frames.beads),
            cutoff=network.cutoff,
            prior=prior.as_dict(),
            network={**stored["model"], "scale": stored["scale"]},
            temperature=frames.temperature,
            training=stored["training"],
            frames_sha256=stored["frames"],
            checkpoint_sha256=inputs["checkpoint"],
        )
        write_potential(
            path,
            network,
            prior,
            metadata,
            frames.beads.types,
            frames.positions[-1],
            frames.box[-1],
            frames.beads.bonds,
        )
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
