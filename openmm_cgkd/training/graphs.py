"""Frames as graphs in memory, their targets, and batches of them.

Targets are for the network alone: the fixed prior is subtracted, because teachers and student share
it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.exceptions import FramesError, TrainingError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.frames.split import Split, split_frames
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import Prior, PriorParameters, fit_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.utils.box import lattice_coordinates, shifts_into_box
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.units import GAS_CONSTANT


def load_frames(run: RunConfig) -> Frames:
    """Frames that training and labelling use: all of the run's, or `max_frames` evenly spaced
    ones.
    """
    frames = read_frames(RunFolder(run).frames)
    if run.max_frames is None or run.max_frames >= len(frames):
        return frames
    return frames[np.linspace(0, len(frames) - 1, run.max_frames).round().astype(int)]


def split_run(run: RunConfig, frames: Frames) -> Split:
    """Training, validation and test part of `load_frames`."""
    return split_frames(frames.time, run.split.validation, run.split.test, run.split.gap)


def thermal_energy(frames: Frames) -> float:
    """kB T in kJ/mol, the scale of a coarse-grained free energy."""
    return frames.temperature * GAS_CONSTANT


def write_prior(run: RunConfig, frames: Frames) -> PriorParameters:
    """Fit the prior to the training part and write it as JSON to `RunFolder.prior`."""
    prior = fit_prior(frames[split_run(run, frames).training], run.prior)
    write_text(RunFolder(run).prior, json.dumps(prior.as_dict(), indent=1))
    return prior


def load_prior(path: Path) -> PriorParameters:
    """Read the pair prior of a run.

    Raises
    ------
    TrainingError
        If the file is missing or damaged.
    """
    try:
        data = json.loads(Path(path).read_text())
        return PriorParameters(tuple(data.pop("type_names")), **data)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"{path}: is missing or is not a pair prior; run 'cgkd teach' first."
        ) from error


class FrameGraphs:
    """Every frame as a graph: positions in the box, pairs within the cutoff, forces of the prior.

    Parameters
    ----------
    frames : Frames
    cutoff : float, nm
    prior : PriorParameters

    Attributes
    ----------
    prior_forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm

    Raises
    ------
    TrainingError
        If positions are not finite.
    BoxError
        If the cutoff exceeds half the smallest box height.
    """

    def __init__(self, frames: Frames, cutoff: float, prior: PriorParameters) -> None:
        _refuse_not_finite("positions", frames.positions)
        self.frames, self.cutoff = frames, cutoff
        self._types = torch.from_numpy(frames.beads.types.astype(np.int64))
        # wrapped: small coordinates keep float32 exact enough, and lattice indices within a byte
        inside = frames.positions + shifts_into_box(frames.positions.astype(float), frames.box)
        self._positions = inside.astype(np.float32)
        index_type = np.uint16 if frames.beads.n_beads < 2**16 else np.int32
        fixed = Prior(prior, cutoff, frames.beads.types, frames.beads.bonds)
        self._pairs = []
        self.prior_forces = np.empty(frames.positions.shape, dtype=np.float32)
        for k, (positions, box) in enumerate(zip(self._positions, frames.box, strict=True)):
            pairs = find_pairs(positions, box, cutoff)
            self.prior_forces[k] = fixed.energy_and_forces(positions, box, pairs)[1]
            images = np.rint(lattice_coordinates(pairs.shifts, box)).astype(np.int8)
            self._pairs.append(
                (pairs.first.astype(index_type), pairs.second.astype(index_type), images)
            )

    def __len__(self) -> int:
        return len(self._positions)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The frames of the given indices as one graph, without targets."""
        n_beads = len(self._types)
        first, second, images = zip(*(self._pairs[k] for k in indices), strict=True)
        shifts = [image @ self.frames.box[k] for image, k in zip(images, indices, strict=True)]
        return Batch(
            types=self._types.repeat(len(indices)),
            positions=torch.from_numpy(self._positions[list(indices)].reshape(-1, 3)),
            first=torch.from_numpy(
                np.concatenate([f.astype(np.int64) + n_beads * k for k, f in enumerate(first)])
            ),
            second=torch.from_numpy(
                np.concatenate([s.astype(np.int64) + n_beads * k for k, s in enumerate(second)])
            ),
            shifts=torch.from_numpy(np.concatenate(shifts).astype(np.float32)),
            frame=torch.arange(len(indices)).repeat_interleave(n_beads),
            indices=torch.as_tensor(indices),
        )


