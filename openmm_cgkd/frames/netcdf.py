"""What Amber NetCDF files say of their units, which MDTraj and MDAnalysis take for granted.

Convention: Amber NetCDF Trajectory, version 1.0, revision C.
"""

from __future__ import annotations

from pathlib import Path

from scipy.io import netcdf_file

from openmm_cgkd.exceptions import FramesError

_UNITS = {
    "coordinates": ("angstrom",),
    "time": ("picosecond",),
    "cell_lengths": ("angstrom",),
    "cell_angles": ("degree", "degrees"),
}


def has_times(path: Path) -> bool:
    """Whether the file holds the times of its frames, in the units of the convention.

    Raises
    ------
    FramesError
        If it holds another unit, or numbers that are to be multiplied.
    """
    with netcdf_file(path, "r", mmap=True) as file:  # else all frames are in memory at once
        attributes = {
            name: {key: getattr(data, key, None) for key in ("units", "scale_factor")}
            for name, data in file.variables.items()
        }
    for name, known in _UNITS.items():
        of_name = attributes.get(name, {})
        unit = of_name.get("units")
        text = unit.decode("utf-8", "replace") if isinstance(unit, bytes) else unit
        if text is not None and text not in known:
            raise FramesError(
                f"{path}: {name} are in {text!r}, not in {known[0]}; convert the trajectory."
            )
        factor = of_name.get("scale_factor")
        if factor is not None and float(factor) != 1.0:
            raise FramesError(
                f"{path}: {name} are to be multiplied by {float(factor):g}; convert the trajectory."
            )
    return "time" in attributes
