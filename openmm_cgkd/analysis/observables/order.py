"""Local order around beads."""

from __future__ import annotations

from collections.abc import Hashable

import freud
import numpy as np

from openmm_cgkd.exceptions import AnalysisError

from .base import Observable
from .neighbors import Frame, Neighbors


class SteinhardtOrder(Observable):
    r"""Distribution of the Steinhardt order parameter around one bead type.

    .. math:: q_l = \left[\frac{4\pi}{2l + 1} \sum_m \left|\frac{1}{N} \sum_{j=1}^{N}
    Y_{lm}(\mathbf{r}_j)\right|^2\right]^{1/2}

    over the N nearest neighbours of whatever type (Steinhardt, Nelson and Ronchetti, Phys. Rev. B
    1983, 28, 784), computed by freud. With 12 neighbours an fcc crystal has q_6 = 0.575 and hcp
    0.485; independent directions give :math:`q_l^2 = 1 / N` on average.

    Parameters
    ----------
    type_name : hashable
        Type of the central beads, written as in ``Frame.types``.
    degree : int
        Degree l of the spherical harmonics.
    nearest : int
        Number N of nearest neighbours.
    bins : int
        Number of equal bins between 0 and 1.

    Raises
    ------
    AnalysisError
        If a number is not positive.
    """

    _settings = ("type_name", "degree", "nearest", "bins")
    _sums = ("_counts", "_sum")

    def __init__(
        self, type_name: Hashable, degree: int = 6, nearest: int = 12, bins: int = 50
    ) -> None:
        if min(degree, nearest, bins) < 1:
            raise AnalysisError(
                f"SteinhardtOrder got degree={degree}, nearest={nearest} and bins={bins}; all must"
                " be above 0."
            )
        self.type_name, self.degree, self.nearest, self.bins = type_name, degree, nearest, bins
        self._reset()

    def _reset(self) -> None:
        self._counts, self._sum = np.zeros(self.bins), 0.0

    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None:
        chosen = np.asarray(frame.types) == self.type_name
        if not chosen.any() or len(chosen) <= self.nearest:
            raise AnalysisError(
                f"The frame holds {chosen.sum()} beads {self.type_name} among {len(chosen)}; "
                f"the order parameter needs at least one, and more than {self.nearest} in all."
            )
        box = freud.box.Box.from_matrix(np.asarray(frame.box, dtype=float).T)
        positions = box.wrap(np.asarray(frame.positions, dtype=float))
        query = {"num_neighbors": self.nearest, "exclude_ii": True}
        order = (
            freud.order.Steinhardt(self.degree)
            .compute((box, positions), query)
            .particle_order[chosen]
        )
        self._counts += np.bincount(
            np.minimum((order * self.bins).astype(int), self.bins - 1), minlength=self.bins
        )
        self._sum += float(order.sum())

    @property
    def bin_centers(self) -> np.ndarray:
        """Centres of the bins, shape (bins,)."""
        return (np.arange(self.bins) + 0.5) / self.bins

    @property
    def bin_width(self) -> float:
        """Width of a bin."""
        return 1 / self.bins

    @property
    def values(self) -> np.ndarray:
        """Probability density of the order parameter, shape (bins,)."""
        return self._counts / self._beads() * self.bins

    @property
    def mean(self) -> float:
        """Mean order parameter."""
        return self._sum / self._beads()

    def _beads(self) -> float:
        if not self._counts.any():
            raise AnalysisError(
                f"The order parameter around {self.type_name} holds no frame; call compute(frame)"
                " first."
            )
        return float(self._counts.sum())
