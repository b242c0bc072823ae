"""The atoms-to-beads map against numbers worked out by hand."""

import mdtraj
import numpy as np
import openmm
import pytest
import yaml
from openmm import app, unit

from openmm_cgkd.allatom.build import build_topology, create_system, pack
from openmm_cgkd.allatom.force_field import atomic_charges
from openmm_cgkd.config.section import dump, parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import MappingError
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from tests.cases.fluids import small_config

TRICLINIC = np.array([[3.0, 0.0, 0.0], [1.2, 2.5, 0.0], [-0.7, 0.9, 2.2]])
MASS = {"C": 12.011, "O": 15.999, "H": 1.008, "N": 14.007, "Cl": 35.45}


def beads(n: int, names: tuple[str, ...] = ("A",), types: list[int] | None = None) -> BeadTopology:
    return BeadTopology(names, np.array(types or [0] * n), np.zeros(n), np.arange(n))


def two_waters() -> Mapping:
    """Two beads of O, H, H with round masses."""
    return Mapping(
        [np.array([0, 1, 2]), np.array([3, 4, 5])], np.array([16.0, 1.0, 1.0] * 2), beads(2)
    )


def test_center_of_mass_and_force_by_hand():
    mapping = two_waters()
    positions = np.array(
        [[0, 0, 0], [0.9, 0, 0], [0, 1.8, 0], [1, 1, 1], [1, 1, 1], [1, 1, 2.8]], dtype=float
    )
    forces = np.array(
        [[1, 0, 0], [2, 0, 0], [3, 0, -1], [0, 5, 0], [0, -5, 0], [7, 0, 0]], dtype=float
    )
    assert mapping.map_positions(positions) == pytest.approx(
        np.array([[0.05, 0.1, 0], [1, 1, 1.1]])
    )
    assert mapping.map_forces(forces) == pytest.approx(np.array([[6, 0, -1], [7, 0, 0]]))
    assert mapping.topology.masses == pytest.approx([18, 18])


def test_sum_of_forces_is_conserved():
    config = small_config()
    topology = build_topology(config)
    mapping = mapping_from_config(config, mdtraj.Topology.from_openmm(topology))
    forces = np.random.default_rng(1).normal(scale=1000, size=(mapping.n_atoms, 3))
    assert mapping.map_forces(forces).sum(axis=0) == pytest.approx(forces.sum(axis=0), abs=1e-9)


def test_ethaline_beads():
    config = small_config({"CHO": 2, "CL": 2, "EGL": 1})
    topology = build_topology(config)
    mapping = mapping_from_config(config, mdtraj.Topology.from_openmm(topology))
    choline = MASS["N"] + 5 * MASS["C"] + MASS["O"] + 14 * MASS["H"]
    glycol = 2 * MASS["C"] + 2 * MASS["O"] + 6 * MASS["H"]
    assert mapping.topology.names == ["CHO", "CHO", "CL", "CL", "EGL"]
    assert mapping.topology.masses == pytest.approx(
        [choline] * 2 + [MASS["Cl"]] * 2 + [glycol], rel=1e-4
    )
    assert mapping.topology.molecules.tolist() == [0, 1, 2, 3, 4]
    assert mapping.bead_of_atom.tolist() == [0] * 21 + [1] * 21 + [2, 3] + [4] * 10
    assert mapping.topology.charges.tolist() == [0] * 5


def test_heavy_hydrogens_move_nothing():
    config = small_config(hydrogen_mass="3 dalton")
    topology, positions = pack(config)
    system = create_system(config, topology)
    heavy = np.array(
        [
            system.getParticleMass(i).value_in_unit(unit.dalton)
            for i in range(system.getNumParticles())
        ]
    )
    hydrogens = [atom.index for atom in topology.atoms() if atom.element.symbol == "H"]
    assert heavy[hydrogens] == pytest.approx(3.0)  # the system really has heavy hydrogens
    mapping = mapping_from_config(
        config, mdtraj.Topology.from_openmm(topology), atomic_charges(system)
    )
    atoms = list(topology.atoms())
    first = [k for k, atom in enumerate(atoms) if atom.residue.index == 0]
    true = np.array([MASS[atoms[k].element.symbol] for k in first])
    center = (true[:, None] * positions[first]).sum(axis=0) / true.sum()
    assert mapping.map_positions(positions)[0] == pytest.approx(center, rel=1e-5)
    assert mapping.topology.masses[0] == pytest.approx(true.sum(), rel=1e-4)
    shifted = (heavy[first, None] * positions[first]).sum(axis=0) / heavy[first].sum()
    # with the heavy masses the bead would be elsewhere
    assert np.abs(shifted - center).max() > 1e-3
    assert mapping.topology.charges == pytest.approx([0.8] * 3 + [-0.8] * 3 + [0.0] * 6)


