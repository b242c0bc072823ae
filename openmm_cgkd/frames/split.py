"""Training, validation and test frames as contiguous stretches of time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from openmm_cgkd.config.run import SplitConfig
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.utils.box import lattice_coordinates, nearest_images

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


# RMS distance, nm per component, up to which two configurations are one: restraints move beads by
# less, a picosecond by more
_SAME = 0.02
# share of the RMS distance of configurations that know nothing of each other, beyond which the
# frame nearest in time says nothing of where a configuration is from
_STRANGE = 0.25
_BEADS = 32  # compared with every frame; the frame that is found is compared in full


def locate(
    frames: Frames, split: Split, positions: np.ndarray, box: np.ndarray, time: np.ndarray
) -> np.ndarray:
    """In which part of the split configurations lie that were taken from a trajectory.

    A configuration with the positions of a frame, whatever its time, lies where that frame does.
    Any other lies in the part whose span of time holds its time, if it looks like the frame that is
    nearest in time. If it does not, it is from another trajectory or as good as that.

    Parameters
    ----------
    frames : Frames
    split : Split
        Of these frames.
    positions : ndarray, shape (n, n_beads, 3), nm
        Of the beads of `frames`, in any periodic image.
    box : ndarray, shape (n, 3, 3), nm
    time : ndarray, shape (n,), ps

    Returns
    -------
    ndarray of str, shape (n,)
        ``training``, ``validation``, ``test``, or ``outside``: in a gap between the parts, before
        or after the frames, or from another trajectory.
    """
    few = np.unique(np.linspace(0, frames.beads.n_beads - 1, _BEADS).astype(int))
    inside = lattice_coordinates(frames.positions[:, few], frames.box)
    found = []
    for place, vectors, when in zip(positions, box, time, strict=True):
        near = (lattice_coordinates(place[few], vectors) - inside) % 1.0
        distances = (np.minimum(near, 1 - near) ** 2).mean(axis=(1, 2))
        nearest = int(np.argmin(distances))
        if _distance(frames, nearest, place) < _SAME:
            found.append(_part(frames.time, split, frames.time[nearest]))
            continue
        neighbor = int(np.argmin(np.abs(frames.time - when)))
        # coordinates spread evenly over the box have the variance 1/12
        strange = distances[neighbor] > _STRANGE**2 / 12
        found.append("outside" if strange else _part(frames.time, split, float(when)))
    return np.array(found)


def _distance(frames: Frames, k: int, positions: np.ndarray) -> float:
    """RMS distance per component from frame k, nm."""
    apart = nearest_images(positions - frames.positions[k], frames.box[k])
    return float(np.sqrt(np.mean(apart.astype(float) ** 2)))


def _part(time: np.ndarray, split: Split, when: float) -> str:
    for name, indices in vars(split).items():
        if time[indices[0]] <= when <= time[indices[-1]]:
            return name
    return "outside"
