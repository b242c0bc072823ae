"""Test whether two runs sample the same structure, by permuting the RDFs of time blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import mdtraj
import numpy as np
from scipy.stats import permutation_test

from openmm_cgkd.exceptions import SimulationError

_BIN = 0.02  # nm
_RESAMPLES = 9999


@dataclass(frozen=True)
class SameSampling:
    """Outcome of the test.

    Attributes
    ----------
    p_value : float
        Probability of a difference as large as this one between blocks of one and the same run. It
        presumes blocks longer than the correlation time; with shorter ones it comes out too small,
        which errs on the strict side.
    difference : float
        Mean of abs(g_1 - g_2) over all pairs of types and all bins.
    expected : float
        The same from the scatter of the blocks alone: its mean over permutations.
    """

    p_value: float
    difference: float
    expected: float


def lowest_p_value(blocks: int) -> float:
    """The least that `compare_sampling` can give for so many blocks of each run.

    Of all orders of few blocks two are as far apart as the runs themselves can be.
    """
    orders = math.comb(2 * blocks, blocks)
    return 2 / orders if orders <= _RESAMPLES else 1 / (_RESAMPLES + 1)


def compare_sampling(first: np.ndarray, second: np.ndarray, seed: int = 1) -> SameSampling:
    """Test whether blocks of two runs are exchangeable.

    Parameters
    ----------
    first, second : ndarray, shape (blocks, pairs, bins)
        RDFs of the time blocks of each run, as `time_block_rdfs` makes them.
    seed : int
        Of the random permutations, of which there are 9999 or, for few blocks, all.
    """
    pool = np.concatenate([first, second])

    def distance(here: np.ndarray, there: np.ndarray) -> float:
        return float(np.abs(pool[here].mean(axis=0) - pool[there].mean(axis=0)).mean())

    indices = np.arange(len(first)), np.arange(len(first), len(pool))
    generator = np.random.default_rng(seed)
    test = permutation_test(
        indices, distance, alternative="greater", n_resamples=_RESAMPLES, rng=generator
    )
    return SameSampling(
        float(test.pvalue), float(test.statistic), float(np.mean(test.null_distribution))
    )


def time_block_rdfs(
    positions: np.ndarray, box: np.ndarray, names: list[str], r_max: float, blocks: int
) -> np.ndarray:
    """RDFs of every pair of bead types in every time block.

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    box : ndarray, shape (3, 3), nm
        Rows are the box vectors.
    names : list of str
        Type name of every bead.
    r_max : float, nm
        At most half the smallest box height.
    blocks : int

    Returns
    -------
    ndarray, shape (blocks, pairs, bins)

    Raises
    ------
    SimulationError
        If there are fewer frames than blocks.
    """
    if len(positions) < blocks:
        raise SimulationError(
            f"{len(positions)} frames do not make {blocks} time blocks; lengthen the run."
        )
    trajectory = mdtraj.Trajectory(positions, None)
    trajectory.unitcell_vectors = np.broadcast_to(box, (len(positions), 3, 3))
    found = []
    for part in np.array_split(np.arange(len(positions)), blocks):
        curves = []
        for pairs in _type_pairs(names):
            curves.append(
                mdtraj.compute_rdf(trajectory[part], pairs, r_range=(0.0, r_max), bin_width=_BIN)[1]
            )
        found.append(curves)
    return np.array(found)


def _type_pairs(names: list[str]) -> list[np.ndarray]:
    """Index pairs (n, 2) of beads, for every pair of types that has any."""
    array = np.array(names)
    first, second = np.triu_indices(len(array), 1)
    found = []
    for a, b in combinations_with_replacement(sorted(set(names)), 2):
        wanted = ((array[first] == a) & (array[second] == b)) | (
            (array[first] == b) & (array[second] == a)
        )
        if wanted.any():
            found.append(np.stack([first[wanted], second[wanted]], axis=1))
    return found