def test_two_beads_per_molecule():
    config = small_config({"EGL": 2})
    halves = [
        {"type": "E1", "molecule": "EGL", "selection": "name C1 O1 HO1 H11 H12"},
        {"type": "E2", "molecule": "EGL", "selection": "name C2 O2 HO2 H21 H22"},
    ]
    config = type(config).model_validate({**config.model_dump(), "beads": halves})
    topology = mdtraj.Topology.from_openmm(build_topology(small_config({"EGL": 2})))
    mapping = mapping_from_config(config, topology)
    assert mapping.topology.type_names == ("E1", "E2")
    assert mapping.topology.types.tolist() == [0, 1, 0, 1]
    assert mapping.topology.molecules.tolist() == [0, 0, 1, 1]
    assert mapping.topology.bonds.tolist() == [[0, 1], [2, 3]]
    assert mapping.topology.masses == pytest.approx(
        [MASS["C"] + MASS["O"] + 3 * MASS["H"]] * 4, rel=1e-4
    )
    coarse = mapping.topology.to_mdtraj()
    assert (coarse.n_residues, [atom.name for atom in coarse.atoms]) == (
        2,
        ["E1", "E2", "E1", "E2"],
    )
    assert [(a.index, b.index) for a, b in coarse.bonds] == [(0, 1), (2, 3)]


def test_hydrogen_apart_from_its_heavy_atom():
    """The all-atom system constrains bonds to hydrogen, so no bead may end at one."""
    config = small_config({"EGL": 2}, nonbonded_cutoff="0.3 nm")
    parts = [("A", "name C1 C2 O1 O2 H11 H12 H21 H22"), ("B", "name HO1 HO2")]
    beads = [{"type": name, "molecule": "EGL", "selection": selection} for name, selection in parts]
    topology, _ = pack(config)
    system = create_system(config, topology)
    mapping = mapping_from_config(
        type(config).model_validate({**config.model_dump(), "beads": beads}),
        mdtraj.Topology.from_openmm(topology),
    )
    with pytest.raises(
        MappingError,
        match="constraint between atoms 2 and 4 crosses beads 0 and 1; its force is missing",
    ):
        mapping.check_constraints(system)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("name C1 O1 HO1", "14 atoms are in no bead"),
        ("mass > 100", "has no atoms; check its selection"),
        ("name (", "not valid MDTraj selection language"),
    ],
)
def test_selection_that_does_not_cover(selection, message):
    config = small_config({"EGL": 2})
    config = type(config).model_validate(
        {
            **config.model_dump(),
            "beads": [{"type": "E", "molecule": "EGL", "selection": selection}],
        },
    )
    topology = mdtraj.Topology.from_openmm(build_topology(small_config({"EGL": 2})))
    with pytest.raises(MappingError, match=message):
        mapping_from_config(config, topology)


def test_atom_in_two_beads():
    with pytest.raises(
        MappingError, match="Atom 1 is in beads 0 and 1; put every atom in one bead"
    ):
        Mapping([np.array([0, 1]), np.array([1, 2])], np.ones(3), beads(2))


def test_atom_in_no_bead():
    with pytest.raises(MappingError, match=r"1 atoms are in no bead \(first: atom 2\)"):
        Mapping([np.array([0, 1]), np.array([3])], np.ones(4), beads(2))


def test_massless_bead():
    with pytest.raises(MappingError, match="Bead 1 has mass 0"):
        Mapping([np.array([0]), np.array([1])], np.array([1.0, 0.0]), beads(2))


@pytest.mark.parametrize("shape", [(5, 3), (6, 2), (7, 3)])
def test_wrong_number_of_atoms(shape):
    mapping = two_waters()
    with pytest.raises(MappingError, match="Expected positions of shape"):
        mapping.map_positions(np.zeros(shape))
    with pytest.raises(MappingError, match="Expected forces of shape"):
        mapping.map_forces(np.zeros(shape))


def test_constraint_across_beads():
    system = openmm.System()
    for _ in range(6):
        system.addParticle(1.0)
    mapping = two_waters()
    system.addConstraint(0, 1, 0.1)
    mapping.check_constraints(system)
    system.addConstraint(2, 3, 0.1)
    with pytest.raises(
        MappingError, match="constraint between atoms 2 and 3 crosses beads 0 and 1"
    ):
        mapping.check_constraints(system)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"CHO": 2, "CL": 1, "EGL": 1}, "holds 2 molecules of CHO, the configuration says 1"),
        ({"CHO": 1, "CL": 1}, "holds 0 molecules of EGL, the configuration says 1"),
    ],
)
def test_wrong_number_of_molecules(counts, message):
    config = small_config({"CHO": 1, "CL": 1, "EGL": 1})
    topology = mdtraj.Topology.from_openmm(build_topology(small_config(counts)))
    with pytest.raises(MappingError, match=message):
        mapping_from_config(config, topology)


