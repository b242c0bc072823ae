"""Composition of per-bead energies, and forces from them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .autograd import messages


class SumModel(nn.Module):
    """Sum of the per-bead energies of its terms, for example a pair prior and a network.

    Parameters
    ----------
    terms : modules
        Each maps ``(types, first, second, vectors)`` to per-bead energies of shape (n_beads,),
        kJ/mol.
    """

    def __init__(self, *terms: nn.Module) -> None:
        super().__init__()
        self.terms = nn.ModuleList(terms)

    def forward(self, types: Tensor, first: Tensor, second: Tensor, vectors: Tensor) -> Tensor:
        energies = torch.zeros(types.shape[0], dtype=vectors.dtype, device=vectors.device)
        for term in self.terms:
            energies = energies + term(types, first, second, vectors)
        return energies


def cutoff_of(network: nn.Module) -> float:
    """Cutoff of a network, its attribute ``cutoff``, nm."""
    cutoff = network.cutoff
    assert isinstance(cutoff, float)
    return cutoff


def energies_and_forces(
    model: nn.Module,
    types: Tensor,
    positions: Tensor,
    first: Tensor,
    second: Tensor,
    shifts: Tensor,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """Per-bead energies and forces F = -dE/dr of the summed energy.

    Parameters
    ----------
    model : module
        As the terms of `SumModel`.
    types : Tensor, shape (n_beads,)
    positions : Tensor, shape (n_beads, 3), nm
    first, second : Tensor, shape (n_pairs,)
    shifts : Tensor, shape (n_pairs, 3), nm
    create_graph : bool
        Keep the graph, so that a loss on the forces can be differentiated.

    Returns
    -------
    energies : Tensor, shape (n_beads,), kJ/mol
    forces : Tensor, shape (n_beads, 3), kJ/mol/nm
    """
    with torch.enable_grad():
        positions = positions.detach().requires_grad_()
        vectors = positions.index_select(0, second) - positions.index_select(0, first) + shifts
        energies = model(types, first, second, vectors)
        with messages.skip_derivatives("tables"):
            (gradient,) = torch.autograd.grad(energies.sum(), positions, create_graph=create_graph)
    return energies, -gradient
