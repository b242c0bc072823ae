"""A small network that is not TensorNet: a learned embedded-atom model."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class PairNetwork(nn.Module):
    """Energy of a bead from sums of radial functions over its neighbours.

    Parameters
    ----------
    n_types : int
    cutoff : float, nm
    scale : float
        Factor of the output, kJ/mol.
    width : int
        Number of radial functions.
    """

    def __init__(self, n_types: int, cutoff: float, scale: float, width: int = 12) -> None:
        super().__init__()
        self.n_types, self.range, self.scale, self.width = n_types, cutoff, scale, width
        self.register_buffer("centers", torch.linspace(0.2, cutoff, width))
        self.mixing = nn.Embedding(n_types * n_types, width)
        self.energy = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, types: Tensor, first: Tensor, second: Tensor, vectors: Tensor) -> Tensor:
        distances = torch.linalg.vector_norm(vectors, dim=1)
        switch = 0.5 * (torch.cos(distances * (math.pi / self.range)) + 1.0)
        switch = switch * (distances < self.range).to(distances.dtype)
        steps = (distances.unsqueeze(1) - self.centers) * (self.width / self.range)
        radial = torch.exp(-steps * steps) * switch.unsqueeze(1)
        seen_by_first = radial * self.mixing(types[first] * self.n_types + types[second])
        seen_by_second = radial * self.mixing(types[second] * self.n_types + types[first])
        features = torch.zeros(
            types.shape[0], self.width, dtype=vectors.dtype, device=vectors.device
        )
        features = features.index_add(0, first, seen_by_first)
        features = features.index_add(0, second, seen_by_second)
        return self.scale * self.energy(features).squeeze(1)
