"""Neighbour search for simulation: a linked-cell list as a torch operator, linear in the number of beads.

A scripted module that TorchForce runs can call it. It keeps no state between calls, so contexts and threads
cannot disturb each other.
"""

from __future__ import annotations

import math

import numba
import numpy as np
import torch
from torch import Tensor

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
def _count_neighbours(positions, box, periodic, cutoff, counts, cell, start, order, found):
    for i in numba.prange(positions.shape[0]):
        around = np.empty(27, np.int64)
        d = np.empty(3)
        total = 0
        for m in range(_neighbour_cells(cell[i], counts, periodic, around)):
            for k in range(start[around[m]], start[around[m] + 1]):
                j = order[k]
                if j != i:
                    for a in range(3):
                        d[a] = positions[j, a] - positions[i, a]
                    _wrap_difference(d, box, periodic)
                    total += d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < cutoff * cutoff
        found[i + 1] = total


@_parallel
def _fill_neighbours(positions, box, periodic, cutoff, counts, cell, start, order, row, column, vectors):
    for i in numba.prange(positions.shape[0]):
        around = np.empty(27, np.int64)
        d = np.empty(3)
        e = row[i]
        for m in range(_neighbour_cells(cell[i], counts, periodic, around)):
            for k in range(start[around[m]], start[around[m] + 1]):
                j = order[k]
                if j != i:
                    for a in range(3):
                        d[a] = positions[j, a] - positions[i, a]
                    _wrap_difference(d, box, periodic)
                    if d[0] * d[0] + d[1] * d[1] + d[2] * d[2] < cutoff * cutoff:
                        column[e] = j
                        for a in range(3):
                            vectors[e, a] = d[a]
                        e += 1


@numba.njit(cache=True, nogil=True)
def _scatter(gradient, row, column, out):
    for i in range(row.shape[0] - 1):
        for e in range(row[i], row[i + 1]):
            j = column[e]
            for a in range(3):
                out[i, a] -= gradient[e, a]
                out[j, a] += gradient[e, a]


def as_array(tensor: Tensor) -> np.ndarray:
    """The tensor as a contiguous NumPy array, shared where possible."""
    return tensor.detach().contiguous().numpy()


@torch.library.custom_op("openmm_cgkd::neighbours", mutates_args=())
def neighbours(positions: Tensor, box: Tensor, cutoff: float) -> tuple[Tensor, Tensor, Tensor]:
    """Directed edges closer than the cutoff.

    Parameters
    ----------
    positions : Tensor, shape (n_beads, 3), float64, nm
    box : Tensor, shape (3, 3) or (0,), float64, nm
        Reduced box vectors as rows; empty for open boundaries.
    cutoff : float, nm

    Returns
    -------
    row : Tensor, shape (n_beads + 1,), int64
        Edges of bead i are ``row[i]:row[i + 1]``.
    column : Tensor, shape (n_edges,), int64
        Neighbour of each edge.
    vectors : Tensor, shape (n_edges, 3), float64, nm
        From the bead to its neighbour.
    """
    points = as_array(positions)
    periodic = box.numel() > 0
    cell_box = as_array(box) if periodic else np.eye(3)
    grid = _cells(points, cell_box, periodic, cutoff)
    row = np.zeros(len(points) + 1, np.int64)
    _count_neighbours(points, cell_box, periodic, cutoff, *grid, row)
    np.cumsum(row, out=row)
    column, vectors = np.empty(row[-1], np.int64), np.empty((row[-1], 3))
    _fill_neighbours(points, cell_box, periodic, cutoff, *grid, row, column, vectors)
    return torch.from_numpy(row), torch.from_numpy(column), torch.from_numpy(vectors)


@torch.library.custom_op("openmm_cgkd::scatter", mutates_args=())
def _scatter_op(gradient: Tensor, row: Tensor, column: Tensor) -> Tensor:
    out = gradient.new_zeros(row.shape[0] - 1, 3)
    _scatter(as_array(gradient), as_array(row), as_array(column), out.numpy())
    return out




def _keep_edges(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[0], output[1])


def _neighbours_gradient(ctx, _row, _column, d_vectors: Tensor):
    return torch.ops.openmm_cgkd.scatter(d_vectors, *ctx.saved_tensors), None, None


torch.library.register_autograd("openmm_cgkd::neighbours", _neighbours_gradient, setup_context=_keep_edges)
