"""The last frame of a file, where a run begins that goes on from it or takes its box."""

from __future__ import annotations

from pathlib import Path

from .checks import check_boxes, check_finite, empty_error
from .frames import Frames, torn_error
from .hdf5 import FRAMES, open_file, read_header, read_rows


def read_last_frame(path: Path | str) -> Frames:
    """Read the last whole frame of a file, and none of those before it.

    Its writer may have closed it, still write it, or have been killed.

    Returns
    -------
    Frames
        One frame.

    Raises
    ------
    FramesError
        If the file is missing, foreign, damaged or empty, its last frame is torn though its writer
        has closed it, or a value is not finite or the box without volume.
    """
    path = Path(path)
    with open_file(path, FRAMES) as file:
        header = read_header(file, path)
        for k in reversed(range(header.rows)):
            arrays, good = read_rows(file, slice(k, k + 1))
            if good[0]:
                break
        else:
            raise empty_error(path)
    if header.finished and k + 1 < header.begun:
        raise torn_error(path, header.begun - k - 1, k + 1)
    cure = "remove that frame or make the file again"
    check_finite(arrays, path, ("positions", "forces", "box"), cure, k)
    check_boxes(arrays["box"], path, cure, k)
    return Frames(**arrays, beads=header.beads, attributes=header.attributes)