def test_unknown_molecule():
    topology = mdtraj.Topology.from_openmm(build_topology(small_config({"CL": 1, "EGL": 1})))
    with pytest.raises(MappingError, match=r"does not name: \['EGL'\]"):
        mapping_from_config(small_config({"CL": 1}), topology)


def test_molecule_with_other_atom_order():
    topology = app.Topology()
    chain = topology.addChain()
    for carbons in ("C1", "C2"), ("C2", "C1"):
        residue = topology.addResidue("EGL", chain)
        for name in (*carbons, "O1", "O2", "HO1", "HO2", "H11", "H12", "H21", "H22"):
            topology.addAtom(name, app.Element.getBySymbol(name[0]), residue)
    with pytest.raises(
        MappingError, match=r"Molecule 1 \(EGL\) has other atoms, or in another order"
    ):
        mapping_from_config(small_config({"EGL": 2}), mdtraj.Topology.from_openmm(topology))


@pytest.mark.parametrize("box", [np.eye(3) * 2.5, TRICLINIC], ids=["cubic", "triclinic"])
def test_whole_molecules_across_the_box_edge(box):
    config = small_config({"EGL": 4})
    openmm_topology, positions = pack(config)
    topology = mdtraj.Topology.from_openmm(openmm_topology)
    mapping = mapping_from_config(config, topology)
    # centred on a corner of the box, so that molecules straddle its faces
    positions = positions - positions.mean(axis=0)
    fractional = positions @ np.linalg.inv(box)
    wrapped = (fractional - np.floor(fractional)) @ box
    whole = WholeMolecules(bond_order(topology), topology.n_atoms)(wrapped, box)
    for a, b in topology.bonds:  # every bond has its true length again
        assert np.linalg.norm(whole[a.index] - whole[b.index]) == pytest.approx(
            np.linalg.norm(positions[a.index] - positions[b.index])
        )
    # beads agree up to whole box vectors, one shift per molecule
    images = (mapping.map_positions(whole) - mapping.map_positions(positions)) @ np.linalg.inv(box)
    assert images == pytest.approx(np.round(images), abs=1e-9)
    broken = (mapping.map_positions(wrapped) - mapping.map_positions(positions)) @ np.linalg.inv(
        box
    )
    # without it beads would be misplaced
    assert np.abs(broken - np.round(broken)).max() > 0.01


def test_whole_molecules_by_hand():
    """A chain of three atoms that crosses the upper and lower face of a triclinic box."""
    a, b, c = TRICLINIC
    chain = np.array([[0.1, 0.1, 0.1], [0.0, 0.0, -0.05], [-0.1, -0.1, -0.1]])
    whole = WholeMolecules(np.array([[0, 1], [1, 2]]), 3)
    assert whole(chain + np.array([0 * a, c, a + b + c]), TRICLINIC) == pytest.approx(chain)


def test_bond_order_places_parents_first():
    topology = mdtraj.Topology.from_openmm(build_topology(small_config()))
    bonds = bond_order(topology)
    assert len(bonds) == topology.n_atoms - topology.n_residues  # no molecule here has a ring
    placed = {residue.atom(0).index for residue in topology.residues}
    for parent, child in bonds.tolist():
        assert parent in placed
        assert child not in placed
        placed.add(child)
    assert placed == set(range(topology.n_atoms))


def test_beads_of_one_molecule_that_no_bond_joins():
    config = small_config({"EGL": 2})
    halves = [
        {"type": "EGA", "molecule": "EGL", "selection": "name C1 O1 HO1 H11 H12"},
        {"type": "EGB", "molecule": "EGL", "selection": "name C2 O2 HO2 H21 H22"},
    ]
    data = {**yaml.safe_load(dump(config)), "beads": halves}
    config = parse(SystemConfig, data, "system.yaml", config.base_folder)
    topology = mdtraj.Topology.from_openmm(build_topology(config))
    assert mapping_from_config(config, topology).topology.bonds.tolist() == [[0, 1], [2, 3]]
    bare = mdtraj.Topology()
    chain = bare.add_chain()
    for residue in topology.residues:
        copied = bare.add_residue(residue.name, chain)
        for atom in residue.atoms:
            bare.add_atom(atom.name, atom.element, copied)
    with pytest.raises(MappingError, match="No bonds join the beads EGA, EGB of molecule 0"):
        mapping_from_config(config, bare)
