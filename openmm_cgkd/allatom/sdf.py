"""Molecules of SDF and MOL files, as PDB files of one residue with their bonds."""

from __future__ import annotations

from collections import Counter
from io import StringIO
from pathlib import Path

import numpy as np
from openmm import app, unit

from openmm_cgkd.exceptions import ForceFieldError
from openmm_cgkd.utils.foreign import reading
from openmm_cgkd.utils.text_file import MEGABYTE, read_text

_LARGEST = 16 * MEGABYTE
_FLAT = 1e-3  # angstrom


def sdf_to_pdb(path: Path) -> str:
    """The molecule of an SDF or MOL file as the text of a PDB file.

    Atoms are named by element and number, C1, C2, H1 and so on.

    Parameters
    ----------
    path : path

    Raises
    ------
    ForceFieldError
        If RDKit is missing, or the file is not one molecule in three dimensions with its hydrogens.
    """
    try:
        from rdkit import Chem, rdBase
    except ImportError as error:
        raise ForceFieldError(
            f"{path}: RDKit, which reads SDF files, was not found; install it with"
            " 'pip install rdkit', or give a PDB file with CONECT records."
        ) from error
    text = read_text(path, "an SDF file of one molecule", ForceFieldError, _LARGEST)
    records = [record for record in text.split("$$$$") if record.strip()]
    if len(records) > 1:
        raise ForceFieldError(
            f"{path}: holds {len(records)} molecules; give a file of each of them."
        )
    with reading(path, "an SDF file", "give one molecule, V2000 or V3000", ForceFieldError):
        with rdBase.BlockLogs():
            molecule = Chem.MolFromMolBlock(text, removeHs=False, sanitize=False)
        if molecule is None or not molecule.GetNumAtoms():
            raise ValueError("RDKit finds no molecule")
        molecule.UpdatePropertyCache(strict=False)
        positions = molecule.GetConformer().GetPositions()
    crowded = any(atom.GetDegree() > 3 for atom in molecule.GetAtoms())
    if crowded and np.ptp(positions, axis=0).min() < _FLAT:
        raise ForceFieldError(
            f"{path}: its atoms lie in a plane, as in a drawing; give positions in three"
            " dimensions."
        )
    hidden = sum(atom.GetNumImplicitHs() for atom in molecule.GetAtoms())
    if hidden:
        raise ForceFieldError(
            f"{path}: {hidden} hydrogen atoms are missing; write the file with all hydrogen atoms."
        )
    topology, numbers = app.Topology(), Counter[str]()
    residue = topology.addResidue("UNK", topology.addChain())
    atoms = []
    for atom in molecule.GetAtoms():
        numbers[atom.GetSymbol()] += 1
        element = app.Element.getBySymbol(atom.GetSymbol())
        atoms.append(
            topology.addAtom(f"{atom.GetSymbol()}{numbers[atom.GetSymbol()]}", element, residue)
        )
    for bond in molecule.GetBonds():
        topology.addBond(atoms[bond.GetBeginAtomIdx()], atoms[bond.GetEndAtomIdx()])
    file = StringIO()
    app.PDBFile.writeFile(topology, positions * unit.angstrom, file)
    return file.getvalue()
