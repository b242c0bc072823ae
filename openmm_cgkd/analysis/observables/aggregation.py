"""Unphysical aggregation: beads closer, or in larger clusters, than all-atom ever shows.

Potentials trained on forces alone can have spurious minima at distances that the all-atom run
hardly visits. Beads that fall into them make clumps, while energy and temperature may look healthy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.mapping.beads import BeadTopology

from .neighbors import Frame, Neighbors
from .rdf import RDF, all_rdfs

# close contacts per bead of the rarer type that all-atom has within the contact distance, far below
# percolation
_CONTACTS = 0.1
# at least this margin to the smallest distance and the largest cluster of the all-atom frames: a
# model whose beads are a little softer or stickier does not aggregate
_DISTANCE_SHARE, _SIZE_FACTOR = 0.9, 2.0
_BLOCKS = 20  # of them, whose extremes tell how far the next ones may go
_RARE = 1e-4  # share of blocks that are allowed to go beyond the limits
_PERSISTENCE = 5  # successive frames, so that a chance contact is no aggregation


class Clusters:
    """Smallest distances and clusters of beads in close contact, frame by frame.

    Parameters
    ----------
    contacts : dict
        Contact distance (nm) by pair of types, as they are written in ``Frame.types``; pairs
        without an entry make no contact.

    Raises
    ------
    AnalysisError
        If there is no contact distance or one is not positive.
    """

    def __init__(self, contacts: dict[tuple[str, str], float]) -> None:
        if not contacts or not min(contacts.values()) > 0:
            raise AnalysisError(
                f"Clusters got contact distances {contacts}; give at least one, all above 0."
            )
        self.contacts = dict(contacts)
        self._reset()

    def _reset(self) -> None:
        self._largest: list[int] = []
        self._smallest: dict[tuple[str, str], list[float]] = {pair: [] for pair in self.contacts}
        self._sizes: np.ndarray = np.zeros(())  # clusters by size, summed over frames

    def compute(self, frame: Frame, reset: bool = True) -> Clusters:
        """Add one frame; ``reset=False`` keeps the frames before it.

        Raises
        ------
        BoxError
            If a contact distance is above half the smallest box height.
        """
        if reset:
            self._reset()
        neighbors = Neighbors(frame, self.contacts)
        n, kinds = len(neighbors.types), len(neighbors.type_names)
        graph = coo_matrix(
            (np.ones(len(neighbors.centers)), (neighbors.centers, neighbors.others)), shape=(n, n)
        )
        sizes = np.bincount(connected_components(graph, directed=False)[1])
        self._largest.append(int(sizes.max()))
        self._sizes = self._sizes + np.bincount(sizes, minlength=n + 1)
        smallest = np.full((kinds, kinds), np.inf)
        ends = neighbors.types[neighbors.centers], neighbors.types[neighbors.others]
        np.minimum.at(smallest, ends, neighbors.distances)
        for (a, b), values in self._smallest.items():
            k, m = neighbors.code(a), neighbors.code(b)
            values.append(np.inf if k is None or m is None else float(smallest[k, m]))
        return self

    @property
    def largest(self) -> np.ndarray:
        """Number of beads in the largest cluster of every frame, shape (n_frames,)."""
        return np.array(self._computed())

    @property
    def smallest_distances(self) -> dict[tuple[str, str], np.ndarray]:
        """Smallest distance of every frame by pair of types, nm, shape (n_frames,).

        Infinite in frames without a contact of these types.
        """
        self._computed()
        return {pair: np.array(values) for pair, values in self._smallest.items()}

    @property
    def size_distribution(self) -> np.ndarray:
        """Mean number of clusters of each size 0, 1, ..., n_beads per frame."""
        return self._sizes / len(self._computed())

    def _computed(self) -> list[int]:
        if not self._largest:
            raise AnalysisError("The clusters hold no frame; call compute(frame) first.")
        return self._largest


@dataclass(frozen=True)
class AggregationLimits:
    """What all-atom shows, and so what a coarse-grained run may show.

    Attributes
    ----------
    contacts : dict
        Contact distance by pair of types, nm: within it all-atom has 0.1 neighbours per bead of the
        rarer type.
    smallest : dict
        Smallest distance that occurs in the all-atom frames by pair of types, nm.
    largest_cluster : int
        Number of beads in the largest cluster of the all-atom frames.
    closest : dict
        Distance by pair of types, nm, below which beads are too close, see `extreme_limit`.
    allowed_cluster : float
        Number of beads above which a cluster is too large.
    """

    contacts: dict[tuple[str, str], float]
    smallest: dict[tuple[str, str], float]
    largest_cluster: int
    closest: dict[tuple[str, str], float]
    allowed_cluster: float

    @classmethod
    def of(
        cls, positions: np.ndarray, boxes: np.ndarray, beads: BeadTopology, r_max: float
    ) -> AggregationLimits:
        """Limits from all-atom frames.

        Parameters
        ----------
        positions : ndarray, shape (n_frames, n_beads, 3), nm
        boxes : ndarray, shape (n_frames, 3, 3), nm
        beads : BeadTopology
        r_max : float, nm
            Contacts are sought up to this distance.

        Raises
        ------
        AnalysisError
            As `all_rdfs`, or if no pair of types comes into contact within `r_max`.
        """
        rdfs = all_rdfs(positions, boxes, beads, bins=500, r_max=r_max)
        distances = {pair: _contact_distance(rdf, pair, beads) for pair, rdf in rdfs.items()}
        contacts = {pair: distance for pair, distance in distances.items() if distance is not None}
        if not contacts:
            raise AnalysisError(
                f"No pair of bead types comes into contact within {r_max:g} nm; the fluid is too"
                " dilute, raise r_max."
            )
        clusters = clusters_of(contacts, positions, boxes, beads.names)
        smallest = {
            pair: float(values.min()) for pair, values in clusters.smallest_distances.items()
        }
        closest = {
            pair: min(_DISTANCE_SHARE * smallest[pair], extreme_limit(values))
            for pair, values in clusters.smallest_distances.items()
        }
        largest = int(clusters.largest.max())
        allowed = max(_SIZE_FACTOR * largest, -extreme_limit(-clusters.largest))
        return cls(contacts, smallest, largest, closest, allowed)

    def aggregated(self, clusters: Clusters) -> np.ndarray:
        """Whether each frame shows what all-atom does not.

        A frame is aggregated if two beads are closer than `closest`, or if a cluster is larger than
        `allowed_cluster`. These limits are at least a tenth below the smallest all-atom distance,
        and twice the largest all-atom cluster.

        Returns
        -------
        ndarray of bool, shape (n_frames,)
        """
        found = clusters.largest > self.allowed_cluster
        for pair, distances in clusters.smallest_distances.items():
            found |= distances < self.closest[pair]
        return found

    def first_aggregated(self, clusters: Clusters) -> int | None:
        """Index of the frame where the first five successive aggregated frames begin, or None."""
        return _first_run(self.aggregated(clusters), _PERSISTENCE)

    def describe(self, clusters: Clusters, frame: int) -> str:
        """What is wrong with an aggregated frame, as a sentence."""
        size = int(clusters.largest[frame])
        if size > self.allowed_cluster:
            return f"A cluster holds {size} beads, the largest all-atom one {self.largest_cluster}."
        shares = {
            pair: values[frame] / self.closest[pair]
            for pair, values in clusters.smallest_distances.items()
        }
        pair = min(shares, key=shares.__getitem__)
        found, allowed = clusters.smallest_distances[pair][frame], self.smallest[pair]
        return (
            f"Beads {'-'.join(pair)} come as close as {found:.3f} nm, in all-atom {allowed:.3f} nm."
        )

    def numbers(self) -> dict[str, Any]:
        """As plain data for a report."""
        return {
            "contact_distances": {"-".join(pair): value for pair, value in self.contacts.items()},
            "smallest_distances": {"-".join(pair): value for pair, value in self.smallest.items()},
            "largest_cluster": self.largest_cluster,
            "closest_allowed": {"-".join(pair): value for pair, value in self.closest.items()},
            "largest_allowed": self.allowed_cluster,
        }


def extreme_limit(values: np.ndarray) -> float:
    r"""A value below which a series hardly ever falls, from how the minima of its blocks scatter.

    Minima over many samples follow Gumbel's distribution :math:`1 - \exp(-e^{(x - \mu) / \beta})`
    with mean :math:`\mu - \gamma \beta` and standard deviation :math:`\pi \beta / \sqrt 6` (Gumbel,
    Statistics of Extremes, 1958). The limit is passed by one of 10,000 blocks as long as those of
    the series; the standard deviation is taken one of its own standard errors larger than it is
    found.

    Parameters
    ----------
    values : ndarray, shape (n_samples,)
        In order of time; infinite values do not count.

    Returns
    -------
    float
        Infinite if fewer than two blocks hold a finite value: then nothing is known.
    """
    minima = np.array([block.min() for block in np.array_split(values, min(_BLOCKS, len(values)))])
    minima = minima[np.isfinite(minima)]
    if len(minima) < 2:
        return np.inf
    spread = minima.std(ddof=1) * (1 + 1 / np.sqrt(2 * (len(minima) - 1)))
    scale = np.sqrt(6) / np.pi * spread
    return float(minima.mean() + scale * (np.euler_gamma + np.log(_RARE)))


def clusters_of(
    contacts: dict[tuple[str, str], float],
    positions: np.ndarray,
    boxes: np.ndarray,
    names: list[str],
) -> Clusters:
    """`Clusters` of all frames of a trajectory."""
    clusters, types = Clusters(contacts), np.array(names)
    for x, box in zip(positions, boxes, strict=True):
        clusters.compute(Frame(x, box, types), reset=False)
    return clusters


def evenly_spaced(n: int, at_most: int) -> np.ndarray:
    """Indices of at most `at_most` of n frames, evenly spaced from first to last."""
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).round().astype(int))


def _contact_distance(rdf: RDF, pair: tuple[str, str], beads: BeadTopology) -> float | None:
    """Distance within which a bead of the rarer type has the set number of neighbours.

    None if that is beyond r_max.
    """
    first, second = (beads.names.count(name) for name in pair)
    contacts = rdf.coordination * max(1.0, first / second)  # neighbours of the rarer type
    return (
        float(np.interp(_CONTACTS, contacts, rdf.bin_edges[1:]))
        if contacts[-1] > _CONTACTS
        else None
    )


def _first_run(flags: np.ndarray, length: int) -> int | None:
    """Index where the first `length` true values in a row begin; None if there are none."""
    runs = (
        np.convolve(flags, np.ones(length, dtype=int), mode="valid")
        if len(flags) >= length
        else np.zeros(0)
    )
    found = np.flatnonzero(runs == length)
    return int(found[0]) if len(found) else None
