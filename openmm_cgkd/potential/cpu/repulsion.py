"""The pair repulsion of the prior as a loop."""

from __future__ import annotations

import math

import numba

from .jit import compiled

_NOTHING = -50.0  # e^-50 is below the rounding error of one

_parallel = compiled(parallel=True, fastmath=True)


@_parallel
def repulsion(
    start,
    count,
    column,
    unit,
    distance,
    types,
    contact,
    height,
    steepness,
    bend,
    energies,
    edge_gradient,
):
    """Add half of the energy of `PairRepulsion` to either bead.

    Sets its gradient by the edge vectors.
    """
    for i in numba.prange(count.shape[0]):
        for e in range(start[i], start[i] + count[i]):
            edge_gradient[0, e], edge_gradient[1, e], edge_gradient[2, e] = (
                0.0,
                0.0,
                0.0,
            )
            exponent = steepness * (contact[types[i], types[column[e]]] - distance[e])
            if exponent < _NOTHING:  # most pairs
                continue
            if exponent > bend:
                beyond = exponent - bend
                half = 0.5 * height * math.exp(bend)
                energies[i] += half * (1.0 + beyond + 0.5 * beyond * beyond)
                for k in range(3):
                    edge_gradient[k, e] -= steepness * half * (1.0 + beyond) * unit[k, e]
                continue
            # on its own, so that potentials without a bend keep their last bit
            half = 0.5 * height * math.exp(exponent)
            energies[i] += half
            for k in range(3):
                edge_gradient[k, e] -= steepness * half * unit[k, e]
