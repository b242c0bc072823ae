"""Mean forces freed of the bias of heating, as far as pair forces go.

Conformations that were heated and cooled are never cooled slowly enough, and their mean forces are
too large. Those of the trajectory are a fair sample, but one sample for each configuration, far too
noisy bead by bead. For the few parameters of pair forces, fitted to all beads of all
configurations, one sample each is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations_with_replacement

import numpy as np

from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.utils.box import largest_r_max
from openmm_cgkd.utils.statistics import jackknife_error

from .file import MeanForces

KNOT_SPACING = 0.06  # nm, between the knots of pair forces

_R_MAX = 1.0  # nm; farther pair forces of ethaline are nothing beside the noise
# of forces for each parameter; fewer would bring in more noise than bias they take out
_COMPONENTS = 50


@dataclass(frozen=True)
class PairCorrected:
    """Mean forces with the pair forces of fair samples.

    Attributes
    ----------
    mean_forces : MeanForces
    ratio, error : float
        Of the pair forces of fair samples to those of the estimates, <F_fair P> / <F P> with P the
        pair part of F, and its standard error by jackknife over configurations.
    """

    mean_forces: MeanForces
    ratio: float
    error: float


def correct_pair_part(estimates: MeanForces, fair: np.ndarray) -> PairCorrected | None:
    """Replace the pair part of estimates by that of fair samples.

    What of the estimates is no pair force stays.

    Parameters
    ----------
    estimates : MeanForces
        With small noise and a bias.
    fair : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        Without a bias; their noise, as they scatter about the estimates, goes into the standard
        errors as far as it gets in.

    Returns
    -------
    PairCorrected or None
        None if there are too few beads or configurations to fit pair forces.
    """
    candidates = pair_forces(estimates, min(_R_MAX, largest_r_max(estimates.box)))
    design = candidates.reshape(fair.size, -1)
    if len(fair) < 2 or fair.size < _COMPONENTS * max(1, design.shape[1]):
        return None
    basis, sizes, _ = np.linalg.svd(design, full_matrices=False)
    basis = basis[:, sizes > 1e-6 * sizes[0]]
    forces, missing = estimates.forces.astype(float), fair - estimates.forces
    change = (basis @ (basis.T @ missing.ravel())).reshape(fair.shape)
    leverage = (basis**2).sum(axis=1).reshape(fair.shape)
    error = np.sqrt(
        estimates.standard_error.astype(float) ** 2 + leverage * ((missing - change) ** 2).mean()
    )

    part = (basis @ (basis.T @ forces.ravel())).reshape(fair.shape)
    table = np.stack([(fair * part).mean(axis=(1, 2)), (forces * part).mean(axis=(1, 2))], axis=1)

    def ratio(means: np.ndarray) -> float:
        return float(means[0] / means[1])

    corrected = replace(estimates, forces=forces + change, standard_error=error)
    return PairCorrected(corrected, ratio(table.mean(axis=0)), jackknife_error(table, ratio))


def pair_forces(mean_forces: MeanForces, r_max: float) -> np.ndarray:
    """Candidates for a linear fit: central forces between beads of each pair of types.

    They are piecewise linear in the distance and zero from r_max on.

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
        positions = positions.astype(float)
        pairs = find_pairs(positions, box, r_max)
        vectors = positions[pairs.second] - positions[pairs.first] + pairs.shifts
        distances = np.linalg.norm(vectors, axis=1)
        along = vectors / distances[:, None]
        column = kind_of[beads.types[pairs.first], beads.types[pairs.second]] * len(knots)
        for j, knot in enumerate(knots):
            height = 1 - np.abs(distances - knot) / KNOT_SPACING
            near = np.flatnonzero(height > 0)
            on_second = height[near, None] * along[near]
            parameter = column[near] + j
            # a view, because np.add.at with a slice among its indices is not typed
            by_bead = found[k].swapaxes(1, 2)
            np.add.at(by_bead, (pairs.second[near], parameter), on_second)
            np.add.at(by_bead, (pairs.first[near], parameter), -on_second)
    return found[..., np.any(found, axis=(0, 1, 2))]
