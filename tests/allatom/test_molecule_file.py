"""Molecule files: names, elements and masses as the file says them, or a refusal with the cure."""

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.allatom.molecule_file import bond_lengths, load_molecule
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import ConfigError, ForceFieldError
from openmm_cgkd.mapping.mapping import atomic_masses
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from tests.cases.fluids import ETHALINE

# name, position in angstrom, element
WATER = [("OW", (0, 0, 0), "O"), ("HW1", (0.957, 0, 0), "H"), ("HW2", (-0.24, 0.927, 0), "H")]
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / 3**0.5


def pdb(name: str, atoms: list, bonds: list[tuple[int, int]]) -> str:
    """A molecule file; columns of the PDB format 3.3."""
    lines = [
        f"HETATM{k:5d} {atom:<4s} {name:<4s}A   1    {x:8.3f}{y:8.3f}{z:8.3f}  1.00  0.00"
        f"          {element:>2s}"
        for k, (atom, (x, y, z), element) in enumerate(atoms, 1)
    ]
    lines += [f"CONECT{a:5d}{b:5d}" for a, b in bonds]
    return "\n".join([*lines, "END", ""])


def system(tmp_path, name: str, text: str, masses: dict | None = None) -> SystemConfig:
    (tmp_path / "molecule.pdb").write_text(text)
    molecule = {"name": name, "structure": "molecule.pdb", "count": 2, "masses": masses or {}}
    data = {
        "name": "fluid",
        "force_field": "none.xml",
        "temperature": "300 K",
        "molecules": [molecule],
        "beads": [{"type": "A", "molecule": name}],
    }
    return parse(SystemConfig, data, "system.yaml", tmp_path)


@pytest.mark.parametrize("name", ["SOL", "WAT", "HOH", "TIP3"])
def test_water_keeps_its_names(tmp_path, name):
    """OpenMM's reader would make HOH with O, H1 and H2 of the first two."""
    config = system(tmp_path, name, pdb(name, WATER, [(1, 2), (1, 3)]))
    topology = build_topology(config)
    assert {residue.name for residue in topology.residues()} == {name}
    assert [atom.name for atom in topology.atoms()] == 2 * ["OW", "HW1", "HW2"]
    assert len(list(topology.bonds())) == 4


@pytest.mark.parametrize("bonds", [[(1, 2), (1, 3)], [(1, 2), (1, 3), (1, 4)]])
def test_virtual_sites_may_have_a_bond_or_none(tmp_path, bonds):
    """The site of TIP4P is 0.015 nm from the oxygen."""
    atoms = [*WATER, ("MW", (0.105, 0.105, 0.0), "")]
    config = system(tmp_path, "SOL", pdb("SOL", atoms, bonds), {"MW": "0 dalton"})
    topology = mdtraj.Topology.from_openmm(build_topology(config))
    masses = atomic_masses(config, topology)
    order = bond_order(topology, masses == 0)
    assert len(order) == topology.n_atoms - topology.n_residues
    whole = WholeMolecules(order, topology.n_atoms)
    x = np.array([position for _, position, _ in atoms] * 2) / 10
    box = 2.0 * np.eye(3)
    broken = x + np.array([[0], [1], [0], [-1], [0], [0], [1], [0]]) * box[0]
    assert whole(broken, box) == pytest.approx(x)


def test_names_that_do_not_fit_into_pdb_files(tmp_path):
    config = system(tmp_path, "WATER", pdb("WATE", WATER, [(1, 2), (1, 3)]))
    with pytest.raises(ForceFieldError, match="WATER does not fit into PDB files; use a name of"):
        load_molecule(config, "WATER")


def test_elements_are_not_guessed(tmp_path):
    """Bromide: OpenMM guesses boron, 10.81 dalton, from the name."""
    with pytest.raises(ForceFieldError, match=r"BR needs its element in columns 77-78, they are e"):
        load_molecule(system(tmp_path, "BR", pdb("BR", [("BR", (0, 0, 0), "")], [])), "BR")
    for element in ("BR", "Br"):
        config = system(tmp_path, "BR", pdb("BR", [("BR", (0, 0, 0), element)], []))
        (atom,) = load_molecule(config, "BR").topology.atoms()
        assert atom.element.mass._value == pytest.approx(79.904, abs=0.001)
    with pytest.raises(ForceFieldError, match=r"columns 77-78, 'QQ' is none"):
        load_molecule(system(tmp_path, "BR", pdb("BR", [("BR", (0, 0, 0), "QQ")], [])), "BR")


