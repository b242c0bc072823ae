"""Edges shorter than the cutoff: what the kernels sum over.

They are found in a neighbour list at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numba
import numpy as np

from .jit import compiled
from .neighbors import image
from .parts import n_parts, part
from .simd import DOUBLES, floor, gather, number, sqrt, store, store_first

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
    unit, distance : ndarray, shape (3, n_listed) and (n_listed,), nm
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
        # vectors may be longer than the list
        empty((3, n_listed + DOUBLES)),
        empty(n_listed + DOUBLES),
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
    scale, limit, n_beads = n_intervals / cutoff, cutoff * cutoff, positions.shape[0]
    flat, x_of, y_of, z_of = positions.reshape(-1), unit[0], unit[1], unit[2]
    for p in numba.prange(n_parts(n_beads)):
        begin, end = part(p, n_beads)
        room = DOUBLES
        for i in range(begin, end):
            room = max(room, row[i + 1] - row[i] + DOUBLES)
        beads, near, square = (
            np.empty(room, np.int32),
            np.zeros(room, np.int32),
            np.empty(room),
        )
        x, y, z = np.empty(room), np.empty(room), np.empty(room)
        for i in range(begin, end):
            first, size = row[i], row[i + 1] - row[i]
            for k in range(size):
                beads[k] = listed[first + k]
            for k in range(size, size + DOUBLES):  # vectors may be longer than the list
                beads[k] = i
            x0, y0, z0 = positions[i, 0], positions[i, 1], positions[i, 2]
            for k in range(0, size, DOUBLES):
                dx, dy, dz = image(
                    gather(flat, beads, k, 3, 0, DOUBLES) - x0,
                    gather(flat, beads, k, 3, 1, DOUBLES) - y0,
                    gather(flat, beads, k, 3, 2, DOUBLES) - z0,
                    box,
                )
                store(x, k, dx)
                store(y, k, dy)
                store(z, k, dz)
                store(square, k, dx * dx + dy * dy + dz * dz)
            found = 0
            for k in range(size):
                # written over by the next one if it is too long: a branch could not be predicted
                near[found] = k
                slot[first + k] = first + found
                found += number(square, k) < limit
            count[i] = found
            for m in range(found):
                k = number(near, m)
                column[first + m] = number(beads, k)
                origin[first + m] = first + k
            for m in range(0, found, DOUBLES):
                e, n = first + m, found - m
                r = sqrt(gather(square, near, m, 1, 0, DOUBLES))
                inverse, at = 1 / r, r * scale
                below = floor(at, n_intervals - 1)
                store_first(distance, e, r, n)
                store_first(knot, e, below, n)
                store_first(place, e, at - below, n)
                store_first(x_of, e, gather(x, near, m, 1, 0, DOUBLES) * inverse, n)
                store_first(y_of, e, gather(y, near, m, 1, 0, DOUBLES) * inverse, n)
                store_first(z_of, e, gather(z, near, m, 1, 0, DOUBLES) * inverse, n)


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
            x += edge_gradient[0, back] - edge_gradient[0, e]
            y += edge_gradient[1, back] - edge_gradient[1, e]
            z += edge_gradient[2, back] - edge_gradient[2, e]
        out[i, 0], out[i, 1], out[i, 2] = x, y, z
