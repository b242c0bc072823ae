"""Pairs of beads within the cutoff, periodic or not.

The one neighbour search for training and analysis in Python.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import vesin

from openmm_cgkd.exceptions import BoxError
from openmm_cgkd.utils.box import smallest_height


@dataclass(frozen=True)
class Pairs:
    """Each pair of beads within the cutoff once.

    Attributes
    ----------
    first, second : ndarray, shape (n_pairs,), int64
    shifts : ndarray, shape (n_pairs, 3), nm
        Lattice vector added to ``positions[second] - positions[first]``; constant while the box and
        the pair stay.
    """

    first: np.ndarray
    second: np.ndarray
    shifts: np.ndarray

    def __getitem__(self, chosen: np.ndarray) -> Pairs:
        return Pairs(self.first[chosen], self.second[chosen], self.shifts[chosen])


def check_cutoff(box: np.ndarray, cutoff: float) -> None:
    """Refuse a cutoff above half the smallest box height.

    Beyond it a bead would meet two images of another.

    Raises
    ------
    BoxError
    """
    height = smallest_height(box)
    if cutoff > height / 2:
        raise BoxError(
            f"The cutoff of {cutoff:g} nm is above half the smallest box height of {height:.4f} nm;"
            f" use at most {height / 2:.4f} nm or a larger box."
        )


def find_pairs(positions: np.ndarray, box: np.ndarray | None, cutoff: float) -> Pairs:
    """Find all pairs closer than the cutoff.

    Parameters
    ----------
    positions : ndarray, shape (n_beads, 3), nm
    box : ndarray, shape (3, 3), nm, or None
        Box vectors as rows; None for open boundaries.
    cutoff : float, nm

    Raises
    ------
    BoxError
        If the cutoff exceeds half the smallest box height.
    """
    positions = np.asarray(positions, dtype=np.float64)
    if box is not None:
        check_cutoff(box, cutoff)
    search = vesin.NeighborList(cutoff=cutoff, full_list=False)
    cell = np.zeros((3, 3)) if box is None else np.asarray(box, dtype=np.float64)
    first, second, images = search.compute(
        points=positions, box=cell, periodic=box is not None, quantities="ijS"
    )
    return Pairs(first.astype(np.int64), second.astype(np.int64), images.astype(np.float64) @ cell)