@dataclass
class Batch:
    """Some frames as one graph without edges between frames.

    Attributes
    ----------
    types : Tensor, shape (n_beads,), int64
        All beads of all frames of the batch.
    positions : Tensor, shape (n_beads, 3), nm
    first, second : Tensor, shape (n_pairs,), int64
    shifts : Tensor, shape (n_pairs, 3), nm
    frame : Tensor, shape (n_beads,), int64
        Which frame of the batch a bead belongs to.
    indices : Tensor, shape (n_frames,), int64
        Indices of the batch's frames among all frames.
    forces : Tensor, shape (n_beads, 3), kJ/mol/nm, or None
    energies : Tensor, shape (n_beads,), kJ/mol, or None
        Targets, where there are some.
    mapped, prior : Tensor, shape (n_beads, 3), kJ/mol/nm, or None
        Mapped forces and forces of the prior, where targets are given.
    force_weights, energy_weights : Tensor, shape (n_beads,), or None
        Weights of the beads in the loss; equal where absent.
    """

    types: Tensor
    positions: Tensor
    first: Tensor
    second: Tensor
    shifts: Tensor
    frame: Tensor
    indices: Tensor
    forces: Tensor | None = None
    energies: Tensor | None = None
    mapped: Tensor | None = None
    prior: Tensor | None = None
    force_weights: Tensor | None = None
    energy_weights: Tensor | None = None

    def to(self, target: torch.device | torch.dtype) -> Batch:
        """Everything on another device, or its floating-point numbers in another type."""
        moved = {
            name: value.to(target)
            for name, value in vars(self).items()
            if value is not None and _converts(value, target)
        }
        return replace(self, **moved)

    @property
    def graph(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Arguments of `energies_and_forces` after the model."""
        return self.types, self.positions, self.first, self.second, self.shifts


def _converts(values: Tensor, target: torch.device | torch.dtype) -> bool:
    return isinstance(target, torch.device) or values.is_floating_point()


@dataclass(frozen=True)
class Targets:
    """What a network shall learn, without the prior.

    Attributes
    ----------
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
    energies : ndarray, shape (n_frames, n_beads), kJ/mol, or None
        Per-bead energies centred by bead type; mapped all-atom frames have none.
    force_weights, energy_weights : ndarray, shape (n_frames, n_beads), or None
        Weights of the beads in the loss; equal where absent.

    Raises
    ------
    TrainingError
        If a value is not finite.
    """

    forces: np.ndarray
    energies: np.ndarray | None = None
    force_weights: np.ndarray | None = None
    energy_weights: np.ndarray | None = None

    def __post_init__(self) -> None:
        _refuse_not_finite("target forces", self.forces)
        if self.energies is not None:
            _refuse_not_finite("target energies", self.energies)


def mapped_targets(graphs: FrameGraphs) -> Targets:
    """The mapped, noisy forces less the prior."""
    return Targets(graphs.frames.forces - graphs.prior_forces)


def _refuse_not_finite(name: str, values: np.ndarray) -> None:
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise TrainingError(
            f"The {name} of frame {np.argmax(bad)} are not finite; remove that frame or make the"
            " file again."
        )


@dataclass(frozen=True)
class Variances:
    """Variances of the targets, the scales of the loss terms.

    Attributes
    ----------
    force : float, (kJ/mol/nm)^2
        Of single force components.
    energy, bead_energy : float, (kJ/mol)^2
        Of the energy per bead of whole frames, and of per-bead energies; 1 where there are no
        energies.
    """

    force: float
    energy: float = 1.0
    bead_energy: float = 1.0


def target_variances(targets: Targets, indices: np.ndarray) -> Variances:
    """Variances over the frames of the given indices."""
    force = float(np.var(targets.forces[indices], dtype=float))
    if targets.energies is None:
        return Variances(force)
    energies = targets.energies[indices].astype(float)
    return Variances(force, float(np.var(energies.mean(axis=1))), float(np.var(energies)))


class GraphDataset(Dataset):
    """Chosen frames with their targets; indices may repeat.

    Parameters
    ----------
    graphs : FrameGraphs
    targets : Targets
        Of all frames of `graphs`.
    indices : ndarray of int
    dtype : torch.dtype
        Of the batches' floating-point numbers.
    """

    def __init__(
        self,
        graphs: FrameGraphs,
        targets: Targets,
        indices: np.ndarray,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if targets.forces.shape != graphs.prior_forces.shape:
            raise FramesError(
                f"Targets have shape {targets.forces.shape}, frames {graphs.prior_forces.shape};"
                " run 'cgkd label' again."
            )
        self.graphs, self.targets, self.indices, self.dtype = (
            graphs,
            targets,
            np.asarray(indices),
            dtype,
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, k: int) -> int:
        return int(self.indices[k])

    def collate(self, indices: list[int]) -> Batch:
        """Join frames into one graph with targets; for ``DataLoader(dataset,
        collate_fn=dataset.collate)``.
        """
        batch = self.graphs.batch(indices)
        batch.forces = torch.from_numpy(self.targets.forces[indices].reshape(-1, 3))
        batch.mapped = torch.from_numpy(self.graphs.frames.forces[indices].reshape(-1, 3))
        batch.prior = torch.from_numpy(self.graphs.prior_forces[indices].reshape(-1, 3))
        for name in ("energies", "force_weights", "energy_weights"):
            values = getattr(self.targets, name)
            if values is not None:
                setattr(batch, name, torch.from_numpy(values[indices].reshape(-1)))
        return batch.to(self.dtype)
