"""The PDB file of one molecule: its atoms, their elements and bonds, as the file says them."""

from __future__ import annotations

import warnings
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from openmm import app, unit

from openmm_cgkd.config.system import MoleculeConfig, SystemConfig
from openmm_cgkd.exceptions import ForceFieldError
from openmm_cgkd.utils.foreign import reading
from openmm_cgkd.utils.text_file import MEGABYTE, read_text, shown

_BONDS = 0.05, 0.35  # nm
_LINEAR, _PLANAR = 150.0, 345.0  # degrees: angle of two bonds, sum of the angles of three
_FARTHEST = 1e4  # nm
_LARGEST = 16 * MEGABYTE
_TRIPLE = 0.125  # nm, longer than the bonds of carbon monoxide, cyanide and isocyanides


class _Line(NamedTuple):
    """What an ATOM or HETATM line says, unchanged."""

    name: str
    residue: str
    element: str


def load_molecule(config: SystemConfig, name: str) -> app.PDBFile:
    """Read the single-molecule PDB of a configuration.

    Names are those of the file: OpenMM would rename water and amino acids. Elements come from their
    column alone: OpenMM would guess them from names.

    Raises
    ------
    ForceFieldError
        If the file is missing, unreadable or of several molecules; an atom name stands twice; an
        atom has neither an element nor a mass in the configuration; a bond is impossibly long or
        short; or carbon atoms lack hydrogen.
    """
    molecule = next(m for m in config.molecules if m.name == name)
    path = config.path(molecule.structure)
    text = read_text(
        path, f"the PDB structure that molecule {name} needs", ForceFieldError, _LARGEST
    )
    cure = f"molecule {name} needs its atoms and CONECT records"
    with reading(path, "a PDB file", cure, ForceFieldError):
        lines = _atom_lines(text)
        _check_names(path, name, lines)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="openmm")  # names were checked
            pdb = app.PDBFile(StringIO(text))
        atoms = list(pdb.topology.atoms())
        if len(atoms) != len(lines):
            raise ValueError(f"{len(atoms)} of {len(lines)} atoms were read")
        x = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        if not (np.abs(x) < _FARTHEST).all():
            raise ValueError("positions are not finite, or too far away for a molecule")
    for residue in pdb.topology.residues():
        residue.name = name
    for atom, line in zip(atoms, lines, strict=True):
        atom.name, atom.element = line.name, _element(path, line, molecule)
    unknown = sorted(molecule.masses.keys() - {line.name for line in lines})
    if unknown:
        raise ForceFieldError(
            f"{path}: has no atoms {', '.join(unknown)}, whose masses system.yaml gives; correct"
            f" the names in masses of molecule {name}."
        )
    _check_geometry(path, molecule, pdb)
    return pdb


def rename_residue(path: Path, text: str, name: str) -> str:
    """The text of a PDB file of one residue with another name of the residue.

    Raises
    ------
    ForceFieldError
        If there are several residues, or the name does not fit.
    """
    if not 0 < len(name) <= 4 or not name.isalnum():
        raise ForceFieldError(
            f"{path}: the name {shown(name)} does not fit into PDB files; give one to four letters"
            " and digits."
        )
    atoms = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]
    residues = {line[17:27] for line in atoms}
    if len(residues) > 1:
        raise ForceFieldError(
            f"{path}: has {len(residues)} residues; give a file of one molecule as one residue."
        )
    lines = (
        f"{line[:17]}{name:<4}{line[21:]}" if line.startswith(("ATOM", "HETATM")) else line
        for line in text.splitlines()
    )
    return "\n".join(lines) + "\n"


def bond_lengths(pdb: app.PDBFile) -> dict[tuple[str, str], float]:
    """Lengths of all bonds of a molecule file by the names of their atoms, in its order, nm."""
    x = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    bonds = (sorted(bond, key=lambda atom: atom.index) for bond in pdb.topology.bonds())
    return {(a.name, b.name): float(np.linalg.norm(x[a.index] - x[b.index])) for a, b in bonds}


