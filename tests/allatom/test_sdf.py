"""Molecules of SDF files."""

from io import StringIO

import numpy as np
import pytest
from openmm import app, unit
from rdkit import Chem
from rdkit.Chem import AllChem

from openmm_cgkd.allatom.sdf import sdf_to_pdb
from openmm_cgkd.exceptions import ForceFieldError


def molecule(smiles: str) -> Chem.Mol:
    found = Chem.AddHs(Chem.MolFromSmiles(smiles))
    AllChem.EmbedMolecule(found, randomSeed=1)
    return found


@pytest.mark.parametrize("smiles", ["OCCO", "C[N+](C)(C)CCO", "O", "c1ccccc1", "[Cl-]"])
def test_atoms_bonds_and_positions_are_those_of_the_file(tmp_path, smiles):
    made = molecule(smiles)
    path = tmp_path / "in.sdf"
    path.write_text(Chem.MolToMolBlock(made))
    read = app.PDBFile(StringIO(sdf_to_pdb(path)))
    atoms = list(read.topology.atoms())
    assert [atom.element.symbol for atom in atoms] == [a.GetSymbol() for a in made.GetAtoms()]
    assert len({atom.name for atom in atoms}) == len(atoms)
    assert read.topology.getNumResidues() == 1
    assert {frozenset((a.index, b.index)) for a, b in read.topology.bonds()} == {
        frozenset((bond.GetBeginAtomIdx(), bond.GetEndAtomIdx())) for bond in made.GetBonds()
    }
    x = read.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
    np.testing.assert_allclose(x, made.GetConformer().GetPositions(), atol=6e-4)


def drawing(hydrogens: bool) -> str:
    made = Chem.MolFromSmiles("CCO")
    made = Chem.AddHs(made) if hydrogens else made
    AllChem.Compute2DCoords(made)
    return Chem.MolToMolBlock(made)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (drawing(True), "its atoms lie in a plane, as in a drawing"),
        (drawing(False), "6 hydrogen atoms are missing"),
        ("not a molecule\n", "cannot be read as an SDF file"),
        ("", "cannot be read as an SDF file"),
        (2 * f"{Chem.MolToMolBlock(molecule('O'))}$$$$\n", "holds 2 molecules"),
    ],
)
def test_what_is_no_molecule_is_refused(tmp_path, text, message):
    path = tmp_path / "in.sdf"
    path.write_text(text)
    with pytest.raises(ForceFieldError, match=message):
        sdf_to_pdb(path)
