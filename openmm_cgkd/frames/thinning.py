"""Keep the frames of a file that are independent by the autocorrelation of their forces."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.mapping.beads import BeadTopology

from .correlation import ForceAutocorrelation
from .frames import Frames, iterate_frames, write_stream
from .verify import FramesReport, verify_frames

logger = logging.getLogger(__name__)


def thin_frames(
    path: Path | str, output: Path | str, repair: bool = False, temperature: float | None = None
) -> FramesReport:
    """Check a file of mapped frames and write its independent frames to another one.

    One frame in ``correlation.independent_stride`` is kept, from the first on. The attributes
    ``force_correlation_time`` (ps) and ``thinned`` of the new file say so. Memory does not grow
    with the number of frames.

    Parameters
    ----------
    path : path
        Stays as it is unless it is repaired or gets its temperature.
    output : path
        Complete or absent.
    repair : bool
    temperature : float, kelvin, optional
        Both as for `verify_frames`.

    Returns
    -------
    FramesReport
        Of the new file.

    Raises
    ------
    FramesError, ConfigError
        If `output` exists, or as `verify_frames`.
    AnalysisError
        If the frames are too few, or not evenly spaced in time but for gaps.
    """
    path, output = Path(path), Path(output)
    if output.exists():
        raise FramesError(
            f"{output}: exists already; name a new file for the frames that are kept."
        )
    report = verify_frames(path, repair, temperature)
    write_independent(
        path, output, report.header.beads, report.header.attributes, report.correlation
    )
    return verify_frames(output)


def write_independent(
    path: Path,
    output: Path,
    beads: BeadTopology,
    attributes: dict[str, Any],
    correlation: ForceAutocorrelation,
) -> int:
    """Write the independent frames of `path` to `output`; returns their number.

    Both may be the same file.

    Parameters
    ----------
    correlation : ForceAutocorrelation
        Of all frames of `path`.
    """
    stride, time = correlation.independent_stride, correlation.integrated_time
    if not correlation.is_complete:
        logger.warning(
            "forces correlate for longer than the longest lag, so the frames that are kept are not"
            " independent"
        )
    logger.info("forces correlate for %.3g ps: one frame in %d is kept", time, stride)
    return write_stream(
        output,
        beads,
        attributes | {"force_correlation_time": time, "thinned": stride},
        _every(stride, path),
    )


def _every(stride: int, path: Path) -> Iterator[Frames]:
    n = 0
    for frames in iterate_frames(path):
        yield frames[-n % stride :: stride]
        n += len(frames)
