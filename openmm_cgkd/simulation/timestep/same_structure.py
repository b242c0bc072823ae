"""Test whether two runs sample the same structure, by permuting the RDFs of time blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from scipy.stats import permutation_test

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.utils.box import box_volume

_BIN = 0.02  # nm
_RESAMPLES = 9999
_BATCH = 100  # permutations at a time, for the memory


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
    detectable : float
        The difference that the scatter of the blocks exceeds with probability `min_p_value`: from
        here on a difference is found.
    """

    p_value: float
    difference: float
    expected: float
    detectable: float


def lowest_p_value(blocks: int) -> float:
    """The least that `compare_sampling` can give for so many blocks of each run.

    Of all orders of few blocks two are as far apart as the runs themselves can be.
    """
    orders = math.comb(2 * blocks, blocks)
    return 2 / orders if orders <= _RESAMPLES else 1 / (_RESAMPLES + 1)


def compare_sampling(
    first: np.ndarray, second: np.ndarray, min_p_value: float = 0.01, seed: int = 1
) -> SameSampling:
    """Test whether blocks of two runs are exchangeable.

    Parameters
    ----------
    first, second : ndarray, shape (blocks, pairs, bins)
        RDFs of the time blocks of each run, as `time_block_rdfs` makes them.
    min_p_value : float
        Below which structures count as different.
    seed : int
        Of the random permutations, of which there are 9999 or, for few blocks, all.
    """
    pool = np.concatenate([first, second])
    pool = pool.reshape(len(pool), -1)

    def distance(here: np.ndarray, there: np.ndarray, axis: int) -> Any:
        # of many orders at once; their blocks are along the last axis
        return np.abs(pool[here].mean(axis=-2) - pool[there].mean(axis=-2)).mean(axis=-1)

    indices = np.arange(len(first)), np.arange(len(first), len(pool))
    generator = np.random.default_rng(seed)
    test = permutation_test(
        indices,
        distance,
        vectorized=True,
        alternative="greater",
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        rng=generator,
    )
    return SameSampling(
        float(test.pvalue),
        float(test.statistic),
        float(np.mean(test.null_distribution)),
        float(np.quantile(test.null_distribution, 1 - min_p_value)),
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
    types, population = np.unique(names, return_inverse=True, return_counts=True)[1:]
    n_types = len(population)
    kinds = [
        (a, b)
        for a, b in combinations_with_replacement(range(n_types), 2)
        if a != b or population[a] > 1
    ]
    edges = np.linspace(0, r_max, max(1, round(r_max / _BIN)) + 1)
    shells = 4 / 3 * np.pi * np.diff(edges**3) / box_volume(box)
    counts = np.zeros((blocks, n_types * n_types, len(shells)))
    for block, part in enumerate(np.array_split(np.arange(len(positions)), blocks)):
        for k in part:
            near = find_pairs(positions[k], box, r_max)
            vectors = positions[k][near.second] - positions[k][near.first] + near.shifts
            low, high = np.sort([types[near.first], types[near.second]], axis=0)
            bins = np.linalg.norm(vectors, axis=1) / r_max * len(shells)
            place = (low * n_types + high) * len(shells) + np.minimum(bins, len(shells) - 1).astype(
                int
            )
            found = np.bincount(place, minlength=n_types * n_types * len(shells))
            counts[block] += found.reshape(n_types * n_types, len(shells)) / len(part)
    curves = []
    for a, b in kinds:
        pairs = population[a] * (population[a] - 1) / 2 if a == b else population[a] * population[b]
        curves.append(counts[:, a * n_types + b] / (pairs * shells))
    return np.stack(curves, axis=1)
