"""One configuration, its pairs within a distance, and the triples they form."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cached_property
from typing import NamedTuple

import numpy as np

from openmm_cgkd.exceptions import BoxError
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.utils.box import box_volume, largest_r_max, smallest_height


class Frame(NamedTuple):
    """One configuration.

    Attributes
    ----------
    positions : ndarray, shape (n_beads, 3), nm
        Wrapped into the box or not.
    box : ndarray, shape (3, 3), nm
        Box vectors as rows, triclinic allowed.
    types : sequence, shape (n_beads,)
        Type of every bead, as names or as indices.
    """

    positions: np.ndarray
    box: np.ndarray
    types: np.ndarray


class Triples(NamedTuple):
    """All angles at all beads: an apex with two of its neighbours, each pair of them once.

    Attributes
    ----------
    first, second : ndarray, shape (n_triples,)
        Rows of the `Neighbors` that hold the two arms.
    angles : ndarray, shape (n_triples,), degrees
    kinds : ndarray, shape (n_triples,)
        ``(apex * n_types + type at the end of first) * n_types + type at the end of second``.
    """

    first: np.ndarray
    second: np.ndarray
    angles: np.ndarray
    kinds: np.ndarray


class Neighbors:
    """All neighbours within a distance of every bead, sorted by the central bead.

    A pair of beads appears twice, with each of them as the centre.

    Parameters
    ----------
    frame : Frame
    r_max : float or dict
        Largest distance, nm; a dictionary gives it by pair of types, either way round, and pairs
        without an entry are left out.

    Attributes
    ----------
    type_names : ndarray
        The types that occur, sorted; `types` indexes them.
    types : ndarray, shape (n_beads,)
    centers, others : ndarray, shape (n_neighbors,)
        Bead indices.
    vectors : ndarray, shape (n_neighbors, 3), nm
        From the central bead to the other.
    distances : ndarray, shape (n_neighbors,), nm

    Raises
    ------
    BoxError
        If a distance is above half the smallest box height.
    """

    def __init__(self, frame: Frame, r_max: float | dict[tuple, float]) -> None:
        self.frame = frame
        self.type_names, self.types, counts = np.unique(
            np.asarray(frame.types), return_inverse=True, return_counts=True
        )
        self._codes = {name: k for k, name in enumerate(self.type_names.tolist())}
        self._counts = counts.tolist()
        largest = max(r_max.values()) if isinstance(r_max, dict) else r_max
        first, second, vectors, distances = near_pairs(frame, largest)
        if isinstance(r_max, dict):
            near = distances < self._table(r_max)[self.types[first], self.types[second]]
            first = first[near]
            second = second[near]
            vectors = vectors[near]
            distances = distances[near]
        order = np.argsort(np.concatenate([first, second]), kind="stable")
        self.centers = np.concatenate([first, second])[order]
        self.others = np.concatenate([second, first])[order]
        self.vectors = np.concatenate([vectors, -vectors])[order]
        self.distances = np.concatenate([distances, distances])[order]

    def _table(self, r_max: dict[tuple, float]) -> np.ndarray:
        """Largest distance by the indices of both types, shape (n_types, n_types), nm."""
        table = np.zeros(2 * [len(self.type_names)])
        for (a, b), distance in r_max.items():
            for k, m in ((self.code(a), self.code(b)), (self.code(b), self.code(a))):
                if k is not None and m is not None:
                    table[k, m] = distance
        return table

    def code(self, type_name: Hashable) -> int | None:
        """Index of a type among `type_names`, or None if no bead is of that type."""
        return self._codes.get(type_name)

    def count(self, type_name: Hashable) -> int:
        """Number of beads of a type."""
        code = self.code(type_name)
        return 0 if code is None else self._counts[code]

    @cached_property
    def triples(self) -> Triples:
        """Every angle at every bead."""
        # end of the centre's rows
        last = np.cumsum(np.bincount(self.centers, minlength=len(self.types)))[self.centers]
        rows = np.arange(len(self.centers))
        later = last - rows - 1  # partners of a row: the rows after it at the same centre
        first = np.repeat(rows, later)
        second = np.arange(len(first)) - np.repeat(np.cumsum(later) - later, later) + first + 1
        units = self.vectors / self.distances[:, None]
        cosines = np.einsum("ij,ij->i", units[first], units[second])
        ends, n = self.types[self.others], len(self.type_names)
        # small integers sort fast
        kinds = ((self.types[self.centers[first]] * n + ends[first]) * n + ends[second]).astype(
            np.int16 if n < 32 else np.int64
        )
        return Triples(first, second, np.degrees(np.arccos(np.clip(cosines, -1, 1))), kinds)

    @cached_property
    def _rows_of_kinds(self) -> dict[int, np.ndarray]:
        order = np.argsort(self.triples.kinds, kind="stable")
        kinds, starts = np.unique(self.triples.kinds[order], return_index=True)
        # no kinds: one empty part
        return dict(zip(kinds.tolist(), np.split(order, starts[1:])[: len(kinds)], strict=True))

    def rows_of_kind(self, types: tuple) -> np.ndarray:
        """Rows of `triples` whose first end, apex and second end are of these types."""
        first, apex, second = (self.code(name) for name in types)
        if first is None or apex is None or second is None:
            return np.zeros(0, dtype=int)
        n = len(self.type_names)
        return self._rows_of_kinds.get((apex * n + first) * n + second, np.zeros(0, dtype=int))


def near_pairs(frame: Frame, r_max: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """All pairs of beads within r_max, each once.

    Indices of the first and of the second beads, shape (n_pairs,), vectors from first to second,
    shape (n_pairs, 3), nm, and distances, shape (n_pairs,), nm.

    Raises
    ------
    BoxError
        If r_max is above half the smallest box height.
    """
    height = smallest_height(np.asarray(frame.box))
    if r_max > height / 2:
        raise BoxError(
            f"r_max of {r_max:g} nm is above half the smallest box height of {height:.4f} nm; "
            f"use at most {largest_r_max(np.asarray(frame.box)):g} nm or a larger box."
        )
    positions = np.asarray(frame.positions, dtype=float)
    pairs = find_pairs(positions, frame.box, r_max)
    vectors = positions[pairs.second] - positions[pairs.first] + pairs.shifts
    return pairs.first, pairs.second, vectors, np.linalg.norm(vectors, axis=1)


def volume(box: np.ndarray) -> float:
    """Volume of a box (3, 3), nm^3."""
    return float(abs(box_volume(box)))
