"""Does a claim hold? Ratios of errors over independent trainings, judged by Student's t."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import t as student_t

SIGNIFICANT = 0.05

Value = dict[str, float | None]


def mean_and_deviation(values: Sequence[float]) -> Value:
    """``mean``, and ``std`` (n - 1) where there are several seeds."""
    return {
        "mean": float(np.mean(values)),
        "std": float(np.std(values, ddof=1)) if len(values) > 1 else None,
    }


def p_value(ratio: Value, seeds: int) -> float | None:
    """Two-sided p-value of the hypothesis that a ratio is 1, by Student's t over the seeds.

    None for a single seed.
    """
    if ratio["std"] is None:
        return None
    if ratio["std"] == 0:
        return 1.0 if ratio["mean"] == 1 else 0.0
    return float(2 * student_t.sf(abs(ratio["mean"] - 1) / ratio["std"] * seeds**0.5, seeds - 1))


def verdict(ratio: Value, seeds: int) -> str:
    """Is a ratio below 1, by the 95 % interval of Student's t over the seeds?

    ``yes``, ``no`` if it is above 1, ``open`` if 1 is inside the interval.
    """
    p = p_value(ratio, seeds)
    if p is None or p >= SIGNIFICANT:
        return "open"
    return "yes" if ratio["mean"] < 1 else "no"


def words(ratio: Value, p: float | None, holds: str, digits: int) -> str:
    """Ratio, verdict and p-value for a table."""
    value = f"{ratio['mean']:.{digits}f}"
    if ratio["std"] is None or p is None:
        return f"{value} {holds}"
    chance = "p < 0.001" if p < 0.001 else f"p = {p:.3f}"
    return f"{value} ± {ratio['std']:.{digits}f} {holds}, {chance}"
