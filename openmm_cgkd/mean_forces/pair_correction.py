"""Mean forces freed of the bias of heating, as far as pair forces go.

Conformations that were heated and cooled are never cooled slowly enough, and their mean forces are
too large. Those of the trajectory are a fair sample, but one sample for each configuration, far too
noisy bead by bead. For the few parameters of pair forces, fitted to all beads of all
configurations, one sample each is enough.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from openmm_cgkd.analysis.observables.neighbors import largest_r_max
from openmm_cgkd.utils.statistics import jackknife_error

from .file import MeanForces
from .pair_forces import pair_forces

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
    """Replace the pair part of estimates by that of fair samples; what of the estimates is no pair
    force stays.

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

    anchored = replace(estimates, forces=forces + change, standard_error=error)
    return PairCorrected(anchored, ratio(table.mean(axis=0)), jackknife_error(table, ratio))
