"""Neighbour search for simulation: linked cells, linear in the number of beads, and lists that are kept while they hold."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass

import numba
import numpy as np

from ..frames import smallest_height

SKIN = 0.1  # nm; rebuilding costs about as much as ten steps spend on the pairs in a skin of this width
_KEPT = 8  # lists, for as many contexts in one process

_parallel = numba.njit(cache=True, nogil=True, parallel=True)


@numba.njit(cache=True, nogil=True)
def _wrap_difference(d, box, periodic):
    """Nearest image of a difference vector, in place; box in OpenMM's reduced form, cutoff below half its heights."""
    if periodic:
        for k in (2, 1, 0):
            n = np.rint(d[k] / box[k, k])
            if n != 0.0:
                for a in range(k + 1):
                    d[a] -= n * box[k, a]


@numba.njit(cache=True, nogil=True)
def _cells(positions, box, periodic, cutoff):
    """Sort beads into cells no narrower than the cutoff; returns cell counts, the cell of each bead, and beads by cell."""
    n = positions.shape[0]
    low, width = np.zeros(3), np.ones(3)
    counts = np.ones(3, np.int64)
    fractional = np.empty((n, 3))
    for i in range(n):
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        if periodic:
            sz = z / box[2, 2]
            sy = (y - sz * box[2, 1]) / box[1, 1]
            sx = (x - sy * box[1, 0] - sz * box[2, 0]) / box[0, 0]
            fractional[i, 0], fractional[i, 1], fractional[i, 2] = sx - np.floor(sx), sy - np.floor(sy), sz - np.floor(sz)
        else:
            fractional[i, 0], fractional[i, 1], fractional[i, 2] = x, y, z
    if periodic:
        # distances between opposite faces of the reduced box
        volume = box[0, 0] * box[1, 1] * box[2, 2]
        b_c = math.sqrt((box[1, 1] * box[2, 2]) ** 2 + (box[1, 0] * box[2, 2]) ** 2 + (box[1, 0] * box[2, 1] - box[1, 1] * box[2, 0]) ** 2)
        a_c = math.sqrt((box[0, 0] * box[2, 2]) ** 2 + (box[0, 0] * box[2, 1]) ** 2)
        heights = (volume / b_c, volume / a_c, box[2, 2])
        for k in range(3):
            counts[k] = max(1, int(heights[k] / cutoff))
            width[k] = 1.0 / counts[k]
    else:
        for k in range(3):
            low[k] = fractional[:, k].min()
            span = fractional[:, k].max() - low[k]
            counts[k] = min(max(1, int(span / cutoff)), 1 + int(n ** (1 / 3)))
            width[k] = span / counts[k] + 1e-12
    cell = np.empty(n, np.int64)
    start = np.zeros(counts[0] * counts[1] * counts[2] + 1, np.int64)
    for i in range(n):
        index = 0
        for k in range(3):
            c = int((fractional[i, k] - low[k]) / width[k])
            index = index * counts[k] + min(max(c, 0), counts[k] - 1)
        cell[i] = index
        start[index + 1] += 1
    for c in range(1, len(start)):
        start[c] += start[c - 1]
    order = np.empty(n, np.int64)
    fill = start[:-1].copy()
    for i in range(n):
        order[fill[cell[i]]] = i
        fill[cell[i]] += 1
    return counts, cell, start, order


