"""What numbers of mapped frames can be: finite, growing in time, in boxes that have a volume."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.text_file import shown

BEFORE_ALL = {"time": -np.inf, "step": -np.inf}


def check_finite(
    arrays: dict[str, np.ndarray], path: Path, names: tuple[str, ...], cure: str, first: int = 0
) -> None:
    """Refuse values that are not finite.

    Parameters
    ----------
    arrays : dict
        Frames are the first axis.
    path : path
        Of their file, for messages.
    names : tuple of str
        Which arrays.
    cure : str
        For messages.
    first : int
        Index of the first of these frames in the file.

    Raises
    ------
    FramesError
        Naming the frame.
    """
    for name in names:
        bad = ~np.isfinite(arrays[name]).reshape(len(arrays[name]), -1).all(axis=1)
        if bad.any():
            raise FramesError(
                f"{path}: {name} of frame {first + np.argmax(bad)} are not finite; {cure}."
            )


def check_boxes(box: np.ndarray, path: Path, cure: str, first: int = 0) -> None:
    """Refuse boxes (n_frames, 3, 3) without volume; other parameters and errors as above."""
    good = box_volume(box) > 0
    if not good.all():
        raise FramesError(
            f"{path}: the box of frame {first + np.argmin(good)} has no volume; {cure}."
        )


def check_growth(
    arrays: dict[str, np.ndarray], before: dict[str, float], path: Path, first: int = 0
) -> dict[str, float]:
    """Refuse times and steps that do not grow from frame to frame.

    Parameters
    ----------
    before : dict
        Time and step of the frame before: `BEFORE_ALL`, or what this function returned.

    Returns
    -------
    dict
        Time and step of the last frame.

    Raises
    ------
    FramesError
        Naming the frame; other parameters as above.
    """
    for name, last in before.items():
        values = arrays[name]
        good = (np.diff(values, prepend=last) > 0) & np.isfinite(values)
        if not good.all():
            k = int(np.argmin(good))
            raise FramesError(
                f"{path}: {name} of frame {first + k} is {values[k]:g}, not after"
                f" {values[k - 1] if k else last:g}; remove repeated frames."
            )
    return {name: arrays[name][-1] for name in before}


def check_temperature(attributes: dict[str, Any], path: Path) -> None:
    """Refuse a temperature that is no positive number of kelvin; it may be absent.

    Raises
    ------
    FramesError
    """
    value = attributes.get("temperature", 300.0)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 < value < math.inf:
        raise FramesError(
            f"{path}: has the temperature {shown(value)}, expected a positive number of kelvin;"
            " make the file again."
        )


def temperature_of(attributes: dict[str, Any], path: Path | None = None) -> float:
    """Temperature of frames, kelvin.

    Parameters
    ----------
    attributes : dict
    path : path, optional
        Their file, for the message.

    Raises
    ------
    FramesError
        If it is not known.
    """
    if "temperature" not in attributes:
        raise FramesError(
            f"{path or 'The frames'}: the temperature of the all-atom run is not known; write it"
            f" into the file with 'cgkd verify {path or 'FRAMES'} --temperature KELVIN'."
        )
    return float(attributes["temperature"])


def empty_error(path: Path) -> FramesError:
    """What is wrong with a file without frames."""
    return FramesError(
        f"{path}: holds no whole frame; make mapped frames with 'cgkd reference' or 'cgkd map'."
    )