def _atom_lines(text: str) -> list[_Line]:
    lines = []
    for line in text.splitlines():
        if line.startswith("ENDMDL"):
            break  # a second model holds the same atoms
        if line.startswith(("ATOM", "HETATM")) and line[16:17] in (" ", "A"):
            lines.append(_Line(line[12:16].strip(), line[17:21].strip(), line[76:78].strip()))
    return lines


def _check_names(path: Path, name: str, lines: list[_Line]) -> None:
    residues = list(dict.fromkeys(line.residue for line in lines))
    if len(name) > 4 and residues == [name[:4]]:
        raise ForceFieldError(
            f"{path}: its residue is named {name[:4]}, and {name} does not fit into PDB files; use"
            " a name of four letters in the topology, in system.yaml and here."
        )
    if residues != [name]:
        raise ForceFieldError(f"{path}: expected one residue named {name}, got {shown(residues)}.")
    twice = [atom for atom, n in Counter(line.name for line in lines).items() if n > 1]
    if twice:
        raise ForceFieldError(
            f"{path}: {len(lines)} atoms share {len({line.name for line in lines})} names"
            f" ({', '.join(twice)} stand more than once); give every atom a name of its own, for"
            f" example {twice[0]}1 and {twice[0]}2, here and in the topology."
        )


def _element(path: Path, line: _Line, molecule: MoleculeConfig) -> app.Element | None:
    try:
        return app.Element.getBySymbol(line.element.capitalize())
    except KeyError as error:
        if line.name in molecule.masses:
            return None
        found = f"'{line.element}' is none" if line.element else "they are empty"
        raise ForceFieldError(
            f"{path}: atom {line.name} needs its element in columns 77-78, {found}; write it, or"
            f" give its mass in system.yaml: masses: {{{line.name}: '12 dalton'}} of molecule"
            f" {molecule.name}, 0 dalton for a virtual site."
        ) from error


def _check_geometry(path: Path, molecule: MoleculeConfig, pdb: app.PDBFile) -> None:
    sites = {name for name, mass in molecule.masses.items() if mass == 0}
    for (first, second), length in bond_lengths(pdb).items():
        if sites.isdisjoint((first, second)) and not _BONDS[0] < length < _BONDS[1]:
            raise ForceFieldError(
                f"{path}: the bond {first}-{second} is {length:.3g} nm long; give positions in"
                " angstrom of one whole molecule and correct CONECT records."
            )
    x = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    around: dict[int, list[int]] = {atom.index: [] for atom in pdb.topology.atoms()}
    for a, b in pdb.topology.bonds():
        around[a.index].append(b.index)
        around[b.index].append(a.index)
    for atom in pdb.topology.atoms():
        if (
            atom.element is app.element.carbon
            and atom.name not in molecule.masses
            and around[atom.index]
            and _lacks_neighbors(x[around[atom.index]] - x[atom.index])
        ):
            raise ForceFieldError(
                f"{path}: carbon atom {atom.name} lacks hydrogen: it has"
                f" {len(around[atom.index])} bonds in a shape that needs more; if it is a united"
                f" atom, give its mass in system.yaml: masses: {{{atom.name}: '15.035 dalton'}} of"
                f" molecule {molecule.name}."
            )


def _lacks_neighbors(bonds: np.ndarray) -> bool:
    """Whether carbon with these bond vectors (n, 3), nm, must have further neighbours.

    One bond is a triple one, two stand in a line, three lie in a plane; otherwise an atom is
    missing.
    """
    lengths = np.linalg.norm(bonds, axis=1)
    if len(bonds) == 1:
        return bool(lengths[0] > _TRIPLE)
    cosines = (bonds @ bonds.T / np.outer(lengths, lengths))[np.triu_indices(len(bonds), 1)]
    angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    if len(bonds) == 2:
        return bool(angles[0] < _LINEAR)
    return len(bonds) == 3 and bool(angles.sum() < _PLANAR)
