"""How long the forces on beads remember: their autocorrelation, and independent frames."""

from __future__ import annotations

import math
from typing import Self

import numpy as np
from numpy.lib.stride_tricks import as_strided

from openmm_cgkd.exceptions import AnalysisError

from .frames import Frames

# share of the interval by which times may deviate; trajectory formats hold them in single precision
_EVEN = 1e-2
_GAP = 1.5  # first step of time; after a longer one frames were lost


class ForceAutocorrelation:
    r"""Normalised autocorrelation of the mapped forces.

    It is averaged over beads, components and time origins:

    .. math:: C(t) = \langle F_i(s) F_i(s + t) \rangle / \langle F_i(s)^2 \rangle

    The mean force on a bead of a fluid is zero, so none is subtracted. Frames are added in pieces,
    in the order of time; memory does not grow with their number. Where frames were lost, as in a
    run that was continued, none before the gap is paired with one after it.

    Parameters
    ----------
    max_lag : int
        Longest lag, in frames.
    """

    def __init__(self, max_lag: int = 256) -> None:
        self._max_lag = max_lag
        self._lags = np.arange(max_lag + 1)
        self._sums, self._pairs = np.zeros(max_lag + 1), np.zeros(max_lag + 1, dtype=int)
        # forces of the last frames, shape (max_lag, 3 n_beads), zero before the first frame
        self._past: np.ndarray | None = None
        self._n, self._stretch = 0, 0  # frames in all, and since the last gap
        self._last: float | None = None
        self._steps, self._elapsed = 0, 0.0  # steps of time without gaps
        self._first_step, self._shortest, self._longest = math.nan, math.inf, -math.inf

    def compute(self, frames: Frames) -> Self:
        """Add frames that follow those added before."""
        if len(frames) == 0:
            return self
        times = frames.time if self._last is None else np.concatenate([[self._last], frames.time])
        steps, self._last = np.diff(times), frames.time[-1]
        if self._steps == 0 and len(steps):
            self._first_step = steps[0]
        gap = steps > _GAP * self._first_step
        if len(kept := steps[~gap]):
            self._shortest, self._longest = (
                min(self._shortest, kept.min()),
                max(self._longest, kept.max()),
            )
            self._steps, self._elapsed = self._steps + len(kept), self._elapsed + kept.sum()
        self._n += len(frames)
        forces = frames.forces.reshape(len(frames), -1)
        after = np.flatnonzero(gap) + 1 - (len(times) - len(frames))  # frames that a gap precedes
        for k, stretch in enumerate(np.split(forces, after)):
            if k > 0:
                self._past, self._stretch = None, 0
            for first in range(0, len(stretch), self._max_lag):
                self._add(stretch[first : first + self._max_lag])
        return self

    def _add(self, forces: np.ndarray) -> None:
        """All products of `forces`, shape (n, 3 n_beads), with themselves and with the past."""
        past = (
            np.zeros((self._max_lag, forces.shape[1]), forces.dtype)
            if self._past is None
            else self._past
        )
        known = np.concatenate([past, forces])
        products = forces @ known.T  # (n, max_lag + n); frame k stands in column max_lag + k
        row, column = products.strides
        by_lag = as_strided(
            products[:, self._max_lag :],
            (len(forces), self._max_lag + 1),
            (row + column, -column),
            writeable=False,
        )
        self._sums += by_lag.sum(axis=0, dtype=float)
        self._past = known[-self._max_lag :].copy()
        before, self._stretch = self._stretch, self._stretch + len(forces)
        self._pairs += np.maximum(self._stretch - np.maximum(self._lags, before), 0)

    @property
    def interval(self) -> float:
        """Time between frames, ps.

        Raises
        ------
        AnalysisError
            If there are too few frames, or they are not evenly spaced in time but for a few gaps.
        """
        if self._n < 4:
            raise AnalysisError(
                f"{self._n} frames are too few for a force autocorrelation; use at least 4."
            )
        mean = self._elapsed / self._steps
        uneven, gaps = (
            max(mean - self._shortest, self._longest - mean) > _EVEN * mean,
            self._n - 1 - self._steps,
        )
        if uneven or not mean > 0 or gaps > self._steps:
            raise AnalysisError(
                f"Frames are {self._shortest:g} to {self._longest:g} ps apart, with {gaps} longer"
                " gaps; a force autocorrelation needs even spacing but for a few gaps, so use"
                " frames of one output interval."
            )
        return mean

    @property
    def values(self) -> np.ndarray:
        """C by lag, shape (n_lags,).

        Lags are 0, 1, 2 ... intervals, as far as at least half of the frames have a pair at.
        """
        if self._n < 4 or self._sums[0] == 0:
            raise AnalysisError(
                f"{self._n} frames with forces of zero or too few frames have no force"
                " autocorrelation; check the run."
            )
        enough = 2 * self._pairs >= self._n
        means = self._sums[enough] / self._pairs[enough]
        return means / means[0]

    @property
    def is_complete(self) -> bool:
        """Whether C dies out within the lags; if not, the integrated time is a lower bound."""
        return self._window() < len(self.values)

    @property
    def integrated_time(self) -> float:
        r"""Integrated autocorrelation time, ps.

        .. math:: \tau = \Delta t \left( 1/2 + \sum_{k=1}^{W-1} C(k \Delta t) \right)

        W is the first lag at which C is not positive (Chodera et al., J. Chem. Theory Comput. 2007,
        3, 26) or that is six times the tau reached there (Sokal, in Functional Integration, 1997,
        p. 131), beyond which only noise is added. A force is the derivative of a bounded momentum,
        so that over all times its autocorrelation integrates to nearly zero: the whole integral
        would measure nothing.
        """
        return self.interval * (0.5 + self.values[1 : self._window()].sum())

    def _window(self) -> int:
        values = self.values
        ends = (values <= 0) | (np.arange(len(values)) >= 6 * (np.cumsum(values) - 0.5))
        return int(np.argmax(ends)) if ends.any() else len(values)

    @property
    def independent_stride(self) -> int:
        """Distance between independent frames.

        The statistical inefficiency, twice the integrated time over the interval, rounded.
        """
        return max(1, round(2 * self.integrated_time / self.interval))
