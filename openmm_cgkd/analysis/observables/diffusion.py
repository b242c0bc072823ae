r"""Mean-squared displacement, diffusion, and how much faster coarse-grained dynamics is.

.. math:: \mathrm{MSD}(t) = \left\langle |\mathbf{r}(t_0 + t) - \mathbf{r}(t_0)|^2 \right\rangle,
\qquad
          D = \frac{1}{6} \frac{d}{dt} \mathrm{MSD}(t)

averaged over beads and over all time origins; D is the slope of a straight line through a window of
lag times (Einstein). It is a diffusion coefficient only where the MSD grows linearly, so the
exponent d ln MSD / d ln t over the window is given, too. The finite size of the box lowers D
(Yeh and Hummer, J. Phys. Chem. B 2004, 108, 15873); between runs in the same box most of that
cancels in the ratio.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import freud
import numpy as np

from openmm_cgkd.exceptions import AnalysisError
from openmm_cgkd.utils.box import nearest_images, shifts_into_box
from openmm_cgkd.utils.statistics import standard_error

_BLOCKS = 8  # of time, over which displacements forget each other where beads diffuse
# window of the fit as shares of the length of a block: beyond ballistic motion, short enough for
# many time origins
_WINDOW = (0.1, 0.5)
_DIFFUSIVE = 0.1  # largest distance of the exponent from 1


@dataclass(frozen=True)
class Diffusion:
    """Diffusion of the beads of one type.

    Attributes
    ----------
    lag_times : ndarray, shape (n,), ps
    msd : ndarray, shape (n,), nm^2
        Mean over the blocks.
    msd_se : ndarray, shape (n,), nm^2
        Standard error over the blocks.
    coefficient, coefficient_se : float, nm^2/ps
        The standard error is a lower bound unless `independent`.
    exponent : float
        d ln MSD / d ln t over the window of the fit; 1 for diffusion, less while beads are still in
        their cages.
    window : pair of float, ps
    independent : bool
        Whether blocks are independent, as far as can be told: beads diffuse, so that they forget
        within a block, and pairs of blocks scatter no more than single ones make expect.
    """

    lag_times: np.ndarray
    msd: np.ndarray
    msd_se: np.ndarray
    coefficient: float
    coefficient_se: float
    exponent: float
    window: tuple[float, float]
    independent: bool

    @property
    def diffusive(self) -> bool:
        """Whether the MSD grows linearly over the window, so that `coefficient` means diffusion."""
        return _diffusive(self.exponent)


def _diffusive(exponent: float) -> bool:
    return abs(exponent - 1) < _DIFFUSIVE


def unwrapped(positions: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Positions that follow every bead across the periodic boundary.

    Right for wrapped and for unwrapped input when no bead moves further than half a box height
    between frames. Where the box changes, positions that are some boxes away from it move by that
    many times the change; so the steps are those between wrapped positions, which keep the
    dynamics (von Buelow, Bullerjahn and Hummer, J. Chem. Phys. 2020, 153, 021101).

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
    boxes : ndarray, shape (n_frames, 3, 3), nm
    """
    inside = np.asarray(positions, dtype=float)
    inside = inside + shifts_into_box(inside, boxes)
    steps = nearest_images(np.diff(inside, axis=0), boxes[1:])
    return np.concatenate([positions[:1], positions[0] + np.cumsum(steps, axis=0)])


def mean_squared_displacement(positions: np.ndarray) -> np.ndarray:
    """MSD over beads and all time origins, by Fourier transform (freud).

    Parameters
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
        Unwrapped.

    Returns
    -------
    ndarray, shape (n_frames,), nm^2
        For lags of 0, 1, ... frames.
    """
    # the transform loses digits far from the origin
    return freud.msd.MSD(mode="window").compute(positions - positions.mean(axis=0)).msd


