"""All-atom trajectories with forces in the formats of other programs, in the package's units.

GROMACS TRR and Amber NetCDF are read through MDAnalysis, H5MD by `h5md`, LAMMPS dumps by `lammps`.
A format is here only if its files, or the user, say for certain what the units are, which particle
is which, what the box is and at which time every frame was. TRR has fixed units; NetCDF and H5MD
state theirs; LAMMPS dumps have none, so the user gives them. MDAnalysis opens many formats more,
and takes their numbers as angstrom, ps and kJ/mol/angstrom whatever they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.io import netcdf_file

from openmm_cgkd.exceptions import (
    BoxError,
    CompatibilityError,
    ConfigError,
    FramesError,
    MappingError,
)
from openmm_cgkd.frames.gromacs_files import ParticlesError, check_trr
from openmm_cgkd.utils.foreign import reading
from openmm_cgkd.utils.text_file import check_regular, read_text
from openmm_cgkd.utils.units import ANGSTROM

from .atom_frame import AtomFrame
from .h5md import FORMAT as H5MD
from .h5md import H5mdTrajectory
from .lammps import LammpsDump, is_lammps_dump

if TYPE_CHECKING:
    import MDAnalysis

# endings of names that MDAnalysis reads, and its name of the format
_FORMATS = {".trr": "TRR", ".nc": "NCDF", ".ncdf": "NCDF", ".h5md": "H5MD"}
_NAMES = {
    "TRR": "a GROMACS TRR trajectory",
    "NCDF": "an Amber NetCDF trajectory",
    "H5MD": H5MD,
}
_GIVE = "give a trajectory with forces"
_TOPOLOGY = "a PDB, GRO or TPR file"
_TOPOLOGIES = (".pdb", ".ent", ".gro", ".tpr")
_LARGEST_PDB = 2**30  # bytes; ten million atoms
_FEWEST_BYTES = 20  # of an atom in a GRO file


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
        from MDAnalysis.lib.util import NamedStream
    except ImportError as error:
        raise CompatibilityError(
            "Reading trajectories needs MDAnalysis; install it with: pip install 'MDAnalysis>=2.8'."
        ) from error
    size = check_regular(path, _TOPOLOGY, FramesError)
    if path.suffix.lower() not in _TOPOLOGIES:
        # others include further files, or make room for as many atoms as they say
        raise FramesError(
            f"{path}: the ending {path.suffix or '(none)'} is of no topology that is read; give"
            f" {_TOPOLOGY}."
        )
    if path.suffix.lower() in (".pdb", ".ent"):
        text = read_text(path, _TOPOLOGY, FramesError, _LARGEST_PDB)
        source = NamedStream(StringIO(_numbered_anew(text)), f"{path.stem}.pdb")
    else:
        source = str(path)
    with reading(path, "a topology", f"give {_TOPOLOGY}", FramesError):
        if path.suffix.lower() == ".gro":
            _check_gro(path, size)
        return MDAnalysis.Universe(source, to_guess=())


def _check_gro(path: Path, size: int) -> None:
    """Refuse a number of atoms that the file cannot hold: MDAnalysis makes room for all first."""
    with open(path, encoding="utf-8") as file:
        file.readline(_LARGEST_PDB)
        n_atoms = int(file.readline(_FEWEST_BYTES))
    if n_atoms * _FEWEST_BYTES > size:
        raise ValueError(f"its second line says {n_atoms} atoms, and it is too short for them")


def _numbered_anew(text: str) -> str:
    """A PDB file with decimal numbers of atoms and residues, which wrap, and without bonds.

    Numbers that do not fit their columns are hexadecimal, hybrid or stars, by the program that
    wrote them. Only where one residue ends counts.
    """
    lines, last, residue, atom = [], None, 0, 0
    for line in text.splitlines():
        if line.startswith(("ATOM", "HETATM")):
            if line[17:27] != last:
                last, residue = line[17:27], residue + 1
            atom += 1
            # the insertion code is part of the number
            line = f"{line[:6]}{atom % 100_000:5d}{line[11:22]}{residue % 10_000:4d} {line[27:]}"
        if not line.startswith(("CONECT", "TER")):
            lines.append(line)
    return "\n".join(lines) + "\n"


def open_trajectory(
    path: Path,
    universe: MDAnalysis.Universe,
    topology: Path,
    units: str | None,
    timestep: float | None,
) -> AtomTrajectory:
    """Open a trajectory: a LAMMPS dump by its first line, others by the ending of their names.

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
        If the file is missing, unreadable or of another format, or does not state its units, its
        box, the order of its particles or its times.
    MappingError
        If it has another number of atoms than the topology.
    """
    check_regular(path, "an all-atom trajectory with forces and its topology", FramesError)
    if is_lammps_dump(path):
        return LammpsDump(path, len(universe.atoms), units, timestep)
    for option, value in (("--units", units), ("--timestep", timestep)):
        if value is not None:
            raise ConfigError(
                f"{path}: {option} is for LAMMPS dumps, and this file does not begin with 'ITEM:';"
                " other formats have units of their own, so leave it out."
            )
    kind = _FORMATS.get(path.suffix.lower())
    if kind is None:
        raise FramesError(
            f"{path}: the ending {path.suffix or '(none)'} is of no format whose units, particles,"
            " box and times are certain; convert the trajectory to GROMACS .trr, Amber .nc, .h5md"
            " or a LAMMPS .dump, with forces."
        )
    with reading(path, _NAMES[kind], _GIVE, FramesError):
        n_atoms = len(universe.atoms)
        try:
            if kind == "H5MD":
                return H5mdTrajectory(path, n_atoms)
            _CHECKS[kind](path, n_atoms)
            universe.load_new(str(path), format=kind)
        except ValueError as error:
            if not isinstance(error, ParticlesError) and "same number of atoms" not in str(error):
                raise
            raise MappingError(
                f"{path}: has not the {n_atoms} atoms of {topology}; give the topology of this"
                " trajectory."
            ) from error
    return _Reader(universe, path, _NAMES[kind])


class _Reader:
    """Frames through MDAnalysis, which converts to angstrom, ps and kJ/(mol angstrom)."""

    def __init__(self, universe: MDAnalysis.Universe, path: Path, kind: str) -> None:
        self._frames, self._path, self._kind = universe.trajectory, path, kind

    def __len__(self) -> int:
        return len(self._frames)

    def __iter__(self) -> Iterator[AtomFrame]:
        return map(self._frame, range(len(self)))

    def _frame(self, k: int) -> AtomFrame:
        cure = f"frame {k} is damaged, remove it"
        with reading(self._path, self._kind, cure, FramesError):
            frame = self._frames[k]
            for name in ("positions", "forces"):
                if not getattr(frame, f"has_{name}"):
                    raise FramesError(
                        f"{self._path}: frame {k} has no {name}; write both positions and forces"
                        " (GROMACS: nstfout = nstxout)."
                    )
            box = frame.triclinic_dimensions
            found = AtomFrame(
                frame.positions.astype(float) * ANGSTROM,
                frame.forces.astype(float) / ANGSTROM,
                np.zeros((3, 3)) if box is None else box.astype(float) * ANGSTROM,
                float(frame.time),
                int(frame.data.get("step", k)),
            )
        found.check(self._path, k)
        return found


def _check_netcdf(path: Path, n_atoms: int) -> None:
    """Refuse a file without times, which MDAnalysis would number, or without units or box."""
    with netcdf_file(path, "r", mmap=True) as file:  # else all frames are in memory at once
        units = {name: hasattr(data, "units") for name, data in file.variables.items()}
    if "cell_lengths" not in units:
        raise BoxError(f"{path}: has no periodic box; only periodic fluids can be mapped.")
    for name, cure in (
        ("coordinates", "write positions"),
        ("forces", "write forces (Amber: ntwf = ntwx, or ntwf = -1)"),
        ("time", "write the time of every frame"),
        ("cell_angles", "write the whole box"),
    ):
        if name not in units:
            raise FramesError(f"{path}: has no {name}; {cure}.")
    without = [
        name
        for name in ("coordinates", "forces", "time", "cell_lengths", "cell_angles")
        if not units[name]
    ]
    if without:
        raise FramesError(
            f"{path}: {' and '.join(without)} do not state their units; write the units attributes."
        )


_CHECKS = {"TRR": check_trr, "NCDF": _check_netcdf}
