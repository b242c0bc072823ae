"""What a trajectory says of its atoms, against the topology."""

from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.allatom.atom_frame import AtomFrame
from openmm_cgkd.allatom.identity_check import check_identity
from openmm_cgkd.exceptions import MappingError

# two molecules HOD, then sodium
MASSES = np.array([15.999, 1.008, 2.014, 15.999, 1.008, 2.014, 22.990])


def topology() -> mdtraj.Topology:
    found = mdtraj.Topology()
    chain = found.add_chain()
    for _ in range(2):
        residue = found.add_residue("HOD", chain)
        for name, symbol in (("O", "O"), ("H", "H"), ("D", "D")):
            found.add_atom(name, mdtraj.element.Element.getBySymbol(symbol), residue)
    found.add_atom("NA", mdtraj.element.sodium, found.add_residue("NA", chain))
    return found


def frame(**known) -> AtomFrame:
    zero = np.zeros((7, 3))
    return AtomFrame(zero, zero, np.eye(3), 0.0, 0, **{k: np.array(v) for k, v in known.items()})


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"types": [1, 2, 2, 1, 2, 2, 3]},  # hydrogen and deuterium of one type
        {"types": [1, 2, 3, 1, 2, 3, 4]},
        {"elements": ["O", "H", "H", "O", "H", "D", "Na"]},
        {"elements": ["o", "h", "d", "o", "h", "d", "NA"]},
        {"masses": MASSES},
        {"masses": MASSES + np.array([-4, 2, 2, -4, 2, 2, 0])},  # heavy hydrogens
        {"molecules": [1, 1, 1, 2, 2, 2, 3]},
        {"molecules": [1, 1, 1, 2, 2, 2, 0]},
        {"molecules": [0, 0, 0, 0, 0, 0, 0]},
    ],
)
def test_the_same_atoms(known):
    check_identity(frame(**known), topology(), MASSES, Path("a.dump"))


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"types": [1, 2, 2, 1, 2, 3, 3]}, "atoms of type 3 are H and Na"),
        ({"elements": ["O", "H", "D", "O", "H", "Na", "D"]}, "atom 6 is Na there and H in the"),
        ({"masses": MASSES[::-1]}, r"molecule 0 \(HOD\) weighs 26\.\d+ dalton there and 19\.02"),
        ({"molecules": [1, 1, 2, 1, 2, 2, 3]}, "atom 3 is in molecule 2 there"),
    ],
)
def test_other_atoms(known, message):
    with pytest.raises(MappingError, match=message):
        check_identity(frame(**known), topology(), MASSES, Path("a.dump"))