def test_masses_of_the_user_stand_for_elements(tmp_path):
    config = system(tmp_path, "BR", pdb("BR", [("BR", (0, 0, 0), "")], []), {"BR": "79.904 dalton"})
    (atom,) = load_molecule(config, "BR").topology.atoms()
    assert atom.element is None
    config = system(
        tmp_path, "BR", pdb("BR", [("BR", (0, 0, 0), "")], []), {"BR1": "1 Da", "BR": "2 Da"}
    )
    with pytest.raises(ForceFieldError, match="has no atoms BR1, whose masses"):
        load_molecule(config, "BR")
    with pytest.raises(ConfigError, match=r"molecules\.0\.masses\.BR.*greater than or equal to 0"):
        system(tmp_path, "BR", "", {"BR": "-1 Da"})


def test_repeated_names_are_counted(tmp_path):
    atoms = [("C", (0, 0, 0), "C"), *(("H", tuple(1.09 * x), "H") for x in TETRAHEDRON)]
    with pytest.raises(ForceFieldError, match=r"5 atoms share 2 names \(H stand more than once\)"):
        load_molecule(
            system(tmp_path, "MET", pdb("MET", atoms, [(1, k) for k in range(2, 6)])), "MET"
        )


def united(length: float, count: int, directions: np.ndarray = TETRAHEDRON) -> tuple[list, list]:
    """Carbon C1 with some neighbours."""
    atoms = [("C1", (0, 0, 0), "C")]
    atoms += [(f"F{k}", tuple(length * directions[k]), "F") for k in range(count)]
    return atoms, [(1, k + 2) for k in range(count)]


@pytest.mark.parametrize(("length", "count"), [(1.54, 1), (1.54, 2), (1.54, 3), (1.35, 2)])
def test_united_atoms_need_masses(tmp_path, length, count):
    text = pdb("UNI", *united(length, count))
    with pytest.raises(ForceFieldError, match="carbon atom C1 lacks hydrogen"):
        load_molecule(system(tmp_path, "UNI", text), "UNI")
    load_molecule(system(tmp_path, "UNI", text, {"C1": "14.027 dalton"}), "UNI")


LINE = np.array([[0, 0, 1.0], [0, 0, -1.0]])
PLANE = np.array([[1, 0, 0], [-0.5, 0.866, 0], [-0.5, -0.866, 0.0]])


@pytest.mark.parametrize(
    ("length", "count", "directions"),
    [(1.35, 4, TETRAHEDRON), (1.16, 1, LINE), (1.16, 2, LINE), (1.3, 3, PLANE)],
    ids=["CF4", "cyanide", "carbon dioxide", "carbonyl"],
)
def test_complete_carbon_is_accepted(tmp_path, length, count, directions):
    text = pdb("FUL", *united(length, count, directions))
    load_molecule(system(tmp_path, "FUL", text), "FUL")


@pytest.mark.parametrize("fluid", ["ethaline", "glyceline", "reline"])
def test_shipped_molecules(fluid):
    from openmm_cgkd.config.system import load_system

    config = load_system(ETHALINE.parent / fluid / "system.yaml")
    for molecule in config.molecules:
        lengths = bond_lengths(load_molecule(config, molecule.name))
        assert all(0.09 < length < 0.16 for length in lengths.values())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("0.957", "9.570"), r"bond OW-HW1 is 0.957 nm long"),
        (lambda text: text.replace("SOL", "SOX"), r"expected one residue named SOL, got \['SOX'\]"),
        (lambda text: "", r"expected one residue named SOL, got \[\]"),
        (lambda text: text.replace("0.957", "O.957"), "cannot be read as a PDB file"),
        (lambda text: text.replace("0.957", "  nan"), "cannot be read as a PDB file .*not finite"),
        (lambda text: text.replace("0.957", "  inf"), "cannot be read as a PDB file .*not finite"),
        (lambda text: text.replace("SOL ", "S\0L "), "line 1: holds a NUL character"),
        (lambda text: text + " " * 2**24, "larger than 16 MB"),
        (lambda text: text.replace("SOL", "\x1b[2"), r"residue named SOL, got \['\\x1b\[2'\]"),
    ],
)
def test_refused(tmp_path, change, message):
    text = change(pdb("SOL", WATER, [(1, 2), (1, 3)]))
    with pytest.raises(ForceFieldError, match=message):
        load_molecule(system(tmp_path, "SOL", text), "SOL")
