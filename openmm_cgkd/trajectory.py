"""Mapped frames from an existing all-atom trajectory with forces, read through MDAnalysis."""

from __future__ import annotations

import logging
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mdtraj
import numpy as np
import openmm

from . import __version__
from .config import SystemConfig, dump
from .exceptions import BoxError, CompatibilityError, FramesError, MappingError
from .files import file_hash, replacing
from .frames import FrameWriter, read_frames
from .mapping import bond_order, make_whole, mapping_from_config
from .progress import log_to, progress
from .reference.build import build_topology

if TYPE_CHECKING:
    import MDAnalysis

logger = logging.getLogger(__name__)

_ANGSTROM = 0.1  # nm
# what MDAnalysis' parsers and readers raise on files that they cannot read
_READ_ERRORS = (OSError, ValueError, TypeError, KeyError, IndexError, EOFError, AttributeError, RuntimeError)


def map_trajectory(system: SystemConfig, trajectory: Path, topology: Path, output: Path) -> Path:
    """Map every frame of an all-atom trajectory and write a file of mapped frames.

    Parameters
    ----------
    system : SystemConfig
        Molecules, temperature and beads. Masses, atom names and bonds come from its molecule files.
    trajectory : path
        All-atom trajectory with positions and forces at the same steps, such as a GROMACS ``.trr``; molecules may be
        broken across the periodic box, which may be triclinic.
    topology : path
        The same atoms with names and one residue per molecule, in a format MDAnalysis reads (PDB, GRO, TPR).
    output : path
        HDF5 file of mapped frames; complete or absent. If it holds the frames of this trajectory already, nothing is done.
        A log with the same name and ending ``.log`` stands beside it.

    Returns
    -------
    path
        `output`.

    Raises
    ------
    CompatibilityError
        If MDAnalysis is not installed.
    FramesError
        If a file is missing or unreadable, a frame has no forces or no positions, a value is not finite, or `output` is another file.
    MappingError
        If the atoms or molecules differ from the configuration.
    BoxError
        If a frame has no periodic box.

    Notes
    -----
    Constraints are not in a trajectory and cannot be checked: they must lie inside one bead.
    """
    with warnings.catch_warnings(), log_to(output.with_suffix(".log")):
        warnings.filterwarnings("ignore", module="MDAnalysis")  # guesses about fields that are not read here
        universe = _open(trajectory, topology)
        atoms = _atoms(system, universe, topology)
        mapping, bonds = mapping_from_config(system, atoms), bond_order(atoms)
        if len(bonds) != atoms.n_atoms - atoms.n_residues:
            raise MappingError("Some atoms of a molecule are not bonded to the rest of it; add CONECT records to its molecule file.")
        frames = universe.trajectory
        attributes = _provenance(system, trajectory, topology, atoms)
        if output.exists():
            return _existing(output, attributes)
        with replacing(output) as fresh:
            fresh.unlink(missing_ok=True)  # left over from a killed call; it must not be continued
            with FrameWriter(fresh, mapping.topology, attributes) as writer, progress("map", len(frames)) as meter:
                last = -1
                for k in range(len(frames)):
                    positions, forces, box, time, step = _read(frames, k, trajectory)
                    if step <= last:
                        raise FramesError(f"{trajectory}: frame {k} is at step {step}, not after {last}; remove repeated frames.")
                    last = step
                    whole = make_whole(positions, box, bonds)
                    writer.append(mapping.map_positions(whole), mapping.map_forces(forces), box, time, step)
                    meter.update(k + 1)
    logger.info("mapped %d frames of %d atoms onto %d beads: %s", len(frames), mapping.n_atoms, mapping.topology.n_beads, output)
    return output


def _existing(output: Path, attributes: dict[str, object]) -> Path:
    """Accept a file that holds the same frames; refuse to replace any other."""
    try:
        found = read_frames(output).attributes
    except FramesError as error:
        raise FramesError(f"{output}: exists and is not a file of mapped frames; remove it or choose another --output.") from error
    if any(found.get(key) != attributes[key] for key in ("configuration", "trajectory_sha256")):
        raise FramesError(f"{output}: exists and holds frames of another trajectory or system; remove it or choose another --output.")
    logger.info("%s: finished before, skipped", output)
    return output


