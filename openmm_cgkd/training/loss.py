"""The distillation loss."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from openmm_cgkd.config.run import LossWeights

from .graphs import Batch
from .targets import Variances


def distillation_loss(
    energies: Tensor,
    forces: Tensor,
    batch: Batch,
    weights: LossWeights,
    variances: Variances,
    shared: bool = False,
) -> Tensor:
    """L = w_F MSE(F) / var(F) + w_E Var(E/n - E'/n) / var(E/n) + w_e MSE(e_i) / var(e_i).

    Targets are centred per-bead energies and their sums. Total energies have no zero of their own:
    their errors count up to a constant, which the network would else chase from step to step,
    because it dwarfs the fluctuation of a mean over many beads. Per-bead energies are learnt with
    their zero. Where the batch has weights of beads, the force and the per-bead term are means with
    these weights.

    Parameters
    ----------
    energies : Tensor, shape (n_beads,), kJ/mol
    forces : Tensor, shape (n_beads, 3), kJ/mol/nm
        Of the network.
    batch : Batch
        With the targets.
    weights : LossWeights
    variances : Variances
    shared : bool
        Whether the devices of a data-parallel training have one part each of the batch. The mean of
        their losses is then that of the whole batch, with its gradient.
    """
    loss = forces.new_zeros(())
    if weights.force:
        assert batch.forces is not None
        squares = ((forces - batch.forces) ** 2).mean(dim=1)
        loss = loss + weights.force / variances.force * _mean(squares, batch.force_weights)
    if weights.bead_energy:
        assert batch.energies is not None
        loss = loss + weights.bead_energy / variances.bead_energy * _mean(
            (energies - batch.energies) ** 2, batch.energy_weights
        )
    if weights.energy:
        loss = loss + weights.energy / variances.energy * _variance(
            total_errors(energies, batch), shared
        )
    return loss


def total_errors(energies: Tensor, batch: Batch) -> Tensor:
    """Errors of the energy per bead of every frame, shape (n_frames,), kJ/mol.

    They hold up to a common constant.
    """
    assert batch.energies is not None
    n_frames = len(batch.indices)
    return (
        energies.new_zeros(n_frames).index_add(0, batch.frame, energies - batch.energies)
        * n_frames
        / len(energies)
    )


def _variance(values: Tensor, shared: bool) -> Tensor:
    """Unbiased variance; 0 for a single value."""
    # the mean may be a constant: the squares do not change with it to first order
    sums, devices = torch.stack([values.detach().sum(), values.new_tensor(len(values))]), 1
    if shared and distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(sums)
        devices = distributed.get_world_size()
    total, n = sums
    return devices * ((values - total / n) ** 2).sum() / (n - 1).clamp(min=1)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return torch.mean(values if weights is None else values * weights)
