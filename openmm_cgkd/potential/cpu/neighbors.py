"""Neighbour search on a CPU: linked cells, linear in the number of beads.

A box is passed to compiled code as nine numbers, see `openmm_cgkd.utils.box.kernel_box`.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from .jit import compiled
from .simd import DOUBLES, load, store

# no fastmath: it would cancel the rounding in `image`
_serial, _parallel = compiled(), compiled(parallel=True)
# added and subtracted again, it rounds to an integer, without a branch or a call
_ROUND = 1.5 * 2.0**52


@_serial
def image(x, y, z, box):
    """Nearest image of a difference vector.

    Right for all distances up to half the smallest box height.
    """
    ax, bx, by, cx, cy, cz, per_a, per_b, per_c = box
    n = (z * per_c + _ROUND) - _ROUND
    x, y, z = x - n * cx, y - n * cy, z - n * cz
    n = (y * per_b + _ROUND) - _ROUND
    x, y = x - n * bx, y - n * by
    n = (x * per_a + _ROUND) - _ROUND
    return x - n * ax, y, z


@_serial
def sorted_by_cell(positions, box, radius):
    """Sort beads by cells no narrower than the radius.

    Returns the numbers of cells along the axes, where each cell begins among the sorted beads,
    these beads, and their points (3, n).
    """
    n, periodic = positions.shape[0], box[0] > 0
    ax, bx, by, cx, cy, cz, per_a, per_b, per_c = box
    counts, low, per_width = np.ones(3, np.int64), np.zeros(3), np.ones(3)
    at = np.empty((n, 3))  # fractional coordinates if periodic
    if periodic:
        for i in range(n):
            c = positions[i, 2] * per_c
            b = (positions[i, 1] - c * cy) * per_b
            a = (positions[i, 0] - b * bx - c * cx) * per_a
            at[i, 0], at[i, 1], at[i, 2] = (
                a - np.floor(a),
                b - np.floor(b),
                c - np.floor(c),
            )
        volume = ax * by * cz
        height_a = volume / math.sqrt((by * cz) ** 2 + (bx * cz) ** 2 + (bx * cy - by * cx) ** 2)
        height_b = volume / math.sqrt((ax * cz) ** 2 + (ax * cy) ** 2)
        for k, height in enumerate((height_a, height_b, cz)):
            counts[k] = max(1, int(height / radius))
            per_width[k] = counts[k]
    else:
        at[:] = positions
        for k in range(3):
            low[k] = at[:, k].min()
            span = at[:, k].max() - low[k]
            counts[k] = min(max(1, int(span / radius)), 1 + int(n ** (1 / 3)))
            per_width[k] = counts[k] / (span + 1e-12)
    cell = np.empty(n, np.int64)
    start = np.zeros(counts[0] * counts[1] * counts[2] + 1, np.int64)
    for i in range(n):
        index = 0
        for k in range(3):
            index = index * counts[k] + min(
                max(int((at[i, k] - low[k]) * per_width[k]), 0), counts[k] - 1
            )
        cell[i] = index
        start[index + 1] += 1
    for c in range(1, len(start)):
        start[c] += start[c - 1]
    fill, order, points = start[:-1].copy(), np.empty(n, np.int32), np.empty((3, n))
    for i in range(n):
        m = fill[cell[i]]
        fill[cell[i]] += 1
        order[m] = i
        points[0, m], points[1, m], points[2, m] = (
            positions[i, 0],
            positions[i, 1],
            positions[i, 2],
        )
    return counts, start, order, points


@_serial
def _around(c, count, periodic):
    """Range of neighbour cells along one axis; periodic ranges may reach one beyond either end."""
    if periodic:
        return (0, count) if count < 3 else (c - 1, c + 2)
    return max(c - 1, 0), min(c + 2, count)


@_serial
def _ranges_around(cell, counts, periodic, start, out):
    """Ranges of sorted beads in a cell and in those around it, each once.

    Returns how many, at most 18.
    """
    n = 0
    first_x, last_x = _around(cell // (counts[1] * counts[2]), counts[0], periodic)
    first_y, last_y = _around((cell // counts[2]) % counts[1], counts[1], periodic)
    first, last = _around(cell % counts[2], counts[2], periodic)
    low, high = max(first, 0), min(last, counts[2])
    for a in range(first_x, last_x):
        for b in range(first_y, last_y):
            column = ((a % counts[0]) * counts[1] + b % counts[1]) * counts[2]
            out[n, 0], out[n, 1] = start[column + low], start[column + high]
            n += 1
            if first < low:
                out[n, 0], out[n, 1] = (
                    start[column + counts[2] - 1],
                    start[column + counts[2]],
                )
                n += 1
            if last > high:
                out[n, 0], out[n, 1] = start[column], start[column + 1]
                n += 1
    return n


@_serial
def _candidates(cell, counts, periodic, start, order, points):
    """Beads in a cell and around it, and their coordinates side by side (3, n and some more)."""
    ranges = np.empty((18, 2), np.int64)
    n = _ranges_around(cell, counts, periodic, start, ranges)
    size = 0
    for s in range(n):
        size += ranges[s, 1] - ranges[s, 0]
    # vectors may be longer than the list
    beads, near = np.empty(size, np.int32), np.zeros((3, size + DOUBLES))
    k = 0
    for s in range(n):
        for m in range(ranges[s, 0], ranges[s, 1]):
            beads[k] = order[m]
            near[0, k], near[1, k], near[2, k] = (
                points[0, m],
                points[1, m],
                points[2, m],
            )
            k += 1
    return beads, near


@_serial
def _squares(points, m, near, box, out):
    """Squares of the distances of a sorted bead from candidates."""
    x, y, z = near[0], near[1], near[2]
    x0, y0, z0 = points[0, m], points[1, m], points[2, m]
    for k in range(0, len(out) - DOUBLES + 1, DOUBLES):
        dx, dy, dz = image(
            load(x, k, DOUBLES) - x0,
            load(y, k, DOUBLES) - y0,
            load(z, k, DOUBLES) - z0,
            box,
        )
        store(out, k, dx * dx + dy * dy + dz * dz)


@_parallel
def count_neighbors(counts, start, order, points, box, limit, degree):
    """Numbers of neighbours, into ``degree`` (n_beads,), from the result of `sorted_by_cell`.

    ``limit`` is the square of the radius.
    """
    for c in numba.prange(len(start) - 1):
        beads, near = _candidates(c, counts, box[0] > 0, start, order, points)
        squares = np.empty(near.shape[1])
        for m in range(start[c], start[c + 1]):
            _squares(points, m, near, box, squares)
            found = -1  # not itself
            for k in range(len(beads)):
                found += squares[k] < limit
            degree[order[m]] = found


@_parallel
def fill_neighbors(counts, start, order, points, box, limit, row, column):
    """Neighbours, unsorted, into ``column``, those of bead i from ``row[i]`` on."""
    for c in numba.prange(len(start) - 1):
        beads, near = _candidates(c, counts, box[0] > 0, start, order, points)
        squares, chosen = np.empty(near.shape[1]), np.empty(len(beads) + 1, np.int32)
        for m in range(start[c], start[c + 1]):
            _squares(points, m, near, box, squares)
            found = 0
            for k in range(len(beads)):  # no branch, since none could be predicted
                chosen[found] = beads[k]
                found += squares[k] < limit
            i = order[m]
            e = row[i]
            for k in range(found):
                if chosen[k] != i:
                    column[e] = chosen[k]
                    e += 1


@_serial
def _transposed(row, column, out):
    """Transpose a symmetric relation.

    That is the same relation with the neighbours of every bead in ascending order.
    """
    fill = row[:-1].copy()
    for i in range(len(fill)):
        for e in range(row[i], row[i + 1]):
            j = column[e]
            out[fill[j]] = i
            fill[j] += 1


@_serial
def _opposite_edges(row, column, out):
    """Place of the edge back.

    The beads that have j as a neighbour come in the order in which they stand in the row of j.
    """
    fill = row[:-1].copy()
    for i in range(len(fill)):
        for e in range(row[i], row[i + 1]):
            j = column[e]
            out[e] = fill[j]
            fill[j] += 1


@_serial
def find_neighbors(positions, box, radius):
    """Rows, neighbours and opposite edges of a `NeighborList`."""
    counts, start, order, points = sorted_by_cell(positions, box, radius)
    row = np.zeros(len(positions) + 1, np.int64)
    count_neighbors(counts, start, order, points, box, radius * radius, row[1:])
    for i in range(len(positions)):
        row[i + 1] += row[i]
    unsorted, column, reverse = (
        np.empty(row[-1], np.int32),
        np.empty(row[-1], np.int32),
        np.empty(row[-1], np.int64),
    )
    fill_neighbors(counts, start, order, points, box, radius * radius, row, unsorted)
    # sorted, so that sums over neighbours do not depend on when the list was made
    _transposed(row, unsorted, column)
    _opposite_edges(row, column, reverse)
    return row, column, reverse
