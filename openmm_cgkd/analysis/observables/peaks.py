"""First peak and first minimum of a radial distribution function."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.polynomial import Polynomial
from scipy.signal import find_peaks, peak_widths, savgol_filter

# nm: narrower than any first shell of molecular beads, wider than the counting noise of bins
_SMOOTHING = 0.05
# a peak rises above its surroundings by this share of the highest value; less is noise
_PROMINENCE = 0.1
_DEPTH = 1 / 30  # and a dip is deeper than this share
_DEGREE = 4  # of the polynomial through a peak
_UPPER = 0.3  # share of the prominence that counts as the upper part of a peak


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
    those of a polynomial of fourth degree that `fit_peak` puts through the raw bins of its upper
    part, five at least. Such a polynomial follows a Gaussian there to one in a thousand.

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
    top = int(peaks[0])
    left, right = (float(ends[0]) for ends in peak_widths(smooth, peaks[:1], _UPPER)[2:])
    first = max(0, min(top - _DEGREE // 2, round(left)))
    last = min(len(r) - 1, max(top + _DEGREE // 2, round(right)))
    found = fit_peak(r, values, slice(first, last + 1))
    return found or Peak(float(r[top]), float(values[top]), slice(top, top + 1))


def fit_peak(r: np.ndarray, values: np.ndarray, window: slice) -> Peak | None:
    """Maximum of the polynomial whose means over the bins of a window are nearest to g(r).

    Means over bins, not values at their centers: a bin is not much narrower than a sharp peak. Bins
    count as far as r^2 / g, as counting errors have it.

    Parameters
    ----------
    r, values : ndarray, shape (bins,)
    window : slice

    Returns
    -------
    Peak or None
        None if the polynomial has no maximum within the window; for a single bin that bin.
    """
    x, y, width = r[window], np.asarray(values, dtype=float)[window], r[1] - r[0]
    if len(x) == 1:
        return Peak(float(x[0]), float(y[0]), window)
    middle = 0.5 * (x[0] + x[-1])
    weights = x / np.sqrt(np.maximum(y, 0.05 * y.max()))
    basis = _bin_means((x - middle) / width)
    found = np.linalg.lstsq(basis * weights[:, None], y * weights, rcond=None)[0]
    polynomial = Polynomial(found)
    turning = polynomial.deriv().roots()
    places = turning.real[np.abs(turning.imag) < 1e-9]
    inside = places[
        (np.abs(places) < len(x) / 2 - 1) & (polynomial.deriv(2)(places) < 0)  # no edge
    ]
    if len(inside) == 0:
        return None
    best = inside[np.argmax(polynomial(inside))]
    return Peak(float(middle + best * width), float(polynomial(best)), window)


def _bin_means(centers: np.ndarray) -> np.ndarray:
    """Means of 1, u, u^2 ... over bins of width 1, shape (n, degree + 1)."""
    powers = np.arange(1, _DEGREE + 2)
    return ((centers[:, None] + 0.5) ** powers - (centers[:, None] - 0.5) ** powers) / powers


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
