"""The pair repulsion of the prior as a loop."""

from __future__ import annotations

import math

import numba

from .jit import compiled

_NOTHING = -50.0  # e^-50 is below the rounding error of one

_parallel = compiled(parallel=True, fastmath=True)


@_parallel
def repulsion(
    start, count, column, unit, distance, types, contact, height, steepness, energies, edge_gradient
):
    """Add half of U(r) = height exp(steepness (contact - r)) to either bead.

    Sets its gradient by the edge vectors.
    """
    for i in numba.prange(count.shape[0]):
        for e in range(start[i], start[i] + count[i]):
            edge_gradient[e, 0], edge_gradient[e, 1], edge_gradient[e, 2] = 0.0, 0.0, 0.0
            exponent = steepness * (contact[types[i], types[column[e]]] - distance[e])
            if exponent < _NOTHING:  # most pairs
                continue
            half = 0.5 * height * math.exp(exponent)
            energies[i] += half
            for k in range(3):
                edge_gradient[e, k] -= steepness * half * unit[e, k]
