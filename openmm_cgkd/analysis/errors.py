"""How far two curves differ, and how sure a curve is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..exceptions import AnalysisError


@dataclass(frozen=True)
class CurveError:
    """Distance between two curves on the same equal bins from 0 to r_max.

    Attributes
    ----------
    mean_absolute : float
        Mean over all bins of abs(g - reference); the figure called "RDF error".
    integrated_absolute : float
        Integral of abs(g - reference) from 0 to r_max, nm: the mean times r_max.
    rmse : float
        Square root of the mean over all bins of (g - reference)^2.
    """

    mean_absolute: float
    integrated_absolute: float
    rmse: float


def curve_error(values: np.ndarray, reference: np.ndarray, bin_width: float) -> CurveError:
    """Compare two curves bin by bin.

    Parameters
    ----------
    values, reference : ndarray, shape (bins,)
    bin_width : float, nm

    Raises
    ------
    AnalysisError
        If the curves have different bins.
    """
    if np.shape(values) != np.shape(reference):
        raise AnalysisError(f"Curves of shapes {np.shape(values)} and {np.shape(reference)} do not compare; use the same bins for both.")
    difference = np.abs(np.asarray(values) - reference)
    return CurveError(float(difference.mean()), float(difference.sum() * bin_width), float(np.sqrt((difference**2).mean())))


def standard_error(blocks: np.ndarray) -> np.ndarray:
    """Standard error of the mean over independent blocks, which are the first axis.

    Right when a block is much longer than the correlation time, too small otherwise.

    Raises
    ------
    AnalysisError
        If there are fewer than two blocks.
    """
    _check_blocks(blocks)
    return np.std(blocks, axis=0, ddof=1) / np.sqrt(len(blocks))


def jackknife_error(blocks: np.ndarray, statistic: Callable[[np.ndarray], float]) -> float:
    """Standard error of a statistic of the mean curve, by leaving out one block at a time.

    For what is not linear in the curve, such as a peak height, where the mean over noisy blocks would be biased:
    error^2 = (n - 1) / n * sum_i (s_i - mean(s))^2 (Efron and Stein, Ann. Stat. 1981, 9, 586).

    Parameters
    ----------
    blocks : ndarray, shape (n_blocks, bins)
    statistic : callable
        Maps a curve (bins,) to a number; nan makes the error nan.

    Raises
    ------
    AnalysisError
        If there are fewer than two blocks.
    """
    _check_blocks(blocks)
    n = len(blocks)
    left_out = np.array([statistic(np.delete(blocks, k, axis=0).mean(axis=0)) for k in range(n)])
    return float(np.sqrt((n - 1) * np.var(left_out)))


def _check_blocks(blocks: np.ndarray) -> None:
    if len(blocks) < 2:
        raise AnalysisError(f"A standard error needs at least two blocks, got {len(blocks)}; use more blocks.")
