"""Stage 3: label the frames, and further configurations if asked for, with the teachers.

Labels hold no prior: teachers and student share it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.split import Split
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.training.configurations import label_extra
from openmm_cgkd.training.ensemble import (
    Ensemble,
    Parts,
    energy_offsets,
    ensemble_forces,
    load_ensemble,
    write_parts,
)
from openmm_cgkd.training.gradient_check import Consistency, check_consistency
from openmm_cgkd.training.graphs import FrameGraphs, load_frames, split_run
from openmm_cgkd.training.mean_force_test import load_mean_force_test
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.progress import log_to

logger = logging.getLogger(__name__)


def label_frames(run: RunConfig) -> Path:
    """Write forces and per-bead energies of the teachers for every frame to `RunFolder.labels`.

    Configurations named in ``student.extra`` are labelled, too, into `RunFolder.extra_labels`.
    Memory does not grow with the number of frames, and finished parts survive an interruption.

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
    with log_to(folder.log("label")):
        frames = load_frames(run)
        ensemble = load_ensemble(run, frames)
        inputs = {
            "frames": frames.identity,
            "teachers": ensemble.hashes,
            "prior": ensemble.prior_hash,
            "split": run.split,
        }
        stage = StageRecord(folder, "label", inputs, [folder.labels])
        if not stage.finished:
            check_cutoff(frames.box, ensemble.cutoff)
            _label(run, frames, ensemble, stage.fingerprint)
            stage.finish()
        label_extra(run, frames, ensemble)
    return folder.labels


def _label(run: RunConfig, frames: Frames, ensemble: Ensemble, fingerprint: str) -> None:
    folder, split = RunFolder(run), split_run(run, frames)
    checks = [
        check_consistency(network, network.cutoff, frames, split.validation)
        for network in ensemble.networks
    ]
    for k, check in enumerate(checks):
        logger.info(
            "teacher %d: forces against central differences of the energies: %s",
            k,
            _describe(check),
        )
    parts = Parts(folder.root / "labels.parts", fingerprint)
    parts.compute(ensemble, frames, "labels", refuse=True)
    offsets = energy_offsets(parts, frames.beads.types, split.training)
    with replacing(folder.labels) as fresh, h5py.File(fresh, "w") as file:
        write_parts(file, parts, offsets, frames, np.ones(len(frames), dtype=bool))
        file.attrs.update(
            {"frames": frames.identity, "teachers": ensemble.hashes, "prior": ensemble.prior_hash}
        )
        file.attrs["consistency_max"] = [check.max_error for check in checks]
        file.attrs["consistency_rms"] = [check.rms_error for check in checks]
        file.attrs.update(_quality(file, frames, ensemble, split))
        file.attrs.update(_mean_force_errors(run, frames, ensemble))
    parts.clear()


def _describe(check: Consistency) -> str:
    return (
        f"relative error at most {check.max_error:.1e}, RMS {check.rms_error:.1e},"
        f" {check.components} components, float64"
    )


def _quality(file: h5py.File, frames: Frames, ensemble: Ensemble, split: Split) -> dict[str, float]:
    """Figures of merit on the validation frames."""
    chosen = split.validation  # contiguous in time
    graphs = FrameGraphs(frames[chosen], ensemble.cutoff, ensemble.prior)
    names = ("forces", "single_forces", "force_spread")
    forces, single, spreads = (
        file[name][chosen[0] : chosen[-1] + 1].astype(float) for name in names
    )
    everything = np.arange(len(graphs))
    rmse, ratio = mapped_error(forces, graphs, everything)
    single_rmse, _ = mapped_error(single, graphs, everything)
    spread = float(np.sqrt(np.mean(spreads**2)))
    logger.info(
        "ensemble on %d validation frames: force RMSE against mapped forces %.2f kJ/mol/nm "
        "(first teacher alone %.2f), "
        "%.4f of label variance; spread of the teachers %.2f kJ/mol/nm",
        len(graphs), rmse, single_rmse, ratio, spread,
    )  # fmt: skip
    figures = {
        "force_rmse": rmse,
        "single_force_rmse": single_rmse,
        "force_ratio": ratio,
        "force_spread": spread,
    }
    return {f"validation_{name}": value for name, value in figures.items()}


def _mean_force_errors(run: RunConfig, frames: Frames, ensemble: Ensemble) -> dict[str, float]:
    """Errors of the ensemble and of its first member against mean forces, if the run names some."""
    test = load_mean_force_test(run, frames, ensemble.cutoff, ensemble.prior)
    if test is None:
        return {}
    forces = ensemble_forces(ensemble, test.graphs)
    errors, single = test.errors(forces.mean(axis=0)), test.errors(forces[0])
    logger.info(
        "ensemble: force RMSE against mean forces %.2f +- %.2f kJ/mol/nm, first teacher alone %.2f"
        " +- %.2f",
        *(
            values[name]
            for values in (errors, single)
            for name in ("mean_force_rmse", "mean_force_rmse_se")
        ),
    )
    return errors | {f"single_{name}": value for name, value in single.items()}


def mapped_error(
    forces: np.ndarray, graphs: FrameGraphs, indices: np.ndarray
) -> tuple[float, float]:
    """RMSE in kJ/mol/nm of network forces plus prior against mapped forces, and its square over
    the label variance.
    """
    mapped = graphs.frames.forces[indices]
    error = float(np.mean((forces + graphs.prior_forces[indices] - mapped) ** 2, dtype=float))
    return float(np.sqrt(error)), error / float(np.var(mapped, dtype=float))
