"""How many neighbours a bead has."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from openmm_cgkd.exceptions import AnalysisError

from .base import Observable
from .neighbors import Frame, Neighbors


class CoordinationNumbers(Observable):
    """Distribution of the number of b beads within a cutoff of an a bead.

    Parameters
    ----------
    types : pair
        The two bead types (a, b), written as in ``Frame.types``.
    cutoff : float
        Largest distance, nm, for example the first minimum of the RDF; at most half the smallest
        box height.
    largest : int
        Largest number told apart; beads with more neighbours count as having this many.

    Raises
    ------
    AnalysisError
        If the cutoff or the largest number is not positive.
    """

    _settings = ("types", "cutoff", "largest")
    _sums = ("_counts",)

    def __init__(self, types: tuple[Hashable, Hashable], cutoff: float, largest: int = 60) -> None:
        if largest < 1 or not cutoff > 0:
            raise AnalysisError(
                f"CoordinationNumbers got cutoff={cutoff:g} nm and largest={largest}; both must be"
                " above 0."
            )
        self.types, self.cutoff, self.largest = tuple(types), float(cutoff), largest
        self._reset()

    def _reset(self) -> None:
        self._counts = np.zeros(self.largest + 1)

    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None:
        neighbors = neighbors or Neighbors(frame, self.cutoff)
        a, b = (neighbors.code(name) for name in self.types)
        if a is None or b is None:
            raise AnalysisError(
                f"The frame holds no bead {self.types[0 if a is None else 1]}; check the type"
                " names."
            )
        near = (neighbors.distances < self.cutoff) & (neighbors.types[neighbors.others] == b)
        numbers = np.bincount(neighbors.centers[near], minlength=len(neighbors.types))[
            neighbors.types == a
        ]
        self._counts += np.bincount(np.minimum(numbers, self.largest), minlength=self.largest + 1)

    @property
    def numbers(self) -> np.ndarray:
        """The coordination numbers 0, 1, ..., largest."""
        return np.arange(self.largest + 1)

    @property
    def bin_width(self) -> float:
        """1, the distance between numbers."""
        return 1.0

    @property
    def values(self) -> np.ndarray:
        """Share of the a beads with each number of neighbours, shape (largest + 1,)."""
        if not self._counts.any():
            raise AnalysisError(
                f"The coordination of {self.types[0]} by {self.types[1]} holds no frame; call"
                " compute(frame) first."
            )
        return self._counts / self._counts.sum()

    @property
    def mean(self) -> float:
        """Mean coordination number."""
        return float(self.numbers @ self.values)

    @property
    def std(self) -> float:
        """Standard deviation of the coordination number over beads and frames."""
        return float(np.sqrt((self.numbers - self.mean) ** 2 @ self.values))
