"""Training, validation and test frames as contiguous stretches of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_cgkd.config.run import SplitConfig
from openmm_cgkd.exceptions import FramesError

from .frames import Frames


@dataclass(frozen=True)
class Split:
    """Frame indices of each part; every part is a contiguous stretch of time."""

    training: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def split_frames(time: np.ndarray, validation: float, test: float, gap: float) -> Split:
    """Split into contiguous time blocks: training, gap, validation, gap, test.

    Parameters
    ----------
    time : ndarray, shape (n_frames,), ps
    validation, test : float
        Shares of all frames.
    gap : float
        Time in ps between parts; longer than the force correlation time, so that held-out frames
        are independent.

    Raises
    ------
    FramesError
        If a part would be empty.
    """
    n = len(time)
    n_test, n_validation = round(n * test), round(n * validation)
    first_test, first_validation = n - n_test, n - n_test - n_validation
    index = np.arange(n)
    if min(n_test, n_validation, first_validation) > 0:
        in_training = time < time[first_validation] - gap
        in_validation = (index >= first_validation) & (time < time[first_test] - gap)
        split = Split(
            index[:first_validation][in_training[:first_validation]],
            index[in_validation],
            index[first_test:],
        )
        if min(len(split.training), len(split.validation)) > 0:
            return split
    span = time[-1] - time[0] if n else 0.0
    raise FramesError(
        f"{n} frames over {span:g} ps cannot be split into training, validation ({validation:g})"
        f" and test ({test:g}) with gaps of {gap:g} ps; use more frames, larger shares or a smaller"
        " gap."
    )


def apply_split(frames: Frames, settings: SplitConfig) -> Split:
    """Split frames as the settings say; errors as `split_frames`."""
    return split_frames(frames.time, settings.validation, settings.test, settings.gap)
