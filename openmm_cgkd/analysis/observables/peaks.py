"""First peak and first minimum of a radial distribution function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial
from scipy.signal import find_peaks, savgol_filter

# nm: narrower than any first shell of molecular beads, wider than the counting noise of bins
_SMOOTHING = 0.05
# a peak rises above its surroundings by this share of the highest value; less is noise
_PROMINENCE = 0.1
_DEPTH = 1 / 30  # and a dip is deeper than this share
_DEGREE = 4  # of the polynomial through a peak
_AGREEING = 2.0  # standard errors within which fits of two windows agree
_WIDEST = 0.1  # nm, half of the widest window
_FOURTH_DIFFERENCE = np.array([1.0, -4.0, 6.0, -4.0, 1.0]) / np.sqrt(70)  # of noise: as large


@dataclass(frozen=True)
class Peak:
    """A peak of g(r).

    Attributes
    ----------
    position, height : float
        nm, and g there.
    window : slice
        Bins that the polynomial goes through.
    """

    position: float
    height: float
    window: slice


def first_peak(r: np.ndarray, values: np.ndarray) -> Peak | None:
    """The first peak of g(r), or None where g(r) has none below r_max.

    The peak is the first maximum that stands out by a tenth of the highest value in a curve that is
    smoothed by a local cubic over 0.05 nm. Smoothing would lower it, so position and height are
    those of a polynomial of fourth degree that `fit_peak` puts through the raw bins around it. Its
    window is as wide as can be while height and position agree with those of every narrower window
    within two standard errors of that one (Lepski, Theory Probab. Appl. 1991, 35, 454), and at most
    0.2 nm. The noise behind these is that of counting, proportional to sqrt(g) / r, and as large as
    fourth differences of the whole curve say.

    Parameters
    ----------
    r : ndarray, shape (bins,), nm
        Centers of equal bins.
    values : ndarray, shape (bins,)
        Means of g over the bins.
    """
    smooth = _smoothed(r, values, _SMOOTHING)
    peaks, _ = find_peaks(smooth, prominence=_PROMINENCE * smooth.max())
    if len(peaks) == 0:
        return None
    top, width = int(peaks[0]), r[1] - r[0]
    noise = _counting_noise(r, np.asarray(values, dtype=float))
    accepted: list[tuple[Peak, float, float]] = []
    for half in range(_DEGREE // 2, max(_DEGREE // 2, int(_WIDEST / width)) + 1):
        if top < half or top + half >= len(r):
            break
        window = slice(top - half, top + half + 1)
        peak = fit_peak(r, values, window, noise)
        if peak is None:
            if accepted:
                break
            continue  # noise of few bins may have no maximum
        if any(
            abs(peak.height - other.height) > _AGREEING * of_height
            or abs(peak.position - other.position) > _AGREEING * of_position
            for other, of_height, of_position in accepted
        ):
            break
        accepted.append((peak, *_counting_errors(r, values, noise, peak)))
    if accepted:
        return accepted[-1][0]
    return Peak(float(r[top]), float(values[top]), slice(top, top + 1))


def fit_peak(
    r: np.ndarray, values: np.ndarray, window: slice, noise: np.ndarray | None = None
) -> Peak | None:
    """Maximum of the polynomial whose means over the bins of a window are nearest to g(r).

    Means over bins, not values at their centers: a bin is not much narrower than a sharp peak.

    Parameters
    ----------
    r, values : ndarray, shape (bins,)
    window : slice
        An odd number of bins.
    noise : ndarray, shape (bins,), optional
        Relative weights; that of counting if absent.

    Returns
    -------
    Peak or None
        None if the polynomial has no maximum within the window; for a single bin that bin.
    """
    x, width = r[window], r[1] - r[0]
    if len(x) == 1:
        return Peak(float(x[0]), float(values[window][0]), window)
    if noise is None:
        noise = _counting_noise(r, np.asarray(values, dtype=float))
    middle = 0.5 * (x[0] + x[-1])
    polynomial = Polynomial(_solver(r, noise, window) @ values[window])
    turning = polynomial.deriv().roots()
    places = turning.real[np.abs(turning.imag) < 1e-9]
    inside = places[
        (np.abs(places) < len(x) / 2 - 1) & (polynomial.deriv(2)(places) < 0)  # no edge
    ]
    if len(inside) == 0:
        return None
    best = inside[np.argmax(polynomial(inside))]
    return Peak(float(middle + best * width), float(polynomial(best)), window)


def _solver(r: np.ndarray, noise: np.ndarray, window: slice) -> np.ndarray:
    """Matrix that makes coefficients of the bins of a window, shape (degree + 1, n).

    The variable is the distance from the middle of the window in bins.
    """
    x, weights = r[window], 1 / noise[window]
    basis = _bin_means((x - 0.5 * (x[0] + x[-1])) / (r[1] - r[0]))
    return np.linalg.pinv(basis * weights[:, None]) * weights


def _bin_means(centers: np.ndarray) -> np.ndarray:
    """Means of 1, u, u^2 ... over bins of width 1, shape (n, degree + 1)."""
    powers = np.arange(1, _DEGREE + 2)
    return ((centers[:, None] + 0.5) ** powers - (centers[:, None] - 0.5) ** powers) / powers


def _counting_errors(
    r: np.ndarray, values: np.ndarray, noise: np.ndarray, peak: Peak
) -> tuple[float, float]:
    """Standard errors of height and position (nm) from independent noise of the bins."""
    x, width = r[peak.window], r[1] - r[0]
    solver = _solver(r, noise, peak.window)
    polynomial = Polynomial(solver @ values[peak.window])
    place = (peak.position - 0.5 * (x[0] + x[-1])) / width
    spread = solver * noise[peak.window]  # noise of the coefficients
    height = np.linalg.norm(place ** np.arange(_DEGREE + 1) @ spread)
    powers = np.arange(1, _DEGREE + 1)
    slope = np.linalg.norm((powers * place ** (powers - 1)) @ spread[1:])
    return float(height), float(width * slope / abs(polynomial.deriv(2)(place)))


def _counting_noise(r: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Standard deviation of every bin, shape (bins,): the square root of g over r, times a factor.

    The factor is that of most fourth differences, which a smooth curve hardly has.
    """
    shape = np.sqrt(np.maximum(values, 0.05 * values.max())) / r
    differences = np.abs(np.convolve(values, _FOURTH_DIFFERENCE, mode="valid")) / shape[2:-2]
    occupied = differences[values[2:-2] > 0.05 * values.max()]
    factor = np.median(occupied) / 0.6745 if len(occupied) else 0.0  # of a normal distribution
    return shape * max(factor, 1e-9)


def first_minimum(r: np.ndarray, values: np.ndarray) -> float | None:
    """Distance (nm) of the first minimum of g(r) after its first peak, or None without one.

    The first dip, in a curve smoothed by a local cubic over 0.1 nm, that is deeper than a thirtieth
    of the highest value.

    Parameters
    ----------
    r : ndarray, shape (bins,), nm
        Equally spaced.
    values : ndarray, shape (bins,)
    """
    peak = first_peak(r, values)
    if peak is None:
        return None
    smooth = _smoothed(r, values, 2 * _SMOOTHING)
    start = int(np.searchsorted(r, peak.position))
    dips, _ = find_peaks(-smooth[start:], prominence=_DEPTH * smooth.max())
    return float(r[start + dips[0]]) if len(dips) else None


def _smoothed(r: np.ndarray, values: np.ndarray, width: float) -> np.ndarray:
    """Savitzky-Golay; unchanged where the bins are too wide for it."""
    window = 2 * int(0.5 * width / (r[1] - r[0])) + 1
    return (
        savgol_filter(values, window, polyorder=3)
        if 5 <= window <= len(values)
        else np.asarray(values, dtype=float)
    )
