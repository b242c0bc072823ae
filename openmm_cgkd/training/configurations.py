"""Labels of configurations that the all-atom run did not visit.

They are snapshots of other trajectories, and training frames with displaced beads.

The teachers' disagreement says how far a configuration is from what they know. The largest force
spread over the beads of a configuration is compared with the 99th percentile of the same quantity
over the training frames; configurations above a multiple of that are dropped.
"""

from __future__ import annotations

import logging
from pathlib import Path

import h5py
import numpy as np

from openmm_cgkd.config.run import SplitConfig
from openmm_cgkd.config.section import fingerprint
from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.frames.bead_trajectory import read_bead_trajectory
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.scale import check_scale
from openmm_cgkd.frames.seal import read_checked, seal
from openmm_cgkd.frames.split import apply_split
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.hdf5_output import hdf5_output

from .ensemble import Ensemble
from .label_parts import Parts, write_parts
from .labeling import label_inputs
from .labels import open_labels

logger = logging.getLogger(__name__)

# of the largest spread in a training frame; less at the mercy of one odd frame than the maximum
_PERCENTILE = 99


def label_configurations(
    configurations: Frames,
    frames: Frames,
    ensemble: Ensemble,
    labels: Path,
    path: Path,
    split: SplitConfig | None = None,
    *,
    max_spread: float = 2.0,
    name: str = "configurations",
) -> Path:
    """Label configurations beyond the all-atom frames and keep those on which the teachers agree.

    Parameters
    ----------
    configurations : Frames
        Of the same beads as the frames, see `snapshots` and `perturbed`.
    frames : Frames
        All-atom frames that the teachers were trained on.
    ensemble : Ensemble
    labels : path
        Labels of `frames`, by the same teachers.
    path : path
        HDF5 file: labels, with positions and boxes; complete or absent afterwards.
    split : SplitConfig, optional
        As for the labels.
    max_spread : float
        Bound on the largest force spread in a configuration, as a multiple of that in training
        frames.
    name : str
        For progress and messages.

    Raises
    ------
    BoxError
        If the cutoff exceeds half the smallest box height.
    TrainingError
        If no configuration is within the bound.
    FramesError
        If the labels are missing or of other frames.
    """
    settings = split or SplitConfig()
    check_cutoff(configurations.box, ensemble.cutoff)
    shared = label_inputs(frames, ensemble, settings)
    identity = fingerprint({**shared, "configurations": configurations.identity})
    parts = Parts(path.with_suffix(".parts"), identity)
    parts.compute(ensemble, configurations, name, refuse=False)
    with open_labels(labels, frames) as file:
        spreads, offsets = read_checked(file["force_spread"]), file.attrs["energy_offsets"]
    training = apply_split(frames, settings).training
    limit = max_spread * float(np.percentile(spreads[training].max(axis=1), _PERCENTILE))
    largest = np.concatenate([part["force_spread"].max(axis=1) for _, part in parts])
    kept = largest <= limit  # a value that is not finite is not
    logger.info(
        "%s: %d of %d configurations have spreads within %.4g kJ/mol/nm and are kept",
        name, kept.sum(), len(kept), limit,
    )  # fmt: skip
    if not kept.any():
        raise TrainingError(
            f"{name}: none of {len(kept)} configurations has a force spread within"
            f" student.max_spread = {max_spread:g} times that of the training frames ({limit:.4g}"
            f" kJ/mol/nm), the smallest has {np.nanmin(largest):.4g}; train better teachers or"
            " raise it."
        )
    with (
        replacing(path) as fresh,
        hdf5_output(fresh) as output,
        h5py.File(output, "w", libver="latest") as file,
    ):
        write_parts(file, parts, offsets, configurations, kept)
        file["positions"] = configurations.positions[kept].astype("f4")
        file["box"] = configurations.box[kept]
        file.attrs.update(
            {
                "frames": frames.identity,
                "teachers": ensemble.hashes,
                "prior": ensemble.prior.identity,
            }
        )
        file.attrs.update({"offered": len(kept), "kept": int(kept.sum()), "spread_limit": limit})
        seal(file)
    parts.clear()
    return path


def without_forces(positions: np.ndarray, box: np.ndarray, frames: Frames) -> Frames:
    """Configurations of the same beads as `frames`, whose mapped forces nobody knows."""
    index = np.arange(len(positions))
    unknown = np.full(positions.shape, np.nan, dtype=np.float32)
    return Frames(
        positions.astype(np.float32),
        unknown,
        box,
        index.astype(float),
        index,
        frames.beads,
        frames.attributes,
    )


def join(parts: list[Frames]) -> Frames:
    """Frames of the same beads, one after the other; times count on from 0."""
    positions, forces, box = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("positions", "forces", "box")
    )
    index = np.arange(len(positions))
    return Frames(
        positions, forces, box, index.astype(float), index, parts[0].beads, parts[0].attributes
    )


def snapshots(path: Path, frames: Frames, at_most: int) -> Frames:
    """Evenly spaced configurations of a trajectory of the same beads, whose order it must have.

    Raises
    ------
    FramesError, BoxError
        If positions or box are in another unit than the frames, or as `read_bead_trajectory`.
    """
    trajectory = read_bead_trajectory(path, frames.beads.to_mdtraj())
    check_scale(
        path, trajectory.positions[0], trajectory.boxes[0], frames.positions[0], frames.box[0]
    )
    n = len(trajectory.positions)
    chosen = np.linspace(0, n - 1, min(at_most, n)).round().astype(int)
    return without_forces(trajectory.positions[chosen], trajectory.boxes[chosen], frames)


def perturbed(training: Frames, number: int, displacement: float, seed: int) -> Frames:
    """Evenly spaced training frames whose beads are displaced at random.

    Every bead moves by a normal deviate of `displacement` nm along each axis.
    """
    # repeats where more are wanted than there are
    chosen = np.linspace(0, len(training) - 1, number).round().astype(int)
    shifts = np.random.default_rng(seed).normal(
        scale=displacement, size=(number, training.beads.n_beads, 3)
    )
    return without_forces(training.positions[chosen] + shifts, training.box[chosen], training)
