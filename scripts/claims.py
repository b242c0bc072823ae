"""Does a claim hold? Ratios of errors over independent trainings, judged by Student's t."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

Value = dict[str, float | None]


def mean_and_deviation(values: Sequence[float]) -> Value:
    """``mean``, and ``std`` (n - 1) where there are several seeds."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def verdict(ratio: Value, seeds: int) -> str:
    """Is a ratio below 1, by the 95 % interval of Student's t over the seeds?

    ``yes``, ``no`` if it is above 1, ``open`` if 1 is inside the interval.
    """
    if ratio["std"] is None:
        return "open"
    reach = float(student_t.ppf(0.975, seeds - 1)) * ratio["std"] / seeds**0.5
    return "yes" if ratio["mean"] + reach < 1 else "no" if ratio["mean"] - reach > 1 else "open"
