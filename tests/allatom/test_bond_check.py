"""Bonds of frames against those of the molecule files."""

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.allatom.bond_check import BondCheck
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import FramesError

# united dimethyl sulfoxide: angstrom; the bonds S-O and S-C differ by 18 %
DMSO = """HETATM    1  S   DMS A   1       0.000   0.000   0.000  1.00  0.00           S
HETATM    2  O   DMS A   1       1.530   0.000   0.000  1.00  0.00           O
HETATM    3  CA  DMS A   1      -0.543   1.716   0.000  1.00  0.00           C
HETATM    4  CB  DMS A   1      -0.543  -0.500   1.642  1.00  0.00           C
CONECT    1    2    3    4
END
"""


@pytest.fixture
def check(tmp_path):
    tmp_path.joinpath("DMS.pdb").write_text(DMSO)
    data = {
        "name": "dmso",
        "force_field": "ff.xml",
        "temperature": "300 K",
        "molecules": [
            {
                "name": "DMS",
                "structure": "DMS.pdb",
                "count": 20,
                "masses": {"CA": "15.035 dalton", "CB": "15.035 dalton"},
            }
        ],
        "beads": [{"type": "DMS", "molecule": "DMS"}],
    }
    system = parse(SystemConfig, data, "system.yaml", tmp_path)
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(20):
        residue = topology.add_residue("DMS", chain)
        s, *others = [
            topology.add_atom(name, mdtraj.element.Element.getBySymbol(name[0]), residue)
            for name in ("S", "O", "CA", "CB")
        ]
        for other in others:
            topology.add_bond(s, other)
    return BondCheck(system, topology)


def molecules(order: list[int]) -> np.ndarray:
    """Twenty of them, with bonds that vibrate by 3 %."""
    lines = [line for line in DMSO.splitlines() if line.startswith("HETATM")]
    one = np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in lines]) / 10
    factors = np.random.default_rng(1).normal(1.0, 0.03, (20, 4, 1))
    centers = np.random.default_rng(2).uniform(0, 3, (20, 1, 3))
    return (centers + factors * one)[:, order].reshape(-1, 3)


def test_the_order_of_the_molecule_file(check):
    check(molecules([0, 1, 2, 3]), "a.trr: step 1")


def test_another_order_of_atoms_that_are_nearly_as_far(check):
    with pytest.raises(FramesError, match=r"the bonds S-\S+ of DMS .* in another order"):
        check(molecules([0, 2, 3, 1]), "a.trr: step 1")


def test_one_torn_molecule_is_told_from_another_order(check):
    positions = molecules([0, 1, 2, 3])
    positions[5] += [0.4, 0.0, 0.0]
    with pytest.raises(FramesError, match=r"the bond S-O of DMS between atoms 4 and 5 .* torn"):
        check(positions, "a.trr: step 1")
