"""One evaluation of a potential at given positions, compiled as a whole."""

from __future__ import annotations

import numpy as np

from . import fused
from .compiled import compiled
from .edges import find_edges, position_gradient
from .fused_bonded import bonded, without
from .simd import padded

N_INTERVALS = 512  # of the distance, in radial tables

_serial = compiled()


@_serial
def evaluate(
    points, box, row, listed, reverse, types, w, o, contact, channels, n_layers, hidden, cutoff, height, steepness, members, terms
):
    """Energy, kJ/mol, and its gradient with respect to the positions (n_beads, 3), kJ/mol/nm.

    Parameters
    ----------
    points : ndarray, shape (n_beads, 3), nm
    box : tuple of float
        As `cells.box_numbers`.
    row, listed, reverse : ndarray
        Neighbour list that holds for the points: `NeighbourList.row`, ``column`` and ``reverse``.
    types : ndarray, shape (n_beads,)
    w, o : ndarray
        Weights and offsets, see `fused`; their type is that of the network's arithmetic, all else is double precision.
    contact : ndarray, shape (n_types, n_types), nm
    channels, n_layers, hidden : int
    cutoff, height, steepness : float
        The last two are the prior's.
    members, terms : ndarray
        Bonds and angles, see `fused_bonded`.
    """
    n, n_types, c = len(points), len(contact), padded(channels)
    found = find_edges(points, box, cutoff, N_INTERVALS, row, listed, reverse, w)
    start, count, column, knot, place, unit, distance = found[:7]
    energies, edge_gradient = np.zeros(n), np.zeros((len(listed), 3))
    apart = without(start, count, column, distance, members)
    fused.repulsion(start, count, column, unit, apart, types, contact, height, steepness, energies, edge_gradient)

    size, spacing = 9 * c * n, cutoff / N_INTERVALS
    features, ours = np.empty((n_layers + 1, size), w.dtype), np.empty((n_layers, size), w.dtype)
    message, update = np.empty((n_layers, size), w.dtype), np.empty((n_layers, size), w.dtype)
    kept = np.empty(size, w.dtype), np.empty(size, w.dtype), np.empty(2 * c * n, w.dtype), np.empty(3 * c * n, w.dtype)
    fused.embed(start, count, column, knot, place, unit, types, n_types, w, o, channels, c, features[0], kept)
    for k in range(n_layers):
        fused.prepare(w, o, k, c, features[k], ours[k])
        fused.interact(start, count, column, knot, place, w, o, k, c, features[k], ours[k], message[k], update[k], features[k + 1])
    # from here on gradients take the place of what is not needed any more: kernels read a bead's values before they write
    gradient = features[n_layers]
    fused.output(w, o, channels, c, hidden, features[n_layers], energies, gradient)
    for k in range(n_layers - 1, -1, -1):
        d_ours, d_message = update[k], message[k]
        fused.update_gradient(w, o, k, c, ours[k], message[k], update[k], gradient, d_ours, d_message)
        fused.interact_gradient(
            start, count, column, knot, place, unit, w, o, spacing, k, c, features[k], ours[k], d_ours, d_message, gradient, edge_gradient
        )
    fused.embed_gradient(
        start, count, column, knot, place, unit, distance, types, n_types, w, o, spacing, channels, c, kept, gradient, edge_gradient
    )
    out = np.empty((n, 3))
    position_gradient(start, count, found.opposite, edge_gradient, out)
    return energies.sum() + bonded(points, box, members, terms, out), out
