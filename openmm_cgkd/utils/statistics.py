"""How far two curves differ, and how sure a curve is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.spatial.distance import jensenshannon

from openmm_cgkd.exceptions import AnalysisError

_FEWEST, _PLATEAU = 4, 8  # blocks of the longest that are tried, and of a plateau
# by how much of its noise a squared error may exceed the plateau: of enough blocks, and of few
_RISE = (0.5, 2.0)
_UNCERTAIN = 3.0  # how much larger an error may be than the lower bound that has been found


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


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Standard error of the mean over independent samples, which are the first axis.

    For runs from different starts, for example. Successive frames of a run are not independent:
    see `blocked_mean`.

    Raises
    ------
    AnalysisError
        If there are fewer than two samples.
    """
    _check_samples(samples)
    return np.std(samples, axis=0, ddof=1) / np.sqrt(len(samples))


@dataclass(frozen=True)
class BlockedMean:
    """Mean of a time series, with a standard error that knows of its correlation.

    Attributes
    ----------
    mean, error : float or ndarray
        Of every component, with the shape of a sample.
    independent : float
        How many independent samples would give this error: the variance of a sample over that of
        the mean, both summed over the components.
    blocks : int
        Number of blocks that the error comes from.
    plateau : bool
        Whether longer blocks would give no larger error. If not, the series is too short and the
        error is a lower bound.
    """

    mean: Any
    error: Any
    independent: float
    blocks: int
    plateau: bool

    @property
    def error_of_error(self) -> Any:
        """Standard deviation of `error`, as that of independent normal block means.

        error / sqrt(2 (blocks - 1)) (Flyvbjerg and Petersen, equation 28).
        """
        return self.error / np.sqrt(2 * (self.blocks - 1))

    @property
    def safe_error(self) -> Any:
        """What the error may be at most: three times as large where there is no plateau.

        A series as short as one statistical inefficiency gives 0.35 of its error.
        """
        return safe_error(self.error, self.plateau)

    def words(self, form: str = ".2g") -> str:
        """The error as it is printed."""
        return error_words(self.error, self.plateau, form)


def mean_of(series: np.ndarray) -> BlockedMean:
    """`blocked_mean`, with nan as the error of a single sample, which has none."""
    if len(series) > 1:
        return blocked_mean(series)
    return BlockedMean(float(series[0]), np.nan, 1.0, 1, False)


def slope_of(times: np.ndarray, series: np.ndarray) -> BlockedMean:
    """`blocked_slope`, nan for fewer than three samples."""
    if len(series) > 2:
        return blocked_slope(times, series)
    return BlockedMean(np.nan, np.nan, 1.0, 1, False)


def numbers_of(name: str, found: BlockedMean) -> dict[str, Any]:
    """A mean, its standard error and whether that is a lower bound, as plain data."""
    error = float(found.error) if np.isfinite(found.error) else None
    return {
        name: float(found.mean),
        f"{name}_se": error,
        f"{name}_at_least": not found.plateau,
    }


def error_words(error: float, plateau: bool, form: str = ".2g") -> str:
    """A standard error as text; ``>=`` before a lower bound."""
    return f"{'' if plateau else '>= '}{error:{form}}"


def safe_error(error: Any, plateau: bool) -> Any:
    """An error, three times as large if it is only a lower bound (see `BlockedMean`)."""
    return error if plateau else _UNCERTAIN * error


def blocked_mean(series: np.ndarray) -> BlockedMean:
    r"""Mean of a time series with its standard error from blocks as long as needed.

    The series is cut into blocks of B samples; the scatter of their means gives a squared error
    :math:`s_B^2`, which grows with B to a plateau (Flyvbjerg and Petersen, J. Chem. Phys. 1989, 91,
    461). B grows by factors of the root of two, and since noise may make :math:`s_B` fall, the
    largest one up to B counts. The plateau begins with the shortest blocks for which

    .. math:: B^3 > 2 n (s_B / s_1)^4

    where the error that correlation leaves is as small as the noise of :math:`s_B` (Lee, Kent,
    Towler, Needs and Drummond, Phys. Rev. E 2011, 83, 066706), and beyond which no blocks give a
    squared error that is larger by more than half of its noise, or, where fewer than eight are
    left, twice its noise: fast noise can hide a slow wave from the first condition alone. It takes
    some 40 independent samples. Without a plateau blocks grow until four are left, and the largest
    error is a lower bound. The relative noise of a squared error of k blocks is sqrt(2 / (k - 1)),
    for several components over the root of how many of them vary by themselves,
    :math:`(\mathrm{tr}\,C)^2 / \mathrm{tr}\,C^2` with C the covariance of the block means.

    Parameters
    ----------
    series : ndarray, shape (n_samples, ...)
        Evenly spaced in time. Several components, such as the bins of a curve, are cut alike, by
        the sum of their squared errors.

    Raises
    ------
    AnalysisError
        If there are fewer than two samples.
    """
    series = np.asarray(series, dtype=float)
    _check_samples(series)
    n, sizes = len(series), np.array(_block_sizes(len(series)))
    blocks, means = n // sizes, [_block_means(series, size) for size in sizes]
    levels = [each.var(axis=0, ddof=1) / len(each) for each in means]
    totals = np.array([_total(level) for level in levels])
    highest = np.maximum.accumulate(totals)
    with np.errstate(divide="ignore", invalid="ignore"):
        growth = np.where(totals[0] > 0, highest / totals[0], 1.0)
    long_enough = (sizes**3 > 2 * n * growth**2) & (blocks >= _PLATEAU)
    noise = np.sqrt(2 / np.maximum(blocks - 1, 1) / [_components(each) for each in means])
    rise = np.where(blocks >= _PLATEAU, *_RISE) * noise
    steady = [np.all(totals[k:] <= bound * (1 + rise[k:])) for k, bound in enumerate(highest)]
    plateau = bool((long_enough & steady).any())
    last = int(np.argmax(long_enough & steady)) if plateau else len(sizes) - 1
    largest = int(np.argmax(totals[: last + 1]))
    independent = n * totals[0] / totals[largest] if totals[largest] > 0 else n
    return BlockedMean(
        _plain(series.mean(axis=0)),
        _plain(np.sqrt(levels[largest])),
        float(independent),
        int(blocks[last]),
        plateau,
    )


