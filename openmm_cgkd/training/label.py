"""Stage 3: label the frames with the teachers.

Forces fix the energies only up to a constant per bead type, so every teacher's per-bead energies are centred by bead
type over the training frames before they are averaged. Labels hold no prior: teachers and student share it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from ..config import RunConfig
from ..exceptions import FramesError, TrainingError
from ..files import file_hash, replacing
from ..frames import Frames
from ..potential.model import energies_and_forces
from ..potential.neighbors import check_cutoff
from ..potential.tensornet import TensorNetEnergies
from ..progress import log_to, progress
from ..run_folder import RunFolder, Stage
from .checkpoint import load_checkpoint
from .consistency import Consistency, check_consistency
from .data import FrameGraphs, load_frames, load_prior, split_run
from .fit import BEST

logger = logging.getLogger(__name__)

FORMAT = "openmm_cgkd labels"
VERSION = 1
_DATASETS = {
    "forces": "kJ/mol/nm",
    "energies": "kJ/mol",
    "force_spread": "kJ/mol/nm",
    "energy_spread": "kJ/mol",
    "single_forces": "kJ/mol/nm",
    "single_energies": "kJ/mol",
}


@dataclass(frozen=True)
class Labels:
    """Teachers' forces and energies of every frame, without the prior.

    Attributes
    ----------
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        Mean over the teachers.
    energies : ndarray, shape (n_frames, n_beads), kJ/mol
        Mean over the teachers of centred per-bead energies.
    force_spread : ndarray, shape (n_frames, n_beads), kJ/mol/nm
        Standard deviation over the teachers, RMS over x, y, z.
    energy_spread : ndarray, shape (n_frames, n_beads), kJ/mol
    single_forces, single_energies : ndarray
        Of the first teacher alone.
    attributes : dict
        Identities of frames and teachers, energy offsets, quality figures.
    """

    forces: np.ndarray
    energies: np.ndarray
    force_spread: np.ndarray
    energy_spread: np.ndarray
    single_forces: np.ndarray
    single_energies: np.ndarray
    attributes: dict[str, Any]


def label_frames(run: RunConfig) -> Path:
    """Write forces and per-bead energies of the teachers for every frame to `RunFolder.labels`.

    Raises
    ------
    ModelFileError
        If a teacher's checkpoint is missing or damaged.
    FramesError
        If a teacher was trained on other frames.
    TrainingError
        If a teacher's forces are not the gradient of its energies, or a label is not finite.
    """
    folder = RunFolder(run)
    with log_to(folder.log("label")):
        frames = load_frames(run)
        checkpoints = [folder.teacher(k) / BEST for k in range(run.teachers.count)]
        networks = [_load_teacher(path, frames) for path in checkpoints]
        teachers = [file_hash(path) for path in checkpoints]
        prior = load_prior(folder.prior)
        inputs = {"frames": frames.identity, "teachers": teachers, "prior": file_hash(folder.prior), "split": run.split}
        stage = Stage(folder, "label", inputs, [folder.labels])
        if stage.finished:
            return folder.labels
        check_cutoff(frames.box, run.model.cutoff)
        split = split_run(run, frames)
        checks = [check_consistency(network, network.cutoff, frames, split.validation) for network in networks]
        for k, check in enumerate(checks):
            logger.info("teacher %d: forces against central differences of the energies: %s", k, _describe(check))
        graphs = FrameGraphs(frames, run.model.cutoff, prior)
        forces, energies = _predict_all(networks, graphs)
        labels = combine(forces, energies, frames.beads.types, split.training)
        figures = _quality(labels, graphs, split.validation)
        labels.attributes.update(figures, frames=frames.identity, teachers=teachers)
        labels.attributes["consistency_max"] = [check.max_error for check in checks]
        labels.attributes["consistency_rms"] = [check.rms_error for check in checks]
        write_labels(folder.labels, labels, frames.beads.type_names)
        stage.finish()
    return folder.labels


def _describe(check: Consistency) -> str:
    return f"relative error at most {check.max_error:.1e}, RMS {check.rms_error:.1e}, {check.components} components, float64"


def _load_teacher(path: Path, frames: Frames) -> TensorNetEnergies:
    network, content = load_checkpoint(path)
    if content["frames"] != frames.identity:
        raise FramesError(f"{path}: this teacher was trained on other frames; run 'cgkd teach' again or restore max_frames and frames.")
    return network


def predict(
    network: TensorNetEnergies, graphs: FrameGraphs, indices: np.ndarray, report: Callable[[int], None] = lambda done: None
) -> tuple[np.ndarray, np.ndarray]:
    """Forces (n, n_beads, 3) in kJ/mol/nm and per-bead energies (n, n_beads) in kJ/mol of a network, without the prior."""
    forces, energies = [], []
    for done, index in enumerate(indices, start=1):
        e, f = energies_and_forces(network, *graphs.batch([int(index)]).graph)
        forces.append(f.numpy())
        energies.append(e.detach().numpy())
        report(done)
    return np.stack(forces), np.stack(energies)


def _predict_all(networks: list[TensorNetEnergies], graphs: FrameGraphs) -> tuple[np.ndarray, np.ndarray]:
    n = len(graphs)
    with progress("labels", n * len(networks)) as meter:
        parts = [predict(net, graphs, np.arange(n), lambda done, k=k: meter.update(k * n + done)) for k, net in enumerate(networks)]
    forces, energies = (np.stack(values) for values in zip(*parts, strict=True))
    for name, values in (("forces", forces), ("energies", energies)):
        bad = ~np.isfinite(values).reshape(*values.shape[:2], -1).all(axis=2)
        if bad.any():
            k, frame = np.argwhere(bad)[0]
            raise TrainingError(f"The {name} of teacher {k} at frame {frame} are not finite; train that teacher again.")
    return forces, energies


def combine(forces: np.ndarray, energies: np.ndarray, types: np.ndarray, training: np.ndarray) -> Labels:
    """Average the teachers.

    Parameters
    ----------
    forces : ndarray, shape (n_teachers, n_frames, n_beads, 3), kJ/mol/nm
    energies : ndarray, shape (n_teachers, n_frames, n_beads), kJ/mol
    types : ndarray, shape (n_beads,)
    training : ndarray of int
        Frames over which per-bead energies are centred by bead type.
    """
    offsets = np.zeros((len(energies), types.max() + 1))
    for kind in np.unique(types):
        offsets[:, kind] = energies[:, training][:, :, types == kind].mean(axis=(1, 2), dtype=float)
    centred = energies - offsets[:, None, types]
    freedom = 1 if len(energies) > 1 else 0  # unbiased; a single teacher has no spread
    variance = forces.astype(float).var(axis=0, ddof=freedom).mean(axis=-1)
    return Labels(
        forces=forces.mean(axis=0, dtype=float),
        energies=centred.mean(axis=0),
        force_spread=np.sqrt(variance),
        energy_spread=centred.std(axis=0, ddof=freedom),
        single_forces=forces[0],
        single_energies=centred[0],
        attributes={"energy_offsets": offsets, "prior included": "no"},
    )


def _quality(labels: Labels, graphs: FrameGraphs, validation: np.ndarray) -> dict[str, float]:
    """Figures of merit on the validation frames."""
    rmse, ratio = mapped_error(labels.forces[validation], graphs, validation)
    single, _ = mapped_error(labels.single_forces[validation], graphs, validation)
    spread = float(np.sqrt(np.mean(labels.force_spread[validation] ** 2)))
    logger.info(
        "ensemble on %d validation frames: force RMSE against mapped forces %.2f kJ/mol/nm (first teacher alone %.2f), "
        "%.4f of label variance; spread of the teachers %.2f kJ/mol/nm",
        len(validation), rmse, single, ratio, spread,
    )  # fmt: skip
    figures = {"force_rmse": rmse, "single_force_rmse": single, "force_ratio": ratio, "force_spread": spread}
    return {f"validation_{name}": value for name, value in figures.items()}


def mapped_error(forces: np.ndarray, graphs: FrameGraphs, indices: np.ndarray) -> tuple[float, float]:
    """RMSE in kJ/mol/nm of network forces plus prior against mapped forces, and its square over the label variance."""
    mapped = graphs.frames.forces[indices]
    error = float(np.mean((forces + graphs.prior_forces[indices] - mapped) ** 2, dtype=float))
    return float(np.sqrt(error)), error / float(np.var(mapped, dtype=float))


def write_labels(path: Path, labels: Labels, type_names: tuple[str, ...]) -> None:
    """Write labels as HDF5, complete or not at all."""
    with replacing(path) as fresh, h5py.File(fresh, "w") as file:
        file.attrs.update({"format": FORMAT, "version": VERSION, "type_names": list(type_names), **labels.attributes})
        for name, unit in _DATASETS.items():
            file.create_dataset(name, data=getattr(labels, name).astype("f4"), compression="gzip", shuffle=True)
            file[name].attrs["unit"] = unit


def load_labels(path: Path, frames: Frames) -> Labels:
    """Read the labels of the given frames.

    Raises
    ------
    FramesError
        If the file is missing or foreign, or labels other frames.
    """
    path = Path(path)
    if not path.exists():
        raise FramesError(f"{path}: no such file; make labels with 'cgkd label'.")
    try:
        with h5py.File(path, "r") as file:
            attributes = dict(file.attrs)
            if attributes.get("format") != FORMAT or attributes.get("version") != VERSION:
                raise FramesError(f"{path}: is not a file of labels that this version reads; make labels with 'cgkd label'.")
            if attributes["frames"] != frames.identity:
                raise FramesError(f"{path}: labels other frames than the ones given; run 'cgkd label' again.")
            return Labels(**{name: file[name][:] for name in _DATASETS}, attributes=attributes)
    except (OSError, KeyError) as error:
        raise FramesError(f"{path}: is not an HDF5 file of labels, or is damaged; make labels with 'cgkd label'.") from error