def _open(trajectory: Path, topology: Path) -> MDAnalysis.Universe:
    try:
        import MDAnalysis
    except ImportError as error:
        raise CompatibilityError("Reading trajectories needs MDAnalysis; install it with: pip install 'MDAnalysis>=2.8'.") from error
    for path in (trajectory, topology):
        if not path.exists():
            raise FramesError(f"{path}: no such file; give an all-atom trajectory with forces and its topology.")
    try:
        universe = MDAnalysis.Universe(str(topology), to_guess=())
    except _READ_ERRORS as error:
        raise FramesError(f"{topology}: cannot be read as a topology ({_one_line(error)}); give a PDB, GRO or TPR file.") from error
    try:
        universe.load_new(str(trajectory))
    except _READ_ERRORS as error:
        if "same number of atoms" in str(error):
            n_atoms = len(universe.atoms)
            raise MappingError(f"{trajectory}: has not the {n_atoms} atoms of {topology}; give the topology of this trajectory.") from error
        raise FramesError(f"{trajectory}: cannot be read as a trajectory ({_one_line(error)}); give a TRR file with forces.") from error
    return universe


def _atoms(system: SystemConfig, universe: MDAnalysis.Universe, path: Path) -> mdtraj.Topology:
    """Topology with elements and bonds of the molecule files, in the order of the trajectory."""
    if not (hasattr(universe.atoms, "names") and hasattr(universe.atoms, "resnames")):
        raise MappingError(f"{path}: has no atom or residue names; give a PDB, GRO or TPR file.")
    names = [str(name) for name in universe.residues.resnames]
    unknown = set(names) - {molecule.name for molecule in system.molecules}
    if unknown:
        raise MappingError(f"{path}: holds molecules that the configuration does not name: {sorted(unknown)}.")
    atoms = mdtraj.Topology.from_openmm(build_topology(system, names))
    for expected, found in zip(atoms.residues, universe.residues, strict=True):
        expected_names, found_names = [atom.name for atom in expected.atoms], [str(name) for name in found.atoms.names]
        if expected_names != found_names:
            raise MappingError(
                f"{path}: molecule {expected.index} ({expected.name}) has atoms {' '.join(found_names)}, "
                f"its molecule file has {' '.join(expected_names)}; use the same names and order."
            )
    return atoms


def _read(frames: Any, k: int, path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, float, int]:
    """Positions, forces, box, time and step of one frame in nm, kJ/mol/nm and ps."""
    try:
        frame = frames[k]
    except _READ_ERRORS as error:
        raise FramesError(f"{path}: frame {k} cannot be read ({_one_line(error)}); the file is damaged, remove that frame.") from error
    for name in ("positions", "forces"):
        if not getattr(frame, f"has_{name}"):
            raise FramesError(f"{path}: frame {k} has no {name}; write both positions and forces (GROMACS: nstfout = nstxout).")
        if not np.isfinite(getattr(frame, name)).all():
            raise FramesError(f"{path}: {name} of frame {k} are not finite; remove that frame or run again with a smaller time step.")
    box = frame.triclinic_dimensions
    if box is None or np.linalg.det(box) <= 0:
        raise BoxError(f"{path}: frame {k} has no periodic box; only periodic fluids can be mapped.")
    # MDAnalysis converts every format to angstrom and kJ/(mol angstrom)
    positions, forces = frame.positions.astype(float) * _ANGSTROM, frame.forces.astype(float) / _ANGSTROM
    return positions, forces, box.astype(float) * _ANGSTROM, frame.time, int(frame.data.get("step", k))


def _provenance(system: SystemConfig, trajectory: Path, topology: Path, atoms: mdtraj.Topology) -> dict[str, object]:
    return {
        "system": system.name,
        "temperature": system.temperature,
        "n_atoms": atoms.n_atoms,
        "command": " ".join(["cgkd", *sys.argv[1:]]),
        "configuration": dump(system),
        "trajectory": trajectory.name,
        "trajectory_sha256": file_hash(trajectory),
        "topology": topology.name,
        "versions": f"openmm_cgkd {__version__}, openmm {openmm.__version__}",
    }


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