def blocked_slope(times: np.ndarray, series: np.ndarray) -> BlockedMean:
    """Slope of the straight line through a time series, with its standard error.

    The slope is a mean over samples to first order, of slope + n (t - <t>) (x - line) / sum (t -
    <t>)^2; `blocked_mean` of these knows of their correlation.

    Parameters
    ----------
    times, series : ndarray, shape (n_samples,)

    Raises
    ------
    AnalysisError
        If there are fewer than three samples.
    """
    series = np.asarray(series, dtype=float)
    if len(series) < 3:
        raise AnalysisError(f"A slope needs at least three samples, got {len(series)}.")
    centered = np.asarray(times, dtype=float) - np.mean(times)
    spread = centered @ centered
    slope = centered @ series / spread
    residuals = series - series.mean() - slope * centered
    return blocked_mean(slope + len(series) * centered * residuals / spread)


def root(mean_square: float, error: float) -> tuple[float, float]:
    """Root of a mean square with its standard error.

    A mean square from which an error was subtracted may be below zero: its root is given as 0, with
    the root of the error.

    Parameters
    ----------
    mean_square : float
    error : float
        Standard error of it; nan where it is not known.
    """
    value = float(np.sqrt(max(mean_square, 0.0)))
    bound = float(np.sqrt(error))
    return value, min(error / (2 * value), bound) if value > 0 else bound


def _block_sizes(n: int) -> list[int]:
    """Numbers of samples in a block, by factors of the root of two, to four blocks at least."""
    sizes, k = [1], 1
    while n // (size := round(2 ** (k / 2))) >= _FEWEST:
        if size != sizes[-1]:
            sizes.append(size)
        k += 1
    return sizes


def _block_means(series: np.ndarray, size: int) -> np.ndarray:
    """Means of blocks of `size` samples, which are the first axis."""
    blocks = len(series) // size
    # what does not fill a block is left out at the beginning
    kept = series[len(series) - blocks * size :]
    return kept.reshape(blocks, size, *series.shape[1:]).mean(axis=1)


def _components(means: np.ndarray) -> float:
    """How many components of the block means vary by themselves, at least 1.

    The trace of the squared covariance is freed of what few blocks add to it (Bai and Saranadasa,
    Stat. Sin. 1996, 6, 311).
    """
    n = len(means) - 1
    if means.ndim == 1 or n < 2:
        return 1.0
    rows = means.reshape(len(means), -1)
    rows = rows[:, np.isfinite(rows).all(axis=0)]
    products = (rows - rows.mean(axis=0)) @ (rows - rows.mean(axis=0)).T / n
    trace = np.trace(products)
    squared = n**2 / ((n - 1) * (n + 2)) * (np.sum(products**2) - trace**2 / n)
    return max(1.0, float(trace**2 / squared)) if squared > 0 else 1.0


def _total(squares: np.ndarray) -> float:
    """Sum over the components that are known; nan if none is."""
    known = np.isfinite(squares)
    return float(np.sum(squares, where=known)) if known.any() else np.nan


def _plain(value: np.ndarray) -> Any:
    return float(value) if value.ndim == 0 else value


def pseudo_values(value: Any, left_out: np.ndarray) -> np.ndarray:
    """Samples whose mean has the error of a statistic that is not a mean.

    n s - (n - 1) s_i, with s_i the statistic without sample i (Tukey's jackknife). In order of time
    they are a series for `blocked_mean`.

    Parameters
    ----------
    value : float or ndarray
        The statistic of all n samples.
    left_out : ndarray, shape (n, ...)
    """
    n = len(left_out)
    return n * np.asarray(value) - (n - 1) * np.asarray(left_out)


def leave_one_out(
    blocks: np.ndarray, statistic: Callable[[np.ndarray], float | np.ndarray]
) -> np.ndarray:
    """A statistic of the mean curve without each of the blocks, which are the first axis.

    Raises
    ------
    AnalysisError
        If there are fewer than two blocks.
    """
    _check_samples(blocks)
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


def _check_samples(samples: np.ndarray) -> None:
    if len(samples) < 2:
        raise AnalysisError(
            f"A standard error needs at least two samples, got {len(samples)}; use more of them."
        )
