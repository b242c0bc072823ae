r"""Angular and distance-angle distributions of bead triples a-b-c with the apex b in the middle.

The angular distribution function (ADF) is the probability density of the angle at b over all
triples whose two arms are shorter than their cutoffs; each triple counts once. An ideal gas gives
:math:`p(\theta) = \sin(\theta) / 2` per radian.

The combined distribution function (CDF) resolves it by the length r of the arm b-a: with
:math:`n(r, \theta)` the triples in a cell, summed over frames,

.. math:: h(r, \theta) = \frac{n(r, \theta)}{\sum_\mathrm{frames} n_{bc} \rho_a \cdot \frac{2\pi}{3}
          \left[(r + \Delta)^3 - r^3\right] \left[\cos\theta - \cos(\theta + \Delta_\theta)\right]}

where :math:`n_{bc}` is the number of arms b-c within their cutoff and :math:`\rho_a` the density of
the a beads that are neither the apex nor the other end. So an ideal gas gives exactly 1 at any
system size, and h is the RDF of a around b seen in a direction relative to a neighbour c. The form
follows the combined distribution functions of TRAVIS (Brehm and Kirchner, J. Chem. Inf. Model.
2011, 51, 2007).
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from openmm_cgkd.exceptions import AnalysisError

from .base import Observable
from .neighbors import Frame, Neighbors, Triples, volume


class ADF(Observable):
    """Angular distribution function of one triple of bead types.

    Parameters
    ----------
    types : triple
        Bead types (a, b, c), written as in ``Frame.types``; b is the apex.
    cutoffs : pair of float
        Largest lengths of the arms b-a and b-c, nm, for example the first minima of their RDFs; at
        most half the smallest box height.
    bins : int
        Number of equal bins between 0 and 180 degrees.

    Raises
    ------
    AnalysisError
        If there is no bin, a cutoff is not positive, or equal ends have different cutoffs.

    Examples
    --------
    >>> adf = ADF(types=("CL", "EGL", "CL"), cutoffs=(0.54, 0.54))
    >>> for frame in frames:
    ...     adf.compute(frame, reset=False)
    >>> adf.bin_centers, adf.values
    """

    _settings = ("types", "cutoffs", "bins")
    _sums = ("_counts", "_frames")

    def __init__(
        self,
        types: tuple[Hashable, Hashable, Hashable],
        cutoffs: tuple[float, float],
        bins: int = 90,
    ) -> None:
        self.types = tuple(types)
        self.cutoffs = tuple(float(cutoff) for cutoff in cutoffs)
        self.bins = bins
        _check(self)
        self._reset()

    def _reset(self) -> None:
        self._counts, self._frames = np.zeros(self.bins), 0

    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None:
        neighbors = neighbors or Neighbors(frame, max(self.cutoffs))
        _check_population(self.types, neighbors)
        triples = neighbors.triples
        for rows, near, far in _arms(self.types, neighbors):
            short = (neighbors.distances[near] < self.cutoffs[0]) & (
                neighbors.distances[far] < self.cutoffs[1]
            )
            self._counts += np.bincount(
                _angle_bins(triples, rows[short], self.bins), minlength=self.bins
            )
            if self.types[0] == self.types[2]:  # c-b-a is the same triple
                break
        self._frames += 1

    @property
    def bin_centers(self) -> np.ndarray:
        """Centres of the bins, shape (bins,), degrees."""
        return (np.arange(self.bins) + 0.5) * 180 / self.bins

    @property
    def bin_width(self) -> float:
        """Width of a bin, degrees."""
        return 180 / self.bins

    @property
    def n_triples(self) -> float:
        """Mean number of triples per frame."""
        _check_computed(self)
        return float(self._counts.sum()) / self._frames

    @property
    def values(self) -> np.ndarray:
        """Probability density, shape (bins,), 1/degree; 0 everywhere if no triple was found."""
        _check_computed(self)
        return self._counts / max(self._counts.sum(), 1) / self.bin_width


class CDF(Observable):
    """Combined distance-angle distribution function of one triple of bead types.

    Parameters
    ----------
    types : triple
        Bead types (a, b, c); b is the apex, the distance is that of a.
    cutoffs : pair of float
        Largest distance b-a, the end of the distance axis, and largest distance b-c, nm; at most
        half the smallest box height.
    bins : pair of int
        Number of equal bins of the distance and of the angle.

    Raises
    ------
    AnalysisError
        If there is no bin or a cutoff is not positive.
    """

    _settings = ("types", "cutoffs", "bins")
    _sums = ("_counts", "_expected", "_frames")

    def __init__(
        self,
        types: tuple[Hashable, Hashable, Hashable],
        cutoffs: tuple[float, float],
        bins: tuple[int, int] = (30, 45),
    ) -> None:
        self.types = tuple(types)
        self.cutoffs = tuple(float(cutoff) for cutoff in cutoffs)
        self.bins = tuple(bins)
        _check(self)
        self._reset()

    def _reset(self) -> None:
        self._counts, self._expected, self._frames = np.zeros(self.bins), 0.0, 0

    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None:
        neighbors = neighbors or Neighbors(frame, max(self.cutoffs))
        _check_population(self.types, neighbors)
        a, b, c = self.types
        n_r, n_angle = self.bins
        for rows, near, far in _arms(self.types, neighbors):
            short = (neighbors.distances[near] < self.cutoffs[0]) & (
                neighbors.distances[far] < self.cutoffs[1]
            )
            r_bins = (neighbors.distances[near[short]] * (n_r / self.cutoffs[0])).astype(int)
            cells = np.minimum(r_bins, n_r - 1) * n_angle + _angle_bins(
                neighbors.triples, rows[short], n_angle
            )
            self._counts += np.bincount(cells, minlength=n_r * n_angle).reshape(self.bins)
        apex = neighbors.types[neighbors.centers] == neighbors.code(b)
        other = neighbors.types[neighbors.others] == neighbors.code(c)
        arms = np.count_nonzero(apex & other & (neighbors.distances < self.cutoffs[1]))
        self._expected += arms * (neighbors.count(a) - (a == b) - (a == c)) / volume(frame.box)
        self._frames += 1

    @property
    def r_edges(self) -> np.ndarray:
        """Edges of the distance bins, nm."""
        return np.linspace(0, self.cutoffs[0], self.bins[0] + 1)

    @property
    def angle_edges(self) -> np.ndarray:
        """Edges of the angle bins, degrees."""
        return np.linspace(0, 180, self.bins[1] + 1)

    @property
    def bin_width(self) -> float:
        """Area of a cell, nm degree."""
        return self.cutoffs[0] / self.bins[0] * 180 / self.bins[1]

    @property
    def n_triples(self) -> float:
        """Mean number of triples per frame.

        A triple with equal ends counts twice, with each of them as a.
        """
        _check_computed(self)
        return float(self._counts.sum()) / self._frames

    @property
    def values(self) -> np.ndarray:
        """h(r, angle) relative to an ideal gas, shape `bins`; 0 everywhere without an arm b-c."""
        _check_computed(self)
        cells = (
            2
            * np.pi
            / 3
            * np.diff(self.r_edges**3)[:, None]
            * -np.diff(np.cos(np.radians(self.angle_edges)))
        )
        return self._counts / (self._expected * cells) if self._expected else np.zeros(self.bins)

    @property
    def density(self) -> np.ndarray:
        """Probability density, shape `bins`, 1/(nm degree); 0 everywhere without a triple."""
        _check_computed(self)
        return self._counts / max(self._counts.sum(), 1) / self.bin_width


def _arms(types: tuple, neighbors: Neighbors) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows of the triples a-b-c, and of their arms to a and to c.

    Once for each of the two orders in which the arms may stand in the list.
    """
    triples = neighbors.triples
    there, back = neighbors.rows_of_kind(types), neighbors.rows_of_kind(types[::-1])
    return [
        (there, triples.first[there], triples.second[there]),
        (back, triples.second[back], triples.first[back]),
    ]


