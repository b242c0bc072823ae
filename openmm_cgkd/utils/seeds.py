"""Random seeds for several purposes from the one seed of a run."""

from __future__ import annotations

import zlib

import numpy as np


def derived_seed(seed: int, purpose: str, *numbers: int) -> int:
    """Seed for one purpose, independent of those for all others and of those of other runs.

    Sums of the seed and a number are not: the second teacher of a run with seed 1 would be the
    first one of a run with seed 2.

    Parameters
    ----------
    seed : int
        Of the run.
    purpose : str
    numbers : int
        Not negative; tell equal purposes apart.

    Returns
    -------
    int
        From 1 to 2**31 - 2, which OpenMM takes, and where 0 would mean a random seed.
    """
    words = [seed, zlib.crc32(purpose.encode()), *(number + 1 for number in numbers)]
    return int(np.random.SeedSequence(words).generate_state(1)[0]) % (2**31 - 2) + 1