@numba.njit(cache=True, nogil=True)
def _neighbour_cells(cell, counts, periodic, out):
    """Distinct cells around one cell, itself included; returns how many."""
    z = cell % counts[2]
    y = (cell // counts[2]) % counts[1]
    x = cell // (counts[1] * counts[2])
    n = 0
    for dx in range(-1, 2):
        for dy in range(-1, 2):
            for dz in range(-1, 2):
                a, b, c = x + dx, y + dy, z + dz
                if periodic:
                    a, b, c = a % counts[0], b % counts[1], c % counts[2]
                elif a < 0 or b < 0 or c < 0 or a >= counts[0] or b >= counts[1] or c >= counts[2]:
                    continue
                index = (a * counts[1] + b) * counts[2] + c
                known = False
                for m in range(n):
                    known = known or out[m] == index
                if not known:
                    out[n] = index
                    n += 1
    return n


@_parallel
def _count_neighbours(positions, box, periodic, radius, counts, cell, start, order, found):
    for i in numba.prange(positions.shape[0]):
        around = np.empty(27, np.int64)
        d = np.empty(3)
        n = 0
        for m in range(_neighbour_cells(cell[i], counts, periodic, around)):
            for k in range(start[around[m]], start[around[m] + 1]):
                if order[k] != i:
                    n += _difference(positions, i, order[k], box, periodic, d) < radius * radius
        found[i + 1] = n


@numba.njit(cache=True, nogil=True)
def _difference(positions, i, j, box, periodic, d):
    """Nearest image of the vector from bead i to bead j; returns its square."""
    for a in range(3):
        d[a] = positions[j, a] - positions[i, a]
    _wrap_difference(d, box, periodic)
    return d[0] * d[0] + d[1] * d[1] + d[2] * d[2]


@_parallel
def _fill_neighbours(positions, box, periodic, radius, counts, cell, start, order, row, column):
    for i in numba.prange(positions.shape[0]):
        around = np.empty(27, np.int64)
        d = np.empty(3)
        e = row[i]
        for m in range(_neighbour_cells(cell[i], counts, periodic, around)):
            for k in range(start[around[m]], start[around[m] + 1]):
                if order[k] != i and _difference(positions, i, order[k], box, periodic, d) < radius * radius:
                    column[e] = order[k]
                    e += 1
        # sorted, so that sums over neighbours do not depend on when the list was made
        column[row[i] : row[i + 1]].sort()


@_parallel
def _reverse(row, column, reverse):
    """Where each edge's opposite stands."""
    for i in numba.prange(row.shape[0] - 1):
        for e in range(row[i], row[i + 1]):
            j = column[e]
            reverse[e] = row[j] + np.searchsorted(column[row[j] : row[j + 1]], i)


@dataclass(frozen=True)
class NeighbourList:
    """Directed edges between beads closer than a cutoff and a skin, good until a bead has moved half the skin.

    Attributes
    ----------
    row : ndarray, shape (n_beads + 1,)
        Edges of bead i are ``row[i]:row[i + 1]``.
    column, reverse : ndarray, shape (n_edges,)
        Neighbour of each edge, ascending for every bead, and the place of the edge back.
    positions, box : ndarray
        Those it was made for.
    cutoff, skin : float, nm
    """

    row: np.ndarray
    column: np.ndarray
    reverse: np.ndarray
    positions: np.ndarray
    box: np.ndarray
    cutoff: float
    skin: float

    def holds(self, positions: np.ndarray, box: np.ndarray, cutoff: float) -> bool:
        """Whether no pair closer than the cutoff can be missing."""
        same = positions.shape == self.positions.shape and cutoff == self.cutoff and np.array_equal(box, self.box)
        return same and _largest_move(positions, self.positions) < (0.5 * self.skin) ** 2


@numba.njit(cache=True, nogil=True)
def _largest_move(positions, reference):
    largest = 0.0
    for i in range(positions.shape[0]):
        d = 0.0
        for a in range(3):
            d += (positions[i, a] - reference[i, a]) ** 2
        largest = max(largest, d)
    return largest


def neighbour_list(positions: np.ndarray, box: np.ndarray, cutoff: float, skin: float = 0.0) -> NeighbourList:
    """Make a list.

    Parameters
    ----------
    positions : ndarray, shape (n_beads, 3), float64, nm
    box : ndarray, shape (3, 3) or (0, 3), float64, nm
        Reduced box vectors as rows; empty for open boundaries.
    cutoff, skin : float, nm
        The skin is cut to what the box allows: nearest images are unique only up to half its smallest height.
    """
    periodic = len(box) > 0
    cell_box = box if periodic else np.eye(3)
    if periodic:
        skin = max(0.0, min(skin, 0.5 * smallest_height(box) - cutoff))
    radius = cutoff + skin
    grid = _cells(positions, cell_box, periodic, radius)
    row = np.zeros(len(positions) + 1, np.int64)
    _count_neighbours(positions, cell_box, periodic, radius, *grid, row)
    np.cumsum(row, out=row)
    column, reverse = np.empty((2, row[-1]), np.int64)
    _fill_neighbours(positions, cell_box, periodic, radius, *grid, row, column)
    _reverse(row, column, reverse)
    return NeighbourList(row, column, reverse, positions.copy(), box.copy(), cutoff, skin)


_recent: list[NeighbourList] = []
_lock = threading.Lock()


def recent_list(positions: np.ndarray, box: np.ndarray, cutoff: float) -> NeighbourList:
    """A list that holds for these positions: one of the last few, or a new one.

    Lists are never changed and are checked against the positions, so it does not matter which context or thread made one.
    """
    with _lock:
        known = list(_recent)
    for each in known:
        if each.holds(positions, box, cutoff):
            return each
    fresh = neighbour_list(positions, box, cutoff, SKIN)
    with _lock:
        _recent.insert(0, fresh)
        del _recent[_KEPT:]
    return fresh


@dataclass(frozen=True)
class Edges:
    """Edges shorter than the cutoff, in the order of their list.

    Attributes
    ----------
    start, count : ndarray, shape (n_beads,)
        Edges of bead i are ``start[i] : start[i] + count[i]``.
    column, knot : ndarray, shape (n_listed,)
        Neighbour, and interval of the distance in radial tables.
    place : ndarray, shape (n_listed,)
        Place in that interval, from 0 to 1.
    unit, distance : ndarray, shape (n_listed, 3) and (n_listed,), nm
        From the bead to its neighbour.
    opposite : ndarray, shape (n_listed,)
        The edge back.
    """

    start: np.ndarray
    count: np.ndarray
    column: np.ndarray
    knot: np.ndarray
    place: np.ndarray
    unit: np.ndarray
    distance: np.ndarray
    opposite: np.ndarray


def edges(listed: NeighbourList, positions: np.ndarray, box: np.ndarray, n_intervals: int, dtype: np.dtype) -> Edges:
    """Edges shorter than the list's cutoff, at positions for which it holds."""
    n, start = len(listed.column), listed.row[:-1]
    count = np.empty(len(start), np.int64)
    column, knot, slot, origin = np.empty((4, n), np.int64)
    place, unit, distance = np.empty(n, dtype), np.empty((n, 3)), np.empty(n)
    periodic = len(box) > 0
    arguments = (positions, box if periodic else np.eye(3), periodic, listed.cutoff, n_intervals, listed.row, listed.column)
    _find_edges(*arguments, count, column, knot, place, unit, distance, slot, origin)
    opposite = np.empty(n, np.int64)
    _pair_edges(start, count, origin, listed.reverse, slot, opposite)
    return Edges(start, count, column, knot, place, unit, distance, opposite)


@_parallel
def _find_edges(positions, box, periodic, cutoff, n_intervals, row, listed, count, column, knot, place, unit, distance, slot, origin):
    scale = n_intervals / cutoff
    for i in numba.prange(positions.shape[0]):
        d = np.empty(3)
        e = row[i]
        for k in range(row[i], row[i + 1]):
            square = _difference(positions, i, listed[k], box, periodic, d)
            if square < cutoff * cutoff:
                r = math.sqrt(square)
                column[e], distance[e] = listed[k], r
                knot[e] = min(int(r * scale), n_intervals - 1)
                place[e] = r * scale - knot[e]
                for a in range(3):
                    unit[e, a] = d[a] / r
                slot[k], origin[e] = e, k
                e += 1
        count[i] = e - row[i]


@_parallel
def _pair_edges(start, count, origin, reverse, slot, opposite):
    for i in numba.prange(count.shape[0]):
        for e in range(start[i], start[i] + count[i]):
            opposite[e] = slot[reverse[origin[e]]]


@_parallel
def position_gradient(start, count, opposite, edge_gradient, out):
    """Gradient with respect to bead positions (n_beads, 3), from that with respect to the edge vectors."""
    for i in numba.prange(count.shape[0]):
        for a in range(3):
            out[i, a] = 0.0
        for e in range(start[i], start[i] + count[i]):
            for a in range(3):
                out[i, a] += edge_gradient[opposite[e], a] - edge_gradient[e, a]
