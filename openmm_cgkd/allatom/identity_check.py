"""Whether the atoms of a trajectory are those of the topology, by what the trajectory says."""

from __future__ import annotations

from pathlib import Path

import mdtraj
import numpy as np

from openmm_cgkd.exceptions import MappingError

from .atom_frame import AtomFrame

_ORDER = "give a topology whose atoms are in the order of the trajectory"
_ISOTOPES = {"D": "H", "T": "H"}


def check_identity(
    frame: AtomFrame, atoms: mdtraj.Topology, masses: np.ndarray, path: Path
) -> None:
    """Compare types, elements, masses and molecules of a frame with the topology.

    Parameters
    ----------
    frame : AtomFrame
    atoms : mdtraj.Topology
        One residue per molecule, elements of the molecule files.
    masses : ndarray, shape (n_atoms,), dalton
        By the molecule files.
    path : path
        Where the frame comes from, for messages.

    Raises
    ------
    MappingError
        If atoms of one type are of several elements, or elements, masses or molecules differ.
    """
    symbols = np.array([_symbol(atom.element.symbol) for atom in atoms.atoms])
    known = symbols != "VS"  # united atoms and virtual sites have none
    if frame.types is not None:
        _check_types(frame.types[known], symbols[known], path)
    if frame.elements is not None:
        found = np.array([_symbol(symbol) for symbol in frame.elements])
        if len(wrong := np.flatnonzero(known & (found != symbols))):
            k = int(wrong[0])
            raise MappingError(
                f"{path}: atom {k + 1} is {frame.elements[k]} there and {symbols[k]} in the"
                f" topology; {_ORDER}."
            )
    residues = np.array([atom.residue.index for atom in atoms.atoms])
    if frame.masses is not None:
        # of molecules, because hydrogens may be heavy
        found, expected = (np.bincount(residues, x) for x in (frame.masses, masses))
        if len(wrong := np.flatnonzero(~(np.abs(found - expected) <= 0.1 + 0.005 * expected))):
            k = int(wrong[0])
            raise MappingError(
                f"{path}: molecule {k} ({atoms.residue(k).name}) weighs {found[k]:.2f} dalton there"
                f" and {expected[k]:.2f} by its molecule file; {_ORDER}, or the masses of united"
                " atoms in system.yaml."
            )
    if frame.molecules is not None:
        _check_molecules(frame.molecules, residues, path)


def _symbol(text: str) -> str:
    symbol = text.capitalize() if text != "VS" else text
    return _ISOTOPES.get(symbol, symbol)


def _check_types(types: np.ndarray, symbols: np.ndarray, path: Path) -> None:
    """Atoms of one type are of one element, or the file numbers the atoms in another order."""
    kinds = np.unique(types)
    if len(kinds) == 1:  # written by a converter that knew no types
        return
    for kind in kinds:
        found = sorted(set(symbols[types == kind]))
        if len(found) > 1:
            raise MappingError(
                f"{path}: atoms of type {kind} are {' and '.join(found)} in the topology; give a"
                " topology whose atoms are in the order of their ids."
            )


def _check_molecules(numbers: np.ndarray, residues: np.ndarray, path: Path) -> None:
    """One number for each molecule of several atoms; 0 and one number for all tell nothing."""
    if len(np.unique(numbers)) == 1:
        return
    first = numbers[np.unique(residues, return_index=True)[1]]
    torn = np.flatnonzero(numbers != first[residues])
    if len(torn):
        k = int(torn[0])
        raise MappingError(
            f"{path}: atom {k + 1} is in molecule {numbers[k]} there and in that of atoms of"
            f" molecule {first[residues[k]]} in the topology; {_ORDER}."
        )