def diffusion(
    stretches: Sequence[np.ndarray],
    interval: float,
    window: tuple[float, float] | None = None,
) -> Diffusion:
    """Diffusion coefficient of some beads with a standard error over eight blocks of time.

    The blocks are equally long, as long as can be, and none extends over the end of a stretch.

    Parameters
    ----------
    stretches : sequence of ndarray, shape (n_frames, n_beads, 3), nm
        Unwrapped positions; stretches of a trajectory between which time is lost, or the one of a
        whole trajectory.
    interval : float, ps
        Time between frames.
    window : pair of float, ps, optional
        Lag times of the fit; from 10 % to 50 % of a block if absent.

    Raises
    ------
    AnalysisError
        If there is no bead, or a block is too short for the window.
    """
    total = sum(len(stretch) for stretch in stretches)
    length = _block_length([len(stretch) for stretch in stretches])
    pieces = [
        stretch[k * length : (k + 1) * length]
        for stretch in stretches
        for k in range(len(stretch) // length)
    ]
    largest = (length - 1) * interval
    window = window or (_WINDOW[0] * largest, _WINDOW[1] * largest)
    lags = np.arange(length) * interval
    inside = (lags > 0) & (lags >= window[0] - 1e-9) & (lags <= window[1] + 1e-9)
    n_beads = stretches[0].shape[1] if stretches else 0
    if n_beads == 0 or inside.sum() < 3 or window[1] > largest + 1e-9 or len(pieces) < _BLOCKS:
        raise AnalysisError(
            f"{total} frames {interval:g} ps apart of {n_beads} beads make {_BLOCKS} unbroken"
            f" blocks with {inside.sum()} lag times between {window[0]:g} and {window[1]:g} ps; a"
            " diffusion coefficient needs at least 3: simulate longer."
        )
    msds = np.array([mean_squared_displacement(piece) for piece in pieces])
    slopes = np.array([np.polyfit(lags[inside], msd[inside], 1)[0] for msd in msds])
    msd = msds.mean(axis=0)
    moving = (msd[inside] > 0).all()
    exponent = np.polyfit(np.log(lags[inside]), np.log(msd[inside]), 1)[0] if moving else np.nan
    return Diffusion(
        lags,
        msd,
        standard_error(msds),
        float(slopes.mean()) / 6,
        float(standard_error(slopes)) / 6,
        float(exponent),
        window,
        _diffusive(float(exponent)) and _forgetful(slopes),
    )


def _forgetful(slopes: np.ndarray) -> bool:
    """Whether pairs of blocks scatter as independent blocks do, within a standard deviation."""
    pairs = slopes[len(slopes) % 2 :].reshape(-1, 2).mean(axis=1)
    noise = np.sqrt(2 / (len(pairs) - 1))
    return bool(standard_error(pairs) ** 2 <= (1 + noise) * standard_error(slopes) ** 2)


def _block_length(lengths: Sequence[int]) -> int:
    """Largest number of frames per block with which the stretches hold enough whole blocks.

    1 if there is none.
    """
    candidates = {length // k for length in lengths for k in range(1, _BLOCKS + 1)} - {0}
    return max(
        (size for size in candidates if sum(length // size for length in lengths) >= _BLOCKS),
        default=1,
    )


def speed_up(fast: Diffusion, slow: Diffusion) -> tuple[float, float]:
    """Ratio of the diffusion coefficients of `fast` and `slow`, and its standard error.

    For example of coarse-grained to all-atom beads.

    Raises
    ------
    AnalysisError
        If the slow one does not diffuse.
    """
    if not slow.coefficient > 0:
        raise AnalysisError(
            f"The reference has a diffusion coefficient of {slow.coefficient:g} nm^2/ps; no"
            " speed-up can be told."
        )
    ratio = fast.coefficient / slow.coefficient
    relative = (
        np.hypot(fast.coefficient_se / fast.coefficient, slow.coefficient_se / slow.coefficient)
        if fast.coefficient
        else np.inf
    )
    return float(ratio), float(abs(ratio) * relative)


def time_factor(fast: Diffusion, slow: Diffusion) -> float | None:
    """How many times longer the slow beads take to move as far as the fast ones.

    Needs no diffusive regime: the ratio of the lag times at which both mean-squared displacements
    reach half of what the less mobile one reaches within half a block. None if one of them has it
    from its first lag on.
    """
    reached = [curve.msd[: (len(curve.msd) + 1) // 2].max() for curve in (fast, slow)]
    level = 0.5 * min(reached)
    times = []
    for curve in (fast, slow):
        later = np.flatnonzero(curve.msd >= level)
        k = later[0] if len(later) else 0
        if k < 2 or not curve.msd[k - 1] > 0:
            return None
        times.append(
            np.exp(
                np.interp(
                    np.log(level),
                    np.log(curve.msd[k - 1 : k + 1]),
                    np.log(curve.lag_times[k - 1 : k + 1]),
                )
            )
        )
    return float(times[1] / times[0])
