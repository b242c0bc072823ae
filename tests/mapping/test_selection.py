"""Selections name exactly the atoms of a bead."""

import mdtraj
import pytest

from openmm_cgkd.exceptions import MappingError
from openmm_cgkd.mapping.selection import select_atoms


@pytest.fixture
def molecule() -> mdtraj.Topology:
    topology = mdtraj.Topology()
    residue = topology.add_residue("EGL", topology.add_chain())
    for name in ("C1", "C2", "O1", "C10", "H1"):
        symbol = {"C": "carbon", "O": "oxygen", "H": "hydrogen"}[name[0]]
        topology.add_atom(name, getattr(mdtraj.element, symbol), residue)
    return topology


@pytest.mark.parametrize(
    ("selection", "atoms"),
    [
        ("all", [0, 1, 2, 3, 4]),
        ("name C1", [0]),
        ("name C1 O1", [0, 2]),
        ("not name C1 and not element H", [1, 2, 3]),
        ('name =~ "C.*"', [0, 1, 3]),
        ("index 0 to 2", [0, 1, 2]),
        ("mass > 10", [0, 1, 2, 3]),
        ("resname EGL and element O", [2]),
        ("name C1 or not (element C H)", [0, 2]),
    ],
)
def test_selected(molecule, selection, atoms):
    assert select_atoms(molecule, selection).tolist() == atoms


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("name C1 C9", "asks for name C9, which molecule EGL does not have"),
        ("name C1 or name c2", "asks for name c2"),
        ("not name CX", "asks for name CX"),
        ("element Cl", "asks for element symbol Cl"),
        ("resname CHO or name C1", "asks for residue name CHO"),
        ("index 0 7", "asks for index 7"),
        ("name C1 to C2", "C10 stands between C1 and C2"),
        ("C1", "not valid MDTraj selection"),
        ("name C1 or C2", "not valid MDTraj selection"),
        ("", "not valid MDTraj selection"),
    ],
)
def test_refused(molecule, selection, message):
    with pytest.raises(MappingError, match=message):
        select_atoms(molecule, selection)
