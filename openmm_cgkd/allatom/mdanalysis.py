"""All-atom trajectories with forces in the formats of other programs, in the package's units.

GROMACS TRR, Amber NetCDF and H5MD are read through MDAnalysis, LAMMPS dumps by `lammps`. TRR has
fixed units; NetCDF and H5MD state their units, and are refused if they do not; LAMMPS dumps have
none, so the user gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import h5py
import numpy as np
from scipy.io import netcdf_file

from openmm_cgkd.exceptions import (
    BoxError,
    CompatibilityError,
    ConfigError,
    FramesError,
    MappingError,
)
from openmm_cgkd.utils.box import box_volume
from openmm_cgkd.utils.units import ANGSTROM

from .lammps import AtomFrame, LammpsDump

if TYPE_CHECKING:
    import MDAnalysis

_LAMMPS = (".lammpstrj", ".lammpsdump", ".dump")
_NETCDF = (".nc", ".ncdf")
# what MDAnalysis' parsers and readers raise on files that they cannot read
_READ_ERRORS = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    EOFError,
    AttributeError,
    RuntimeError,
)


class AtomTrajectory(Protocol):
    """Frames of an all-atom trajectory, from first to last; can be iterated over again."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[AtomFrame]: ...


def open_topology(path: Path) -> MDAnalysis.Universe:
    """Names and residues of the atoms.

    Raises
    ------
    CompatibilityError
        If MDAnalysis is not installed.
    FramesError
        If the file is missing or unreadable.
    """
    try:
        import MDAnalysis
    except ImportError as error:
        raise CompatibilityError(
            "Reading trajectories needs MDAnalysis; install it with: pip install 'MDAnalysis>=2.8'."
        ) from error
    _check_exists(path)
    try:
        return MDAnalysis.Universe(str(path), to_guess=())
    except _READ_ERRORS as error:
        raise FramesError(
            f"{path}: cannot be read as a topology ({_one_line(error)}); give a PDB, GRO or TPR"
            " file."
        ) from error


def open_trajectory(
    path: Path,
    universe: MDAnalysis.Universe,
    topology: Path,
    units: str | None,
    timestep: float | None,
) -> AtomTrajectory:
    """Open a trajectory by the ending of its name.

    Parameters
    ----------
    path : path
    universe : MDAnalysis.Universe
        As `open_topology` gives it.
    topology : path
        Where `universe` comes from, for messages.
    units : str, optional
        Unit style of a LAMMPS dump.
    timestep : float, optional
        Time step of a LAMMPS dump without times, ps.

    Raises
    ------
    ConfigError
        If `units` or `timestep` are given for a format that has its own, or are missing for one
        that has none.
    FramesError
        If the file is missing or unreadable, or does not state its units.
    MappingError
        If it has another number of atoms than the topology.
    """
    _check_exists(path)
    if path.suffix.lower() in _LAMMPS:
        return LammpsDump(path, len(universe.atoms), units, timestep)
    for option, value in (("--units", units), ("--timestep", timestep)):
        if value is not None:
            raise ConfigError(
                f"{path}: {option} is for LAMMPS dumps ({' '.join(_LAMMPS)}), other formats have"
                " units of their own; leave it out."
            )
    if path.suffix.lower() == ".h5md":
        _check_h5md(path)
    try:
        if path.suffix.lower() in _NETCDF:
            # MDAnalysis leaves an error of its own behind on files that are none
            netcdf_file(path, "r", mmap=True).close()
        universe.load_new(str(path))
    except _READ_ERRORS as error:
        if "same number of atoms" in str(error):
            n_atoms = len(universe.atoms)
            raise MappingError(
                f"{path}: has not the {n_atoms} atoms of {topology}; give the topology of this"
                " trajectory."
            ) from error
        raise FramesError(
            f"{path}: cannot be read as a trajectory ({_one_line(error)}); give a trajectory with"
            " forces."
        ) from error
    return _Reader(universe, path)


class _Reader:
    """Frames through MDAnalysis, which converts to angstrom, ps and kJ/(mol angstrom)."""

    def __init__(self, universe: MDAnalysis.Universe, path: Path) -> None:
        self._frames, self._path = universe.trajectory, path

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[AtomFrame]:
        return map(self._frame, range(len(self)))

    def _frame(self, k: int) -> AtomFrame:
        path = self._path
        try:
            frame = self._frames[k]
        except _READ_ERRORS as error:
            raise FramesError(
                f"{path}: frame {k} cannot be read ({_one_line(error)}); the file is damaged,"
                " remove that frame."
            ) from error
        for name in ("positions", "forces"):
            if not getattr(frame, f"has_{name}"):
                raise FramesError(
                    f"{path}: frame {k} has no {name}; write both positions and forces (GROMACS:"
                    " nstfout = nstxout)."
                )
        box = frame.triclinic_dimensions
        if box is None or box_volume(box) <= 0:
            raise BoxError(
                f"{path}: frame {k} has no periodic box; only periodic fluids can be mapped."
            )
        positions, forces = (
            frame.positions.astype(float) * ANGSTROM,
            frame.forces.astype(float) / ANGSTROM,
        )
        return AtomFrame(
            positions,
            forces,
            box.astype(float) * ANGSTROM,
            float(frame.time),
            int(frame.data.get("step", k)),
        )


def _check_h5md(path: Path) -> None:
    """Refuse positions and forces of different steps or without units.

    MDAnalysis would pair them by their index.
    """
    try:
        with h5py.File(path, "r") as file:
            group = next(iter(file["particles"].values()))
            found = {name: group[name] for name in ("position", "force") if name in group}
            without = [
                name
                for name, data in found.items()
                if "unit" not in data["value"].attrs or "unit" not in data["time"].attrs
            ]
            steps = [data["step"][()] for data in found.values()]
    except (StopIteration, *_READ_ERRORS) as error:
        raise FramesError(
            f"{path}: cannot be read as H5MD ({_one_line(error)}); give a trajectory with forces."
        ) from error
    if without:
        raise FramesError(
            f"{path}: {' and '.join(without)} do not state the units of their values and times;"
            " write the unit attributes."
        )
    if len(steps) == 2 and not np.array_equal(*steps):
        raise FramesError(
            f"{path}: positions and forces were written at different steps; write both at the same"
            " steps."
        )


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise FramesError(
            f"{path}: no such file; give an all-atom trajectory with forces and its topology."
        )


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
