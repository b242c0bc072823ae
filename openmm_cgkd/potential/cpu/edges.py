"""Edges shorter than the cutoff: what the kernels sum over.

They are found in a neighbour list at every step.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from .jit import compiled
from .neighbors import image

_serial, _parallel = compiled(), compiled(parallel=True)


class Edges(NamedTuple):
    """Edges shorter than the cutoff, in the order of their list.

    Attributes
    ----------
    start, degree : ndarray, shape (n_beads,)
        Edges of bead i are ``start[i] : start[i] + degree[i]``.
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
    degree: np.ndarray
    column: np.ndarray
    knot: np.ndarray
    place: np.ndarray
    unit: np.ndarray
    distance: np.ndarray
    opposite: np.ndarray


def edge_space(
    n_listed: int, dtype: np.dtype, empty: Callable[..., np.ndarray] = np.empty
) -> tuple[np.ndarray, ...]:
    """Arrays that `find_edges` fills, for a list of so many edges; places get the type `dtype`."""
    return (
        empty((2, n_listed), np.int32),
        empty(n_listed, dtype),
        empty((n_listed, 3)),
        empty(n_listed),
        empty((3, n_listed), np.int64),
    )


@_serial
def find_edges(positions, box, cutoff, n_intervals, row, listed, reverse, space):
    """Edges shorter than the cutoff, at positions for which a neighbour list holds.

    The list is `row`, `listed` and `reverse`.

    ``box`` is that of `kernel_box`, ``space`` that of `edge_space`.
    """
    short, place, unit, distance, long = space
    column, knot = short[0], short[1]
    slot, origin, opposite = long[0], long[1], long[2]
    count = np.empty(len(row) - 1, np.int64)
    _find(
        positions,
        box,
        cutoff,
        n_intervals,
        row,
        listed,
        count,
        column,
        knot,
        place,
        unit,
        distance,
        slot,
        origin,
    )
    _pair(row, count, origin, reverse, slot, opposite)
    return Edges(row[:-1], count, column, knot, place, unit, distance, opposite)


@_parallel
def _find(
    positions,
    box,
    cutoff,
    n_intervals,
    row,
    listed,
    count,
    column,
    knot,
    place,
    unit,
    distance,
    slot,
    origin,
):
    scale, limit = n_intervals / cutoff, cutoff * cutoff
    for i in numba.prange(positions.shape[0]):
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        e = row[i]
        for k in range(row[i], row[i + 1]):
            j = listed[k]
            dx, dy, dz = image(positions[j, 0] - x, positions[j, 1] - y, positions[j, 2] - z, box)
            square = dx * dx + dy * dy + dz * dz
            # written over by the next one if it is too long: a branch could not be predicted
            column[e], distance[e] = j, square
            unit[e, 0], unit[e, 1], unit[e, 2] = dx, dy, dz
            slot[k], origin[e] = e, k
            e += square < limit
        count[i] = e - row[i]
        for e in range(row[i], row[i] + count[i]):
            r = math.sqrt(distance[e])
            distance[e] = r
            knot[e] = min(int(r * scale), n_intervals - 1)
            place[e] = r * scale - knot[e]
            inverse = 1 / r
            unit[e, 0] *= inverse
            unit[e, 1] *= inverse
            unit[e, 2] *= inverse


@_parallel
def _pair(row, count, origin, reverse, slot, opposite):
    for i in numba.prange(count.shape[0]):
        for e in range(row[i], row[i] + count[i]):
            opposite[e] = slot[reverse[origin[e]]]


@_parallel
def position_gradient(start, count, opposite, edge_gradient, out):
    """Gradient by bead positions (n_beads, 3), from that by the edge vectors."""
    for i in numba.prange(count.shape[0]):
        x, y, z = 0.0, 0.0, 0.0
        for e in range(start[i], start[i] + count[i]):
            back = opposite[e]
            x += edge_gradient[back, 0] - edge_gradient[e, 0]
            y += edge_gradient[back, 1] - edge_gradient[e, 1]
            z += edge_gradient[back, 2] - edge_gradient[e, 2]
        out[i, 0], out[i, 1], out[i, 2] = x, y, z
