"""How far two curves differ, and how sure a curve is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.distance import jensenshannon

from openmm_cgkd.exceptions import AnalysisError


@dataclass(frozen=True)
class CurveError:
    r"""Distance between two curves on the same equal bins.

    Attributes
    ----------
    mean_absolute : float
        Mean over all bins of abs(g - reference); for RDFs the figure called "RDF error".
    integrated_absolute : float
        Integral of abs(g - reference) over the axis: for curves from 0 to r_max the mean times
        r_max.
    rmse : float
        Square root of the mean over all bins of (g - reference)^2.
    jensen_shannon : float
        Jensen-Shannon divergence in bits between the two as probability distributions (Lin, IEEE
        Trans. Inf. Theory 1991, 37, 145): 0 for equal ones, 1 for ones that do not overlap.
    overlap : float
        :math:`1 - \int |g - g_0| / \int (g + g_0)`: 1 for equal curves, 0 for ones that do not
        overlap (Moore, Iacovella and McCabe, J. Chem. Phys. 2014, 140, 224104).
    """

    mean_absolute: float
    integrated_absolute: float
    rmse: float
    jensen_shannon: float
    overlap: float


def curve_error(
    values: np.ndarray, reference: np.ndarray, bin_width: float, weights: np.ndarray | float = 1.0
) -> CurveError:
    """Compare two curves, or maps, bin by bin.

    Parameters
    ----------
    values, reference : ndarray, shape (bins,) or more dimensions
        Not negative.
    bin_width : float
        Width of a bin, or size of a cell.
    weights : ndarray or float
        Times a curve gives the probability distribution for the Jensen-Shannon divergence: volumes
        of the shells for an RDF.

    Raises
    ------
    AnalysisError
        If the curves have different bins.
    """
    if np.shape(values) != np.shape(reference):
        raise AnalysisError(
            f"Curves of shapes {np.shape(values)} and {np.shape(reference)} do not compare; use the"
            " same bins for both."
        )
    difference = np.abs(np.asarray(values) - reference)
    total = np.sum(values) + np.sum(reference)
    return CurveError(
        float(difference.mean()),
        float(difference.sum() * bin_width),
        float(np.sqrt((difference**2).mean())),
        _divergence(np.ravel(values * weights), np.ravel(reference * weights)),
        float(1 - difference.sum() / total) if total else 1.0,
    )


def _divergence(values: np.ndarray, reference: np.ndarray) -> float:
    """Jensen-Shannon divergence in bits; an empty curve overlaps with nothing."""
    if not (values.any() and reference.any()):
        return float(values.any() or reference.any())
    # scipy's root of a rounding error below 0 is nan
    return float(np.nan_to_num(jensenshannon(values, reference, base=2)) ** 2)


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


def leave_one_out(
    blocks: np.ndarray, statistic: Callable[[np.ndarray], float | np.ndarray]
) -> np.ndarray:
    """A statistic of the mean curve without each of the blocks, which are the first axis.

    Raises
    ------
    AnalysisError
        If there are fewer than two blocks.
    """
    _check_blocks(blocks)
    return np.array(
        [statistic(np.delete(blocks, k, axis=0).mean(axis=0)) for k in range(len(blocks))]
    )


def jackknife(left_out: np.ndarray) -> np.ndarray:
    """Standard error from the values of `leave_one_out`, which are the first axis.

    error^2 = (n - 1) / n * sum_i (s_i - mean(s))^2 (Efron and Stein, Ann. Stat. 1981, 9, 586).
    """
    return np.sqrt((len(left_out) - 1) * np.var(left_out, axis=0))


def jackknife_error(blocks: np.ndarray, statistic: Callable[[np.ndarray], float]) -> float:
    """Standard error of a statistic of the mean curve, by leaving out one block at a time.

    For what is not linear in the curve, such as a peak height, where the mean over noisy blocks
    would be biased.

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
    return float(jackknife(leave_one_out(blocks, statistic)))


def _check_blocks(blocks: np.ndarray) -> None:
    if len(blocks) < 2:
        raise AnalysisError(
            f"A standard error needs at least two blocks, got {len(blocks)}; use more blocks."
        )