def _angle_bins(triples: Triples, rows: np.ndarray, bins: int) -> np.ndarray:
    # 180 degrees belongs to the last bin
    return np.minimum((triples.angles[rows] * (bins / 180)).astype(int), bins - 1)


def _check(observable: ADF | CDF) -> None:
    name, cutoffs, types = type(observable).__name__, observable.cutoffs, observable.types
    if np.min(observable.bins) < 1 or not min(cutoffs) > 0:
        raise AnalysisError(
            f"{name} got bins={observable.bins} and cutoffs={cutoffs} nm; give at least one bin and"
            " cutoffs above 0."
        )
    if types[0] == types[2] and cutoffs[0] != cutoffs[1] and isinstance(observable, ADF):
        raise AnalysisError(
            f"{name} got cutoffs {cutoffs} nm for {'-'.join(map(str, types))}; equal ends need"
            " equal cutoffs."
        )


def _check_population(types: tuple, neighbors: Neighbors) -> None:
    for name in types:
        n = neighbors.count(name)
        if n < types.count(name):
            triple = "-".join(map(str, types))
            raise AnalysisError(
                f"There is no triple {triple}: the frame holds {n} beads {name}; check the type"
                " names."
            )


def _check_computed(observable: ADF | CDF) -> None:
    if not observable._frames:
        name = type(observable).__name__
        raise AnalysisError(
            f"The {name} of {'-'.join(map(str, observable.types))} holds no frame; call"
            " compute(frame) first."
        )
