"""The atoms of a topology file, molecule by molecule, against the molecule files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import mdtraj
import numpy as np

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import MappingError
from openmm_cgkd.mapping.mapping import atomic_masses

from .build import build_topology

if TYPE_CHECKING:
    import MDAnalysis


def match_topology(
    system: SystemConfig, universe: MDAnalysis.Universe, path: Path
) -> mdtraj.Topology:
    """Topology with elements and bonds of the molecule files, in the order of the trajectory.

    Parameters
    ----------
    system : SystemConfig
    universe : MDAnalysis.Universe
        Names and residues, as `mdanalysis.open_topology` gives.
    path : path
        Where `universe` comes from, for messages.

    Raises
    ------
    MappingError
        If molecules have other names, atoms or masses than their molecule files.
    """
    if not (hasattr(universe.atoms, "names") and hasattr(universe.atoms, "resnames")):
        raise MappingError(f"{path}: has no atom or residue names; give a PDB, GRO or TPR file.")
    names = [str(name) for name in universe.residues.resnames]
    unknown = sorted(set(names) - {molecule.name for molecule in system.molecules})
    if unknown:
        raise MappingError(
            f"{path}: holds molecules {', '.join(unknown[:20])}, which the configuration does not"
            " name; use the names of the topology for molecules in system.yaml and in their PDB"
            " files."
        )
    atoms = mdtraj.Topology.from_openmm(build_topology(system, names))
    for expected, found in zip(atoms.residues, universe.residues, strict=True):
        _check_molecule(path, expected, [str(name) for name in found.atoms.names])
    if hasattr(universe.atoms, "masses"):
        _check_masses(path, system, atoms, np.asarray(universe.atoms.masses, dtype=float))
    return atoms


def _check_molecule(path: Path, expected: mdtraj.core.topology.Residue, found: list[str]) -> None:
    """Compare the atoms of a molecule with its molecule file."""
    names = [atom.name for atom in expected.atoms]
    if found == names:
        return
    molecule = f"{path}: molecule {expected.index} ({expected.name})"
    if len(found) > len(names) and found == names * (len(found) // len(names)):
        raise MappingError(
            f"{molecule} is {len(found) // len(names)} molecules under one residue number; number"
            " the molecules one by one."
        )
    if len(found) < len(names) and set(found) < set(names):
        raise MappingError(
            f"{molecule} has {len(found)} of its {len(names)} atoms in one place; write the atoms"
            " of each molecule one after the other, in topology and trajectory."
        )
    raise MappingError(
        f"{molecule} has atoms {_some(found)}, its molecule file has {_some(names)}; use the same"
        " names and order."
    )


def _some(names: list[str]) -> str:
    return " ".join(names[:30]) + (f" and {len(names) - 30} more" if len(names) > 30 else "")


def _check_masses(
    path: Path, system: SystemConfig, atoms: mdtraj.Topology, masses: np.ndarray
) -> None:
    """Compare molecules with the masses that the topology file states; hydrogens may be heavy."""
    residues = np.array([atom.residue.index for atom in atoms.atoms])
    of_atoms = atomic_masses(system, atoms)
    if len(odd := np.flatnonzero((masses == 0) != (of_atoms == 0))):
        atom = atoms.atom(int(odd[0]))
        here, there = ("no mass", "a mass") if masses[odd[0]] == 0 else ("a mass", "no mass")
        raise MappingError(
            f"{path}: atom {atom.name} of {atom.residue.name} has {here} there and {there} by its"
            f" molecule file; system.yaml gives masses (masses of molecule {atom.residue.name}), 0"
            " dalton for virtual sites alone, which are the atoms without mass."
        )
    masses = np.bincount(residues, masses)
    expected = np.bincount(residues, of_atoms)
    wrong = np.flatnonzero(~(np.abs(masses - expected) <= 0.1 + 0.005 * expected))  # nan is
    if len(wrong):
        k = int(wrong[0])
        name = atoms.residue(k).name
        raise MappingError(
            f"{path}: molecule {k} ({name}) weighs {masses[k]:.2f} dalton there and"
            f" {expected[k]:.2f} by the elements of its molecule file; give the masses of united"
            f" atoms in system.yaml (masses of molecule {name}), or correct the elements."
        )
