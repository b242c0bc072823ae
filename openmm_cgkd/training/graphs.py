"""Frames as graphs in memory, and batches of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import Prior, PriorParameters
from openmm_cgkd.utils.box import lattice_coordinates, shifts_into_box
from openmm_cgkd.utils.units import GAS_CONSTANT


def thermal_energy(frames: Frames) -> float:
    """kB T in kJ/mol, the scale of a coarse-grained free energy."""
    return frames.temperature * GAS_CONSTANT


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
        refuse_not_finite("positions", frames.positions)
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


def refuse_not_finite(name: str, values: np.ndarray) -> None:
    """Raise a `TrainingError` that names the first frame with a value that is not finite."""
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if bad.any():
        raise TrainingError(
            f"The {name} of frame {np.argmax(bad)} are not finite; remove that frame or make the"
            " file again."
        )
