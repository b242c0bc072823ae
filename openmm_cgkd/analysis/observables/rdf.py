r"""Radial distribution functions and running coordination numbers of bead pairs.

With :math:`n_{ab}(r)` the number of pairs in the shell :math:`[r, r + \Delta)` summed over frames,

.. math:: g_{ab}(r) = \frac{n_{ab}(r)}{\sum_\mathrm{frames} N_{ab} / V \cdot \frac{4\pi}{3}\left[(r
+ \Delta)^3 - r^3\right]}

where each pair counts once and :math:`N_{ab} = N_a N_b` for unlike and :math:`N_a (N_a - 1) / 2`
for like types. So an ideal gas gives exactly 1 at any system size: the finite-size factor (N - 1) /
N of like pairs is taken out. At fixed N a dense liquid still tends to a value slightly off 1 at
large r, by an amount of order 1 / N.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from itertools import combinations_with_replacement

import numpy as np

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.mapping.beads import BeadTopology

from .base import Observable
from .neighbors import Frame, Neighbors, near_pairs, volume


class RDF(Observable):
    """Radial distribution function of one pair of bead types, accumulated over frames.

    Parameters
    ----------
    types : pair
        The two bead types (a, b), written as in ``Frame.types``.
    bins : int
        Number of equal bins between 0 and `r_max`.
    r_max : float
        Largest distance, nm; at most half the smallest box height.

    Raises
    ------
    AnalysisError
        If `bins` or `r_max` is not positive.

    Examples
    --------
    >>> rdf = RDF(types=("CHO", "CL"), bins=150, r_max=1.3)
    >>> for frame in frames:
    ...     rdf.compute(frame, reset=False)
    >>> rdf.bin_centers, rdf.values, rdf.coordination
    """

    _settings = ("types", "bins", "r_max")
    _sums = ("_counts", "_density", "_centers")

    def __init__(
        self, types: tuple[Hashable, Hashable], bins: int = 150, r_max: float = 1.3
    ) -> None:
        if bins < 1 or not r_max > 0:
            raise AnalysisError(
                f"RDF got bins={bins} and r_max={r_max:g} nm; give at least one bin and an r_max"
                " above 0."
            )
        first, second = types
        self.types, self.bins, self.r_max = (first, second), bins, r_max
        self._reset()

    def _reset(self) -> None:
        self._counts = np.zeros(self.bins)  # pairs, each once
        self._density = 0.0  # pairs per nm^3 of an ideal gas, summed over frames
        self._centers = 0  # beads of type a, summed over frames

    def _add(self, frame: Frame, neighbors: Neighbors | None) -> None:
        types = np.asarray(frame.types)
        members = np.flatnonzero((types == self.types[0]) | (types == self.types[1]))
        first, second, _, distances = near_pairs(
            Frame(np.asarray(frame.positions)[members], frame.box, types[members]), self.r_max
        )
        in_a, in_b = types[members] == self.types[0], types[members] == self.types[1]
        wanted = (in_a[first] & in_b[second]) | (in_b[first] & in_a[second])
        self._count(distances[wanted], int(in_a.sum()), int(in_b.sum()), volume(frame.box))

    def _count(self, distances: np.ndarray, n_a: int, n_b: int, volume: float) -> None:
        """Add the distances (nm) of one frame's pairs, each pair once."""
        like = self.types[0] == self.types[1]
        possible = n_a * (n_a - 1) / 2 if like else n_a * n_b
        if possible == 0:
            raise AnalysisError(
                f"There is no pair {self.types[0]}-{self.types[1]}: the frame holds {n_a} and {n_b}"
                " such beads; check the type names."
            )
        bins = (distances * (self.bins / self.r_max)).astype(int)
        self._counts += np.bincount(bins[bins < self.bins], minlength=self.bins)
        self._density += possible / volume
        self._centers += n_a

    @property
    def bin_edges(self) -> np.ndarray:
        """Edges of the bins, shape (bins + 1,), nm."""
        return np.linspace(0, self.r_max, self.bins + 1)

    @property
    def bin_centers(self) -> np.ndarray:
        """Centres of the bins, shape (bins,), nm.

        Raises
        ------
        AnalysisError
            Like every result, before the first `compute`.
        """
        self._check_computed()
        edges = self.bin_edges
        return 0.5 * (edges[1:] + edges[:-1])

    @property
    def values(self) -> np.ndarray:
        """g(r), shape (bins,)."""
        self._check_computed()
        return self._counts / (self._density * self.weights)

    @property
    def bin_width(self) -> float:
        """Width of a bin, nm."""
        return self.r_max / self.bins

    @property
    def weights(self) -> np.ndarray:
        """Volume of every shell, shape (bins,), nm^3."""
        return 4 / 3 * np.pi * np.diff(self.bin_edges**3)

    @property
    def coordination(self) -> np.ndarray:
        """Mean number of b beads around an a bead, shape (bins,).

        Up to the outer edge of each bin, ``bin_edges[1:]``.
        """
        self._check_computed()
        # a like pair makes two beads neighbours
        neighbors = 2 if self.types[0] == self.types[1] else 1
        return neighbors * np.cumsum(self._counts) / self._centers

    def _check_computed(self) -> None:
        if not self._centers:
            raise AnalysisError(
                f"The RDF of {self.types[0]}-{self.types[1]} holds no frame; call compute(frame)"
                " first."
            )


