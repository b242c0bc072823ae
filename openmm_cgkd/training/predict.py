"""Forces and energies of a trained network at many configurations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn

from openmm_cgkd.potential.forces import energies_and_forces

from .graphs import FrameGraphs

_BEADS = 1000  # evaluated at once: more gains nothing on a CPU


def predict(
    network: nn.Module,
    graphs: FrameGraphs,
    indices: Sequence[int],
    report: Callable[[int], None] = lambda done: None,
) -> tuple[np.ndarray, np.ndarray]:
    """Evaluate a network, without the prior, on the device and in the precision of its weights.

    Parameters
    ----------
    network : module
        Per-bead energies, as the terms of `SumModel`.
    graphs : FrameGraphs
    indices : sequence of int
        Frames of `graphs`.
    report : callable
        Gets the number of frames done.

    Returns
    -------
    forces : ndarray, shape (n, n_beads, 3), kJ/mol/nm
    energies : ndarray, shape (n, n_beads), kJ/mol
    """
    n_beads = graphs.frames.beads.n_beads
    weights = next(network.parameters())
    forces = np.empty((len(indices), n_beads, 3), dtype=np.float32)
    energies = np.empty((len(indices), n_beads), dtype=np.float32)
    size = max(1, _BEADS // n_beads)
    for first in range(0, len(indices), size):
        chosen = [int(k) for k in indices[first : first + size]]
        batch = graphs.batch(chosen).to(weights.dtype).to(weights.device)
        e, f = energies_and_forces(network, *batch.graph)
        part = slice(first, first + len(chosen))
        forces[part] = f.cpu().numpy().reshape(-1, n_beads, 3)
        energies[part] = e.detach().cpu().numpy().reshape(-1, n_beads)
        report(first + len(chosen))
    return forces, energies


def device() -> torch.device:
    """Where networks are trained and evaluated."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
