"""One evaluation of a potential at given positions, compiled as a whole."""

from __future__ import annotations

import threading

import numpy as np

from openmm_cgkd.potential.weights import N_INTERVALS, padded

from . import network
from .bonded import add_bonded, exclude_bonded
from .edges import edge_space, find_edges, position_gradient
from .embedding import embed, embed_gradient
from .jit import compiled
from .repulsion import repulsion
from .simd import padded_width

_serial = compiled()


class _Buffers(threading.local):
    """Memory that each thread keeps from one evaluation to the next.

    Fresh pages cost large systems as much as the arithmetic.
    """

    def __init__(self) -> None:
        self.known: dict[int, np.ndarray] = {}
        self.key: tuple = ()
        self.space: tuple = ()


_buffers = _Buffers()


def workspace(n_beads: int, n_listed: int, channels: int, n_layers: int, dtype: np.dtype) -> tuple:
    """Arrays in which `evaluate` works, with arbitrary contents.

    For edges, their gradient, beads by layer, and beads without layers.
    """
    key = (n_beads, n_listed, channels, n_layers, dtype)
    if _buffers.key == key:
        return _buffers.space
    taken = 0

    def empty(shape: int | tuple[int, ...], kind: np.dtype | type = np.float64) -> np.ndarray:
        nonlocal taken
        size, kind = int(np.prod(shape)) * np.dtype(kind).itemsize, np.dtype(kind)
        if taken not in _buffers.known or _buffers.known[taken].size < size:
            # lists differ a little in length
            _buffers.known[taken] = np.empty(size + size // 8, np.uint8)
        array = _buffers.known[taken][:size].view(kind).reshape(shape)
        taken += 1
        return array

    c = padded(channels)
    for_edges, edge_gradient = edge_space(n_listed, dtype, empty), empty((n_listed, 3))
    by_layer, by_bead = (
        empty((4 * n_layers + 1, 9 * c * n_beads), dtype),
        empty(23 * c * n_beads, dtype),
    )
    _buffers.key, _buffers.space = key, (for_edges, edge_gradient, by_layer, by_bead)
    return _buffers.space


@_serial
def evaluate(
    points,
    box,
    row,
    listed,
    reverse,
    types,
    w,
    o,
    contact,
    channels,
    n_layers,
    hidden,
    cutoff,
    height,
    steepness,
    bend,
    bonded_beads,
    bonded_parameters,
    space,
):
    """Energy, kJ/mol, and its gradient with respect to the positions (n_beads, 3), kJ/mol/nm.

    Parameters
    ----------
    points : ndarray, shape (n_beads, 3), nm
    box : tuple of float
        As `kernel_box`.
    row, listed, reverse : ndarray
        Neighbour list that holds for the points: `NeighborList.row`, ``column`` and ``reverse``.
    types : ndarray, shape (n_beads,)
    w, o : ndarray
        Weights and offsets, see `potential.weights`; their type is that of the network's
        arithmetic, all else is double precision.
    contact : ndarray, shape (n_types, n_types), nm
    channels, n_layers, hidden : int
    cutoff, height, steepness, bend : float
        As `Numbers`.
    bonded_beads, bonded_parameters : ndarray
        Bonds and angles, see `add_bonded`.
    space : tuple
        Of `workspace`.
    """
    n, n_types, c = len(points), len(contact), padded_width(channels)
    for_edges, edge_gradient, by_layer, by_bead = space
    found = find_edges(points, box, cutoff, N_INTERVALS, row, listed, reverse, for_edges)
    start, count, column, knot, place, unit, distance = found[:7]
    energies = np.zeros(n)
    apart = exclude_bonded(start, count, column, distance, bonded_beads)
    repulsion(
        start,
        count,
        column,
        unit,
        apart,
        types,
        contact,
        height,
        steepness,
        bend,
        energies,
        edge_gradient,
    )

    size, spacing = 9 * c * n, cutoff / N_INTERVALS
    features, prepared = by_layer[: n_layers + 1], by_layer[n_layers + 1 : 2 * n_layers + 1]
    message, update = by_layer[2 * n_layers + 1 : 3 * n_layers + 1], by_layer[3 * n_layers + 1 :]
    kept = (
        by_bead[:size],
        by_bead[size : 2 * size],
        by_bead[2 * size : 2 * size + 2 * c * n],
        by_bead[2 * size + 2 * c * n :],
    )
    embed(
        start,
        count,
        column,
        knot,
        place,
        unit,
        types,
        n_types,
        w,
        o,
        channels,
        c,
        features[0],
        kept,
    )
    for k in range(n_layers):
        network.prepare(w, o, k, c, features[k], prepared[k])
        network.interact(
            start,
            count,
            column,
            knot,
            place,
            w,
            o,
            k,
            c,
            features[k],
            prepared[k],
            message[k],
            update[k],
            features[k + 1],
        )
    # from here on gradients take the place of what is not needed any more: kernels read a bead's
    # values before they write
    gradient = features[n_layers]
    network.output(w, o, channels, c, hidden, features[n_layers], energies, gradient)
    for k in range(n_layers - 1, -1, -1):
        d_prepared, d_message = update[k], message[k]
        network.update_gradient(
            w, o, k, c, prepared[k], message[k], update[k], gradient, d_prepared, d_message
        )
        network.interact_gradient(
            start,
            count,
            column,
            knot,
            place,
            unit,
            w,
            o,
            spacing,
            k,
            c,
            features[k],
            prepared[k],
            d_prepared,
            d_message,
            gradient,
            edge_gradient,
        )
    embed_gradient(
        start,
        count,
        column,
        knot,
        place,
        unit,
        distance,
        types,
        n_types,
        w,
        o,
        spacing,
        channels,
        c,
        kept,
        gradient,
        edge_gradient,
    )
    out = np.empty((n, 3))
    position_gradient(start, count, found.opposite, edge_gradient, out)
    return energies.sum() + add_bonded(points, box, bonded_beads, bonded_parameters, out), out
