"""Bonds and angles for simulation: the terms of `bonded.BondedPrior` with analytic forces.

``bonded_beads`` (n_terms, 3) holds the beads of bonds, the third of them -1, and of angles, the
middle one in the middle; ``bonded_parameters`` (n_terms, 2) their k (kJ/mol/nm^2, kJ/mol) and r0
(nm) or c0.
"""

from __future__ import annotations

import math

from .jit import compiled
from .neighbors import image

_FAR = 1e3  # nm

_serial = compiled()


@_serial
def exclude_bonded(start, count, column, distance, bonded_beads):
    """Distances of edges, made so large where beads are bonded that no repulsion acts there.

    That is between the ends of bonds and of angles.
    """
    if len(bonded_beads) == 0:
        return distance
    apart = distance.copy()
    for m in range(len(bonded_beads)):
        i, j = (
            bonded_beads[m, 0],
            bonded_beads[m, 1] if bonded_beads[m, 2] < 0 else bonded_beads[m, 2],
        )
        for a, b in ((i, j), (j, i)):
            for e in range(start[a], start[a] + count[a]):
                if column[e] == b:
                    apart[e] = _FAR
    return apart


@_serial
def _vector(points, box, i, j):
    return image(
        points[j, 0] - points[i, 0], points[j, 1] - points[i, 1], points[j, 2] - points[i, 2], box
    )


@_serial
def add_bonded(points, box, bonded_beads, bonded_parameters, gradient):
    """Energy, kJ/mol; its gradient is added to ``gradient`` (n_beads, 3).

    ``box`` is that of `kernel_box`.
    """
    energy = 0.0
    for m in range(len(bonded_beads)):
        i, j, k = bonded_beads[m]
        constant, center = bonded_parameters[m]
        if k < 0:
            x, y, z = _vector(points, box, i, j)
            r = math.sqrt(x * x + y * y + z * z)
            energy += 0.5 * constant * (r - center) ** 2
            slope = constant * (r - center) / r
            for axis, d in enumerate((x, y, z)):
                gradient[j, axis] += slope * d
                gradient[i, axis] -= slope * d
        else:
            u, v = _vector(points, box, j, i), _vector(points, box, j, k)
            uu, vv = (
                u[0] * u[0] + u[1] * u[1] + u[2] * u[2],
                v[0] * v[0] + v[1] * v[1] + v[2] * v[2],
            )
            product = math.sqrt(uu * vv)
            cosine = (u[0] * v[0] + u[1] * v[1] + u[2] * v[2]) / product
            energy += 0.5 * constant * (cosine - center) ** 2
            slope = constant * (cosine - center)
            for axis in range(3):
                to_i = slope * (v[axis] / product - cosine * u[axis] / uu)
                to_k = slope * (u[axis] / product - cosine * v[axis] / vv)
                gradient[i, axis] += to_i
                gradient[k, axis] += to_k
                gradient[j, axis] -= to_i + to_k
    return energy
