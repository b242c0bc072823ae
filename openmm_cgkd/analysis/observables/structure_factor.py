r"""Partial static structure factors.

With the densities :math:`\rho_a(\mathbf{q}) = \sum_{j \in a} \exp(-i \mathbf{q} \cdot
\mathbf{r}_j)` at the reciprocal lattice vectors of the box,

.. math:: S_{ab}(q) = \frac{1}{\sqrt{N_a N_b}} \left\langle \mathrm{Re}\, \rho_a(\mathbf{q})
\rho_b^*(\mathbf{q}) \right\rangle

averaged over frames and over all vectors whose length falls into a bin (Ashcroft and Langreth,
Phys. Rev. 1967, 156, 685). An ideal gas gives 1 for like and 0 for unlike types. The smallest q is
set by the box. The charge-charge structure factor is that of :math:`\rho_Z(\mathbf{q}) = \sum_j z_j
\exp(-i \mathbf{q} \cdot \mathbf{r}_j)` over :math:`\sum_j z_j^2`, so that it goes to 1, too.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import combinations_with_replacement

import numpy as np
from threadpoolctl import ThreadpoolController

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.box import lattice_coordinates

from .base import Observable
from .neighbors import Frame, Neighbors

CHARGE = "charge"


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
    charges : sequence of float, shape (n_beads,), optional
        Elementary charges. If any is not 0, the last of the pairs is ("charge", "charge").

    Attributes
    ----------
    pairs : list of tuple
    n_vectors : ndarray, shape (bins,)
        Scattering vectors in every bin, of all frames together.

    Raises
    ------
    AnalysisError
        If there is no type or no bin, or `q_max` is not positive.
    """

    _settings = ("types", "q_max", "bins", "charges")
    _sums = ("_products", "n_vectors")

    def __init__(
        self,
        types: tuple[Hashable, ...],
        q_max: float = 25.0,
        bins: int = 50,
        charges: Sequence[float] | np.ndarray | None = None,
    ) -> None:
        if len(types) == 0 or bins < 1 or not q_max > 0:
            raise AnalysisError(
                f"StructureFactor got types={types}, q_max={q_max:g} 1/nm and bins={bins}; all must"
                " be above 0."
            )
        self.types, self.q_max, self.bins = tuple(types), float(q_max), bins
        self.charges = tuple(charges) if charges is not None and np.any(charges) else None
        self.pairs = list(combinations_with_replacement(self.types, 2))
        if self.charges is not None:
            self.pairs.append((CHARGE, CHARGE))
        self._vectors: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None  # box, indices, bins
        self._reset()

    def _reset(self) -> None:
        self._products, self.n_vectors = np.zeros((len(self.pairs), self.bins)), np.zeros(self.bins)

    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None:
        box, types = np.asarray(frame.box, dtype=float), np.asarray(frame.types)
        if self._vectors is None or not np.array_equal(self._vectors[0], box):
            indices, lengths = lattice_vectors(box, self.q_max)
            bins = (lengths * (self.bins / self.q_max)).astype(int)
            self._vectors = box, indices, np.minimum(bins, self.bins - 1)
        _, indices, bins = self._vectors
        weights = []
        for name in self.types:
            members = types == name
            if not members.any():
                raise AnalysisError(f"The frame holds no bead {name}; check the type names.")
            weights.append(members / np.sqrt(members.sum()))
        if self.charges is not None:
            weights.append(np.array(self.charges) / np.linalg.norm(self.charges))
        (waves,) = wave_sums(box_fractions(frame.positions[None], box[None]), indices, weights)
        rows = [*combinations_with_replacement(range(len(self.types)), 2)]
        rows += [(-1, -1)] if self.charges is not None else []
        for row, (a, b) in zip(self._products, rows, strict=True):
            products = (waves[a] * waves[b].conj()).real
            row += np.bincount(bins, weights=products, minlength=self.bins)
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


def box_fractions(positions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Positions in the box as shares of its vectors, from 0 to 1, in single precision.

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    """
    found = np.empty(np.shape(positions), dtype=np.float32)
    for k, (frame, box) in enumerate(zip(positions, boxes, strict=True)):
        shares = lattice_coordinates(np.asarray(frame, dtype=float), box)
        found[k] = shares - np.floor(shares)  # before digits are lost
    return found


def wave_sums(
    fractions: np.ndarray, indices: np.ndarray, weights: Sequence[np.ndarray]
) -> np.ndarray:
    """Weighted sums over beads of exp(-2 pi i n . fractions) for every row n of `indices`.

    By a matrix product over the whole grid that holds them.

    Parameters
    ----------
    fractions : ndarray, shape (n_frames, n_beads, 3)
        As of `box_fractions`.
    indices : ndarray of int, shape (n_vectors, 3)
    weights : sequence of ndarray, shape (n_beads,)
        A set for every sum.

    Returns
    -------
    ndarray of complex64, shape (n_frames, n_weights, n_vectors)
    """
    signs = np.where(indices[:, :1] < 0, -1, 1)  # half of the grid: sums of -n are conjugate
    columns = (signs * indices).T
    largest = np.abs(indices).max(axis=0, initial=0)
    numbers = [np.arange(-n if k else 0, n + 1) for k, n in enumerate(largest)]
    columns += (largest * [0, 1, 1])[:, None]
    members = [np.flatnonzero(weight) for weight in weights]
    factors = [
        np.asarray(weight)[chosen, None].astype(np.float32)
        for weight, chosen in zip(weights, members, strict=True)
    ]
    found = np.empty((len(fractions), len(weights), len(indices)), dtype=np.complex64)
    for k, frame in enumerate(fractions):
        x, y, z = (
            np.exp(np.outer(frame[:, axis], -2j * np.pi * n)).astype(np.complex64)
            for axis, n in enumerate(numbers)
        )
        plane = (x[:, :, None] * y[:, None, :]).reshape(len(frame), -1)
        for row, (chosen, factor) in enumerate(zip(members, factors, strict=True)):
            with _blas().limit(limits=1, user_api="blas"):
                grid = plane[chosen].T @ (factor * z[chosen])
            sums = grid.reshape(x.shape[1], y.shape[1], -1)[tuple(columns)]
            found[k, row] = np.where(signs[:, 0] < 0, sums.conj(), sums)
    return found


@lru_cache(maxsize=1)
def _blas() -> ThreadpoolController:
    """Of small matrices on busy processors, waiting threads of BLAS cost 25 times the product."""
    return ThreadpoolController()
