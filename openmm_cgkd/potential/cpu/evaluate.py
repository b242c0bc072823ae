"""One evaluation of a potential at given positions, compiled as a whole."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable

import numpy as np

from openmm_cgkd.potential.signature import Numbers
from openmm_cgkd.potential.weights import N_INTERVALS

from .bonded import add_bonded, exclude_bonded
from .edges import edge_space, find_edges, position_gradient
from .embedding import embedding_kernels
from .jit import compiled
from .layout import KernelNetwork, aligned
from .lists import NeighborList
from .network import layer_kernels
from .repulsion import repulsion
from .simd import DOUBLES

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


def workspace(n_beads: int, n_listed: int, c: int, n_layers: int, dtype: np.dtype) -> tuple:
    """Arrays in which `evaluate` works with c channels, padding included; arbitrary contents.

    For edges, their gradient, beads by layer, and beads without layers.
    """
    key = (n_beads, n_listed, c, n_layers, dtype)
    if _buffers.key == key:
        return _buffers.space
    taken = 0

    def empty(shape: int | tuple[int, ...], kind: np.dtype | type = np.float64) -> np.ndarray:
        nonlocal taken
        size, kind = int(np.prod(shape)) * np.dtype(kind).itemsize, np.dtype(kind)
        if taken not in _buffers.known or _buffers.known[taken].size < size:
            # lists differ a little in length
            _buffers.known[taken] = aligned(size + size // 8)
        array = _buffers.known[taken][:size].view(kind).reshape(shape)
        taken += 1
        return array

    for_edges, edge_gradient = (
        edge_space(n_listed, dtype, empty),
        empty((3, n_listed + DOUBLES)),
    )
    by_layer, by_bead = (
        empty((4 * n_layers + 1, 9 * c * n_beads), dtype),
        empty(23 * c * n_beads, dtype),
    )
    _buffers.key, _buffers.space = key, (for_edges, edge_gradient, by_layer, by_bead)
    return _buffers.space


@functools.cache
def compiled_evaluation(width: int) -> Callable[..., tuple[float, np.ndarray]]:
    """The compiled function behind `evaluate`, for vectors of so many channels."""
    embed, embed_gradient = embedding_kernels(width)
    prepare, interact, output, update_gradient, interact_gradient = layer_kernels(width)

    @_serial
    def run(
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
        c,
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
            Of a `NeighborList` that holds for the points; ``listed`` is its ``column``.
        types : ndarray, shape (n_beads,)
        w, o : ndarray
            Weights and offsets, see `layout`; their type is that of the network's arithmetic, all
            else is double precision.
        contact : ndarray, shape (n_types, n_types), nm
        channels, c, n_layers, hidden : int
            Channels without and with padding.
        cutoff, height, steepness, bend : float
            As `Numbers`.
        bonded_beads, bonded_parameters : ndarray
            Bonds and angles, see `add_bonded`.
        space : tuple
            Of `workspace`.
        """
        n, n_types = len(points), len(contact)
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
        features, prepared = (
            by_layer[: n_layers + 1],
            by_layer[n_layers + 1 : 2 * n_layers + 1],
        )
        message, update = (
            by_layer[2 * n_layers + 1 : 3 * n_layers + 1],
            by_layer[3 * n_layers + 1 :],
        )
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
            prepare(w, o, k, c, features[k], prepared[k])
            interact(
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
        # from here on gradients take the place of what is not needed any more: kernels read a
        # bead's values before they write
        gradient = features[n_layers]
        output(w, o, channels, c, hidden, features[n_layers], energies, gradient)
        for k in range(n_layers - 1, -1, -1):
            d_prepared, d_message = update[k], message[k]
            update_gradient(
                w,
                o,
                k,
                c,
                prepared[k],
                message[k],
                update[k],
                gradient,
                d_prepared,
                d_message,
            )
            interact_gradient(
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

    return run


def evaluate(
    network: KernelNetwork,
    points: np.ndarray,
    box: tuple[float, ...],
    listed: NeighborList,
    types: np.ndarray,
    contact: np.ndarray,
    numbers: Numbers,
    bonded: tuple[np.ndarray, np.ndarray],
) -> tuple[float, np.ndarray]:
    """Energy and its gradient at positions for which a neighbour list holds.

    Parameters
    ----------
    network : KernelNetwork
    points : ndarray, shape (n_beads, 3), nm
    box : tuple of float
        As `kernel_box`.
    listed : NeighborList
    types : ndarray, shape (n_beads,)
    contact : ndarray, shape (n_types, n_types), nm
    numbers : Numbers
    bonded : tuple of ndarray
        Bonds and angles, see `add_bonded`.

    Returns
    -------
    energy : float, kJ/mol
    gradient : ndarray, shape (n_beads, 3), kJ/mol/nm
    """
    w, c, n_layers = network.weights, network.lanes.channels, network.n_layers
    space = workspace(len(points), len(listed.column), c, n_layers, w.dtype)
    return compiled_evaluation(network.lanes.width)(
        points, box, listed.row, listed.column, listed.reverse, types, w, network.offsets, contact,
        network.channels, c, n_layers, network.hidden, *numbers, *bonded, space,
    )  # fmt: skip
