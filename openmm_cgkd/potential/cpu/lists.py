"""Neighbour lists on a CPU: with a skin, kept while they hold, for the positions of any context."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from openmm_cgkd.utils.box import kernel_box, smallest_height

from .jit import compiled
from .neighbors import find_neighbors

_serial = compiled()

SKIN = 0.15  # nm; wider lists are remade less often, and are longer
_KEPT = 8  # lists, for as many contexts in one process
# edges in all kept lists but two (what a barostat goes to and fro between): 80 MB
_KEPT_EDGES = 5_000_000
# nm; from 2^51 boxes on `neighbors.image` would round i - j otherwise than j - i, and loops that
# count on edges in pairs write beyond their arrays
_FARTHEST = 1e12


@dataclass(frozen=True)
class NeighborList:
    """Directed edges between beads closer than a cutoff and a skin.

    The list is good until a bead has moved half the skin.

    Attributes
    ----------
    row : ndarray, shape (n_beads + 1,)
        Edges of bead i are ``row[i]:row[i + 1]``.
    column, reverse : ndarray, shape (n_edges,)
        Neighbour of each edge, ascending for every bead, and the place of the edge back.
    positions : ndarray, shape (n_beads, 3), nm
    box : bytes
        Those it was made for; bytes compare in no time.
    cutoff, skin : float, nm
    """

    row: np.ndarray
    column: np.ndarray
    reverse: np.ndarray
    positions: np.ndarray
    box: bytes
    cutoff: float
    skin: float

    def holds(self, positions: np.ndarray, box: np.ndarray, cutoff: float) -> bool:
        """Whether no pair closer than the cutoff can be missing."""
        same = (
            positions.shape == self.positions.shape
            and cutoff == self.cutoff
            and box.tobytes() == self.box
        )
        return same and _largest_move(positions, self.positions) < (0.5 * self.skin) ** 2


@_serial
def _largest_move(positions, reference):
    largest = 0.0
    for i in range(positions.shape[0]):
        d = 0.0
        for a in range(3):
            d += (positions[i, a] - reference[i, a]) ** 2
        largest = max(largest, d)
    return largest


def neighbor_list(
    positions: np.ndarray, box: np.ndarray, cutoff: float, skin: float = 0.0
) -> NeighborList:
    """Make a list.

    Parameters
    ----------
    positions : ndarray, shape (n_beads, 3), float64, nm
    box : ndarray, shape (3, 3) or (0, 3), float64, nm
        Reduced box vectors as rows; empty for open boundaries.
    cutoff, skin : float, nm
        The skin is cut to what the box allows: nearest images are unique only up to half its
        smallest height.

    Raises
    ------
    RuntimeError
        If a position is not finite or absurdly far away, as when a simulation explodes.
    """
    if not (np.abs(positions) < _FARTHEST).all():  # NaN is not below anything
        raise RuntimeError(
            f"Bead positions are not finite or beyond {_FARTHEST:g} nm; use a smaller time step."
        )
    if len(box) > 0:
        skin = max(0.0, min(skin, 0.5 * smallest_height(box) - cutoff))
    row, column, reverse = find_neighbors(positions, kernel_box(box.tolist()), cutoff + skin)
    return NeighborList(row, column, reverse, positions.copy(), box.tobytes(), cutoff, skin)


recent_lists: list[NeighborList] = []
_lock = threading.Lock()


def recent_list(positions: np.ndarray, box: np.ndarray, cutoff: float) -> NeighborList:
    """A list that holds for these positions: one of the last few, or a new one.

    Lists are never changed and are checked against the positions, so it does not matter which
    context or thread made one.
    """
    with _lock:
        known = list(recent_lists)
    for each in known:
        if each.holds(positions, box, cutoff):
            return each
    fresh = neighbor_list(positions, box, cutoff, SKIN)
    with _lock:
        recent_lists.insert(0, fresh)
        sizes = np.cumsum([len(each.column) for each in recent_lists])
        del recent_lists[min(_KEPT, max(2, int(np.searchsorted(sizes, _KEPT_EDGES)))) :]
    return fresh
