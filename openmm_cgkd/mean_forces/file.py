"""The HDF5 file of mean-force frames: mean forces on beads, with their standard errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.checks import check_boxes, check_finite, check_temperature
from openmm_cgkd.frames.hdf5 import FileKind, file_attributes, open_file, read_beads, write_beads
from openmm_cgkd.frames.seal import read_checked, seal
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.hdf5_output import hdf5_output
from openmm_cgkd.utils.statistics import jackknife, leave_one_out

MEAN_FORCES = FileKind("openmm_cgkd mean forces", 1, "mean-force frames", "'cgkd meanforce'")
_ARRAYS = {"positions": "f4", "forces": "f4", "standard_error": "f4", "box": "f8", "time": "f8"}
_CURE = "make the file again with 'cgkd meanforce'"
_ESTIMATES = ("first", "second", "first_error", "second_error")


@dataclass(frozen=True)
class MeanForces:
    """Mean forces at fixed bead configurations.

    Attributes
    ----------
    positions : ndarray, shape (n_frames, n_beads, 3), nm
        Mean bead positions of the restrained runs, to which the forces belong.
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        Mean mapped force of the atoms, without the restraint.
    standard_error : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        From the scatter of starts and from what they remember of each other.
    box : ndarray, shape (n_frames, 3, 3), nm
    time : ndarray, shape (n_frames,), ps
        Of the configuration in the all-atom trajectory it was taken from.
    beads : BeadTopology
    attributes : dict
        Provenance: trajectory, restraint constant, protocol, versions.
    """

    positions: np.ndarray
    forces: np.ndarray
    standard_error: np.ndarray
    box: np.ndarray
    time: np.ndarray
    beads: BeadTopology
    attributes: dict[str, Any]

    def __len__(self) -> int:
        return len(self.positions)

    def variance(self, beads: np.ndarray | slice = slice(None)) -> float:
        """Variance of the mean force per component over some beads, freed of its own error.

        It is in (kJ/mol/nm)^2.

        The estimate's square is on average the true square plus the squared standard error, which
        is subtracted.
        """
        return float(
            (self.forces[:, beads] ** 2).mean() - (self.standard_error[:, beads] ** 2).mean()
        )


@dataclass(frozen=True)
class Estimates:
    """Two estimates of what should be the same mean forces.

    Each has shape (n_frames, n_beads, 3), kJ/mol/nm.

    Attributes
    ----------
    first, second : ndarray
    first_error, second_error : ndarray
        Standard errors from what differs between the two; what they share does not count.
    """

    first: np.ndarray
    second: np.ndarray
    first_error: np.ndarray
    second_error: np.ndarray

    def agreement(self) -> dict[str, float]:
        """How well they agree.

        Returns
        -------
        dict
            ``slope``, with ``slope_error``: <F1 F2> / <F1^2>, noise subtracted; 1 if they estimate
            the same force. ``difference``: root mean square of F1 - F2 per component; ``expected``:
            what the standard errors make of it; kJ/mol/nm.

        Notes
        -----
        With S the mean square of the force, n1 and n2 those of the errors, and N components that
        err independently, the slope has the variance ((n1 + n2) S + n1 n2 + 2 n1^2) / (S^2 N): the
        noise of the denominator is in F1^2, too. Beads of one configuration err together. So the
        error is the one that comes from leaving out configurations, one by one, if that is more.
        """
        first, second = self.first.astype(float), self.second.astype(float)
        noise, other = (
            float((error.astype(float) ** 2).mean())
            for error in (self.first_error, self.second_error)
        )
        signal = (first**2).mean() - noise
        variance = ((noise + other) * signal + noise * other + 2 * noise**2) / signal**2
        error = np.sqrt(variance / first.size)
        if len(first) > 2:
            parts = np.stack(
                [
                    (first * second).mean(axis=(1, 2)),
                    (first**2 - self.first_error.astype(float) ** 2).mean(axis=(1, 2)),
                ],
                axis=1,
            )
            error = max(error, float(jackknife(leave_one_out(parts, lambda m: m[0] / m[1]))))
        return {
            "slope": float((first * second).mean() / signal),
            "slope_error": float(error),
            "difference": float(np.sqrt(((first - second) ** 2).mean())),
            "expected": float(np.sqrt(noise + other)),
        }


def write_mean_forces(
    path: Path | str, mean_forces: MeanForces, checks: dict[str, Estimates] | None = None
) -> None:
    """Write a file of mean-force frames, complete or not at all.

    Parameters
    ----------
    checks : dict, optional
        By name; each becomes a group of the file.
    """
    with (
        replacing(Path(path)) as fresh,
        hdf5_output(fresh) as output,
        h5py.File(output, "w", libver="latest") as file,
    ):
        file.attrs.update({**MEAN_FORCES.attributes, **mean_forces.attributes})
        write_beads(file, mean_forces.beads)
        for name, kind in _ARRAYS.items():
            _put(file, name, getattr(mean_forces, name), kind)
        for name, check in (checks or {}).items():
            group = file.create_group(f"checks/{name}")
            group.attrs.update(check.agreement())
            for part in _ESTIMATES:
                _put(group, part, getattr(check, part), "f4")
        seal(file)


def _put(group: h5py.Group, name: str, values: np.ndarray, kind: str) -> None:
    group.create_dataset(
        name, data=np.asarray(values, dtype=kind), compression="gzip", shuffle=True
    )


def read_mean_forces(path: Path | str) -> MeanForces:
    """Read the mean-force frames of a file.

    Raises
    ------
    FramesError
        If the file is missing, foreign or damaged, or holds numbers that are not physical.
    """
    path = Path(path)
    with open_file(path, MEAN_FORCES) as file:
        beads = read_beads(file, path)
        values = {name: read_checked(file[name]) for name in _ARRAYS}
        attributes = file_attributes(file)
    n = len(values["positions"])
    shapes = {"box": (n, 3, 3), "time": (n,)}
    for name, array in values.items():
        expected = shapes.get(name, (n, beads.n_beads, 3))
        if array.shape != expected or n == 0 or array.dtype.kind != "f":
            raise FramesError(
                f"{path}: {name} have shape {array.shape} and type {array.dtype}, expected"
                f" {expected} and floating point for {beads.n_beads} beads; {_CURE}."
            )
    check_finite(values, path, tuple(_ARRAYS), _CURE)
    check_boxes(values["box"], path, _CURE)
    check_temperature(attributes, path)
    if (values["standard_error"] < 0).any():
        raise FramesError(f"{path}: has standard errors below zero; {_CURE}.")
    return MeanForces(**values, beads=beads, attributes=attributes)
