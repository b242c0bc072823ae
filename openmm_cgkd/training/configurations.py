"""Labels of configurations that the all-atom run did not visit: snapshots of other trajectories,
and displaced beads.

The teachers' disagreement says how far a configuration is from what they know. The largest force
spread over the beads of a configuration is compared with the 99th percentile of the same quantity
over the training frames; configurations above a multiple of that are dropped.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import h5py
import mdtraj
import numpy as np

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import BoxError, FramesError, TrainingError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.pairs import check_cutoff
from openmm_cgkd.run_folder import RunFolder, StageRecord
from openmm_cgkd.utils.files import file_hash, replacing

from .ensemble import Ensemble, Parts, write_parts
from .graphs import split_run
from .labels import open_labels

logger = logging.getLogger(__name__)

# of the largest spread in a training frame; less at the mercy of one odd frame than the maximum
_PERCENTILE = 99


def label_extra(run: RunConfig, frames: Frames, ensemble: Ensemble) -> None:
    """Label the configurations named in ``student.extra``, if there are any.

    Raises
    ------
    FramesError, BoxError, TrainingError
        As `label_frames`.
    """
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
            found.append(
                perturbed(
                    frames[split_run(run, frames).training],
                    extra.perturbed,
                    extra.displacement,
                    run.seed,
                )
            )
        return join(found)

    label_beyond(run, frames, ensemble, "label-extra", inputs, configurations, folder.extra_labels)


def label_beyond(
    run: RunConfig,
    frames: Frames,
    ensemble: Ensemble,
    name: str,
    inputs: dict[str, Any],
    configurations: Any,
    path: Path,
) -> None:
    """Label configurations and keep those within bounds.

    Parameters
    ----------
    frames : Frames
        All-atom frames, whose labels exist.
    name : str
        Of the stage.
    inputs : dict
        What the configurations depend on.
    configurations : callable
        Returns them as `Frames`.
    path : path
        HDF5 file: labels, with positions and boxes.
    """
    folder, bound = RunFolder(run), run.student.max_spread
    shared = {
        "frames": frames.identity,
        "teachers": ensemble.hashes,
        "prior": ensemble.prior_hash,
        "split": run.split,
    }
    stage = StageRecord(folder, name, {**shared, **inputs, "max_spread": bound}, [path])
    if stage.finished:
        return
    offered = configurations()
    check_cutoff(offered.box, ensemble.cutoff)
    parts = Parts(path.with_suffix(".parts"), stage.fingerprint)
    parts.compute(ensemble, offered, name, refuse=False)
    with open_labels(folder.labels, frames) as labels:
        spreads, offsets = labels["force_spread"][:], labels.attrs["energy_offsets"]
    limit = bound * float(
        np.percentile(spreads[split_run(run, frames).training].max(axis=1), _PERCENTILE)
    )
    largest = np.concatenate([part["force_spread"].max(axis=1) for _, part in parts])
    kept = largest <= limit  # a value that is not finite is not
    logger.info(
        "%s: %d of %d configurations have spreads within %.4g kJ/mol/nm and are kept",
        name,
        kept.sum(),
        len(kept),
        limit,
    )
    if not kept.any():
        raise TrainingError(
            f"{name}: none of {len(kept)} configurations has a force spread within"
            f" student.max_spread = {bound:g} times that of the training frames ({limit:.4g}"
            f" kJ/mol/nm), the smallest has {np.nanmin(largest):.4g}; train better teachers or"
            " raise it."
        )
    with replacing(path) as fresh, h5py.File(fresh, "w") as file:
        write_parts(file, parts, offsets, offered, kept)
        file["positions"], file["box"] = offered.positions[kept].astype("f4"), offered.box[kept]
        file.attrs.update(
            {"frames": frames.identity, "teachers": ensemble.hashes, "prior": ensemble.prior_hash}
        )
        file.attrs.update({"offered": len(kept), "kept": int(kept.sum()), "spread_limit": limit})
    stage.finish()
    parts.clear()


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
    FramesError
        If the file is not readable, has another number of beads, or positions that are not finite.
    BoxError
        If it has no box.
    """
    try:
        trajectory = mdtraj.load(str(path), top=frames.beads.to_mdtraj())
    except (OSError, ValueError, TypeError, KeyError, IndexError) as error:
        n_beads = frames.beads.n_beads
        raise FramesError(
            f"{path}: cannot be read as a trajectory of {n_beads} beads"
            f" ({' '.join(str(error).split())})."
        ) from error
    if trajectory.n_frames == 0:
        raise FramesError(f"{path}: holds no frame; simulate longer or write frames more often.")
    if trajectory.unitcell_vectors is None:
        raise BoxError(
            f"{path}: has no periodic box; only periodic configurations can be labelled."
        )
    chosen = trajectory[
        np.linspace(0, trajectory.n_frames - 1, min(at_most, trajectory.n_frames))
        .round()
        .astype(int)
    ]
    if not np.isfinite(chosen.xyz).all():
        raise FramesError(
            f"{path}: has positions that are not finite; the simulation has failed, leave it out."
        )
    return without_forces(chosen.xyz, chosen.unitcell_vectors.astype(float), frames)


def perturbed(training: Frames, number: int, displacement: float, seed: int) -> Frames:
    """Evenly spaced training frames with every bead displaced by a normal deviate of
    `displacement` nm along each axis.
    """
    # repeats where more are wanted than there are
    chosen = np.linspace(0, len(training) - 1, number).round().astype(int)
    shifts = np.random.default_rng(seed).normal(
        scale=displacement, size=(number, training.beads.n_beads, 3)
    )
    return without_forces(training.positions[chosen] + shifts, training.box[chosen], training)
