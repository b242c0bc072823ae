"""Stage 5: the student of a run as potential files."""

from __future__ import annotations

from pathlib import Path

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import ConfigError, ModelFileError
from openmm_cgkd.potential.export import export_potential, fast_path
from openmm_cgkd.potential.metadata import VERSION
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.training.task import BEST
from openmm_cgkd.utils.files import file_hash

from .inputs import all_frames, prior_of


def export_student(run: RunConfig) -> Path:
    """Write the student of a run as `RunFolder.model`, and beside it the fast file.

    Returns
    -------
    path
        The portable file.

    Raises
    ------
    ConfigError
        If the configuration names a potential that is exported already.
    ModelFileError
        If the student has not been trained, or the written file fails its check.
    """
    if run.potential is not None:
        raise ConfigError(
            f"potential: the run simulates with {run.potential}, exported before; remove the field"
            " to export another."
        )
    folder = RunFolder(run)
    checkpoint = folder.student / BEST
    with folder.at_work("export"):
        for path, stage in ((checkpoint, "distill"), (folder.prior, "teach")):
            if not path.exists():
                raise ModelFileError(f"{path}: no such file; run 'cgkd {stage}' first.")
        inputs = {
            "checkpoint": file_hash(checkpoint),
            "prior": file_hash(folder.prior),
            "format": VERSION,
        }
        record = StageRecord(folder, "export", inputs, [folder.model, fast_path(folder.model)])
        if not record.finished:
            frames, prior = all_frames(run), prior_of(run)
            export_potential(checkpoint, folder.model, frames, prior)
            record.finish()
    return folder.model