def all_rdfs(
    positions: np.ndarray,
    boxes: np.ndarray,
    beads: BeadTopology,
    bins: int = 150,
    r_max: float = 1.3,
) -> dict[tuple[str, str], RDF]:
    """RDF of every pair of bead types, with one search for pairs per frame.

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    beads : BeadTopology
    bins : int
    r_max : float, nm

    Returns
    -------
    dict
        RDF by pair of type names, in the order of ``beads.type_names``. A type with a single bead
        has no pair with itself.

    Raises
    ------
    AnalysisError
        If there is no frame, the beads do not fit the positions, or a type has no bead.
    BoxError
        If r_max is above half the smallest box height.
    """
    if (
        len(positions) == 0
        or positions.shape[1:] != (beads.n_beads, 3)
        or boxes.shape != (len(positions), 3, 3)
    ):
        raise AnalysisError(
            f"Got positions of shape {positions.shape} and boxes of shape {boxes.shape} for"
            f" {beads.n_beads} beads; expected (n_frames, n_beads, 3) and (n_frames, 3, 3) with at"
            " least one frame."
        )
    population = np.bincount(beads.types, minlength=len(beads.type_names))
    kinds = [
        (a, b)
        for a, b in combinations_with_replacement(range(len(population)), 2)
        if a != b or population[a] != 1
    ]
    rdfs = {
        kind: RDF((beads.type_names[kind[0]], beads.type_names[kind[1]]), bins, r_max)
        for kind in kinds
    }
    for frame, box in zip(positions, boxes, strict=True):
        first, second, _, distances = near_pairs(Frame(frame, box, beads.types), r_max)
        low, high = np.sort([beads.types[first], beads.types[second]], axis=0)
        for (a, b), rdf in rdfs.items():
            rdf._count(
                distances[(low == a) & (high == b)],
                int(population[a]),
                int(population[b]),
                volume(box),
            )
    return {(beads.type_names[a], beads.type_names[b]): rdf for (a, b), rdf in rdfs.items()}


def block_rdfs(
    positions: np.ndarray,
    boxes: np.ndarray,
    beads: BeadTopology,
    bins: int,
    r_max: float,
    blocks: int,
    update: Callable[[int], None] | None = None,
) -> dict[tuple[str, str], list[RDF]]:
    """`all_rdfs` of each of `blocks` contiguous stretches of time, equal to within one frame.

    ``RDF.merged`` of a list is the RDF over all frames. `update` is called with the number of
    frames done.

    Raises
    ------
    AnalysisError
        If there are fewer frames than blocks; else as `all_rdfs`.
    """
    if len(positions) < blocks:
        raise AnalysisError(
            f"{len(positions)} frames cannot be cut into {blocks} time blocks; give a longer"
            " trajectory or fewer blocks."
        )
    parts = []
    for frames in np.array_split(np.arange(len(positions)), blocks):
        parts.append(all_rdfs(positions[frames], boxes[frames], beads, bins, r_max))
        if update is not None:
            update(int(frames[-1]) + 1)
    return {pair: [part[pair] for part in parts] for pair in parts[0]}
