r"""Partial static structure factors.

With the densities :math:`\rho_a(\mathbf{q}) = \sum_{j \in a} \exp(-i \mathbf{q} \cdot
\mathbf{r}_j)` at the reciprocal lattice vectors of the box,

.. math:: S_{ab}(q) = \frac{1}{\sqrt{N_a N_b}} \left\langle \mathrm{Re}\, \rho_a(\mathbf{q})
\rho_b^*(\mathbf{q}) \right\rangle

averaged over frames and over all vectors whose length falls into a bin (Ashcroft and Langreth,
Phys. Rev. 1967, 156, 685). An ideal gas gives 1 for like and 0 for unlike types. The smallest q is
set by the box.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import combinations_with_replacement

import numpy as np

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.box import lattice_coordinates

from .base import Observable
from .neighbors import Frame, Neighbors


class StructureFactor(Observable):
    """Partial static structure factors of all pairs of some bead types.

    Parameters
    ----------
    types : sequence
        Bead types, written as in ``Frame.types``.
    q_max : float
        Largest length of a scattering vector, 1/nm.
    bins : int
        Number of equal bins between 0 and `q_max`.

    Attributes
    ----------
    n_vectors : ndarray, shape (bins,)
        Scattering vectors in every bin, of all frames together.

    Raises
    ------
    AnalysisError
        If there is no type or no bin, or `q_max` is not positive.
    """

    _settings = ("types", "q_max", "bins")
    _sums = ("_products", "n_vectors")

    def __init__(self, types: tuple[Hashable, ...], q_max: float = 25.0, bins: int = 50) -> None:
        if len(types) == 0 or bins < 1 or not q_max > 0:
            raise AnalysisError(
                f"StructureFactor got types={types}, q_max={q_max:g} 1/nm and bins={bins}; all must"
                " be above 0."
            )
        self.types, self.q_max, self.bins = tuple(types), float(q_max), bins
        self.pairs = list(combinations_with_replacement(self.types, 2))
        self._reset()

    def _reset(self) -> None:
        self._products, self.n_vectors = np.zeros((len(self.pairs), self.bins)), np.zeros(self.bins)

    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None:
        indices, lengths = lattice_vectors(frame.box, self.q_max)
        bins = np.minimum((lengths * (self.bins / self.q_max)).astype(int), self.bins - 1)
        fractions = lattice_coordinates(np.asarray(frame.positions, dtype=float), frame.box)
        types = np.asarray(frame.types)
        densities = {}
        for name in self.types:
            members = fractions[types == name]
            if len(members) == 0:
                raise AnalysisError(f"The frame holds no bead {name}; check the type names.")
            densities[name] = _density(members, indices) / np.sqrt(len(members))
        for row, (a, b) in zip(self._products, self.pairs, strict=True):
            row += np.bincount(
                bins, weights=(densities[a] * densities[b].conj()).real, minlength=self.bins
            )
        self.n_vectors += np.bincount(bins, minlength=self.bins)

    @property
    def bin_centers(self) -> np.ndarray:
        """Centres of the bins, shape (bins,), 1/nm."""
        return (np.arange(self.bins) + 0.5) * self.q_max / self.bins

    @property
    def bin_width(self) -> float:
        """Width of a bin, 1/nm."""
        return self.q_max / self.bins

    @property
    def values(self) -> np.ndarray:
        """S(q) of every pair in `pairs`, shape (n_pairs, bins); nan in bins without a vector."""
        if not self.n_vectors.any():
            raise AnalysisError(
                f"The structure factor holds no frame, or no vector up to {self.q_max:g} 1/nm; call"
                " compute(frame) first."
            )
        empty = self.n_vectors == 0
        return np.where(empty, np.nan, self._products / np.where(empty, 1, self.n_vectors))


def lattice_vectors(box: np.ndarray, q_max: float) -> tuple[np.ndarray, np.ndarray]:
    """Reciprocal lattice vectors up to a length, one of each pair q and -q, without 0.

    Parameters
    ----------
    box : ndarray, shape (3, 3), nm
        Box vectors a_i as rows.
    q_max : float, 1/nm

    Returns
    -------
    indices : ndarray of int, shape (n, 3)
        n_i of the vectors q with q . a_i = 2 pi n_i.
    lengths : ndarray, shape (n,), 1/nm
    """
    # since |q . a_i| is at most |q| |a_i|
    largest = np.floor(q_max * np.linalg.norm(box, axis=1) / (2 * np.pi)).astype(int)
    grid = np.stack(
        np.meshgrid(*[np.arange(-n, n + 1) for n in largest], indexing="ij"), axis=-1
    ).reshape(-1, 3)
    half = grid[len(grid) // 2 + 1 :]  # the grid is symmetric about its middle, which is 0
    lengths = 2 * np.pi * np.linalg.norm(half @ np.linalg.inv(box).T, axis=1)
    return half[lengths < q_max], lengths[lengths < q_max]


def _density(fractions: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Sum over beads of exp(-2 pi i n . fractions) for every row n of `indices`.

    By one matrix product over the whole grid that holds them.
    """
    largest = np.abs(indices).max(axis=0, initial=0)
    x, y, z = (
        np.exp(-2j * np.pi * np.outer(fractions[:, k], np.arange(-n, n + 1)))
        for k, n in enumerate(largest)
    )
    plane = (x[:, :, None] * y[:, None, :]).reshape(len(fractions), -1)
    grid = (plane.T @ z).reshape(2 * largest + 1)
    return grid[tuple((indices + largest).T)]
