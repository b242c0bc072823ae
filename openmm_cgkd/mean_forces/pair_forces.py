"""Central forces between pairs of beads as candidates for a linear fit."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np

from openmm_cgkd.analysis.observables.neighbors import Frame, near_pairs

from .file import MeanForces

KNOT_SPACING = 0.06  # nm


def pair_forces(mean_forces: MeanForces, r_max: float) -> np.ndarray:
    """Central forces between beads of each pair of types, piecewise linear in the distance and zero
    from r_max on.

    Parameters
    ----------
    mean_forces : MeanForces
        Whose configurations they are for.
    r_max : float, nm
        Within half of the box.

    Returns
    -------
    ndarray, shape (n_frames, n_beads, 3, n_parameters)
        One candidate per pair of types and knot.
    """
    beads = mean_forces.beads
    n_types, knots = len(beads.type_names), np.arange(KNOT_SPACING, r_max, KNOT_SPACING)
    kinds = {pair: k for k, pair in enumerate(combinations_with_replacement(range(n_types), 2))}
    kind_of = np.array(
        [[kinds[min(a, b), max(a, b)] for b in range(n_types)] for a in range(n_types)]
    )
    found = np.zeros((*mean_forces.positions.shape, len(kinds) * len(knots)))
    for k, (positions, box) in enumerate(zip(mean_forces.positions, mean_forces.box, strict=True)):
        first, second, vectors, distances = near_pairs(Frame(positions, box, beads.types), r_max)
        along = vectors / distances[:, None]
        column = kind_of[beads.types[first], beads.types[second]] * len(knots)
        for j, knot in enumerate(knots):
            height = 1 - np.abs(distances - knot) / KNOT_SPACING
            near = np.flatnonzero(height > 0)
            on_second = height[near, None] * along[near]
            np.add.at(found[k], (second[near], slice(None), column[near] + j), on_second)
            np.add.at(found[k], (first[near], slice(None), column[near] + j), -on_second)
    return found[..., np.any(found, axis=(0, 1, 2))]
