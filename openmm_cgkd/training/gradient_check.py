"""Check that forces are the gradient of the energies, by central differences.

In double precision.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from openmm_cgkd.exceptions import TrainingError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.potential.forces import energies_and_forces
from openmm_cgkd.potential.pairs import find_pairs

TOLERANCE = 1e-3
_STEP = 1e-4  # nm; truncation and rounding are both near 1e-7 of a typical force


@dataclass(frozen=True)
class Consistency:
    """Errors of the forces, relative to the RMS force component of their frame.

    Attributes
    ----------
    max_error, rms_error : float
    components : int
        Number of force components compared.
    """

    max_error: float
    rms_error: float
    components: int


def check_consistency(
    model: nn.Module,
    cutoff: float,
    frames: Frames,
    indices: np.ndarray,
    n_frames: int = 3,
    n_components: int = 12,
    seed: int = 0,
) -> Consistency:
    """Compare forces with central differences of the summed per-bead energies.

    Pairs are searched again for every displaced configuration, so the check also sees jumps at the
    cutoff.

    Parameters
    ----------
    model : module
        Per-bead energies, as the terms of `SumModel`; a float64 copy is evaluated.
    cutoff : float, nm
    frames : Frames
    indices : ndarray of int
        Held-out frames, of which up to `n_frames` evenly spaced ones are used.
    n_frames, n_components : int
        Sample size: frames, and random force components of each.
    seed : int

    Raises
    ------
    TrainingError
        If the largest relative error exceeds 1e-3, or the forces are not finite.
    """
    model = copy.deepcopy(model).cpu().double().eval()
    types = torch.from_numpy(frames.beads.types.astype(np.int64))
    random = np.random.default_rng(seed)

    def evaluate(positions: np.ndarray, box: np.ndarray) -> tuple[float, np.ndarray]:
        pairs = find_pairs(positions, box, cutoff)
        energies, forces = energies_and_forces(
            model,
            types,
            torch.from_numpy(positions),
            torch.from_numpy(pairs.first),
            torch.from_numpy(pairs.second),
            torch.from_numpy(pairs.shifts),
        )
        return energies.sum().item(), forces.numpy()

    errors = []
    for index in indices[np.linspace(0, len(indices) - 1, min(n_frames, len(indices))).astype(int)]:
        positions, box = frames.positions[index].astype(np.float64), frames.box[index]
        _, forces = evaluate(positions, box)
        scale = np.sqrt(np.mean(forces**2))
        components = random.choice(
            positions.size, size=min(n_components, positions.size), replace=False
        )
        for component in components:
            step = np.zeros(positions.size)
            step[component] = _STEP
            step = step.reshape(positions.shape)
            slope = (evaluate(positions + step, box)[0] - evaluate(positions - step, box)[0]) / (
                2 * _STEP
            )
            errors.append((forces.reshape(-1)[component] + slope) / scale if scale > 0 else -slope)
    worst = float(np.abs(errors).max())
    if not worst <= TOLERANCE:
        raise TrainingError(
            f"Forces and energies disagree: the largest error is {worst:.2g} of the RMS force,"
            f" {TOLERANCE:g} is allowed; the model's energy is not the potential of its forces, so"
            " do not use it."
        )
    return Consistency(worst, float(np.sqrt(np.mean(np.square(errors)))), len(errors))
