"""Every fluid of `systems`: its force field against the published numbers, its molecules, and a
short constant-pressure run.
"""

import math
import xml.etree.ElementTree as ElementTree

import h5py
import mdtraj
import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_cgkd.allatom.build import build_topology, create_system, pack
from openmm_cgkd.allatom.force_field import atomic_charges
from openmm_cgkd.allatom.molecule_file import load_molecule
from openmm_cgkd.allatom.phases import all_atom_simulation
from openmm_cgkd.config.system import SystemConfig, load_system
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mapping.mapping import mapping_from_config
from openmm_cgkd.mapping.molecules import WholeMolecules, bond_order
from openmm_cgkd.mean_forces.file import Estimates, read_mean_forces
from tests.cases.fluids import DONOR, small_config
from tests.cases.force_field_table import TABLE, Cluster, Molecule, energies, ewald, published
from tests.cases.paths import SYSTEMS

MOLECULES = [
    ("ethaline", "CHO"),
    ("ethaline", "CL"),
    *DONOR.items(),
    ("glyceline", "CHO"),
    ("reline", "CHO"),
]
# formula, and terms that are zero because the molecule has no such term
FORMULA = {
    "CHO": {"C": 5, "H": 14, "N": 1, "O": 1},
    "CL": {"Cl": 1},
    "EGL": {"C": 2, "H": 6, "O": 2},
    "GOL": {"C": 3, "H": 8, "O": 3},
    "URE": {"C": 1, "H": 4, "N": 2, "O": 1},
}
ABSENT = {
    "CHO": set(),
    "CL": {"bond", "angle", "torsion", "improper", "lennard-jones", "coulomb"},
    "EGL": {"improper", "lennard-jones"},
    "GOL": {"improper"},
    "URE": {"lennard-jones"},
}


@pytest.fixture(params=sorted(DONOR))
def fluid(request) -> str:
    return request.param


def small(fluid: str, pairs: int, **reference) -> SystemConfig:
    """So many ion pairs and twice as many hydrogen-bond donors."""
    return small_config({"CHO": pairs, "CL": pairs, DONOR[fluid]: 2 * pairs}, fluid, **reference)


def distorted(config: SystemConfig, name: str, seed: int) -> np.ndarray:
    """The molecule's structure, shaken so that no term is zero."""
    x = load_molecule(config, name).getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    return x + np.random.default_rng(seed).normal(scale=0.006, size=x.shape)


def free_system(config: SystemConfig) -> tuple[openmm.System, app.Topology]:
    topology = build_topology(config)
    force_field = app.ForceField(str(config.path(config.force_field)))
    return (
        force_field.createSystem(
            topology, nonbondedMethod=app.NoCutoff, constraints=None, removeCMMotion=False
        ),
        topology,
    )


@pytest.mark.parametrize(("fluid", "name"), MOLECULES)
@pytest.mark.parametrize("seed", [1, 2])
def test_single_molecule(fluid, name, seed):
    config = small_config({name: 1}, fluid)
    x = distorted(config, name, seed)
    cluster = Cluster([name])
    expected = {
        **cluster.bonded(x),
        "lennard-jones": cluster.lennard_jones(x),
        "coulomb": cluster.coulomb(x),
    }
    assert energies(*free_system(config), x) == pytest.approx(expected, rel=1e-6, abs=1e-6)
    # a term that is zero tests nothing
    assert {term for term, value in expected.items() if abs(value) < 1e-3} == ABSENT[name]


def test_cluster_has_every_pair_of_kinds(fluid):
    config = small_config({"CHO": 2, "CL": 2, DONOR[fluid]: 2}, fluid)
    system, topology = free_system(config)
    names = [residue.name for residue in topology.residues()]
    x = np.concatenate(
        [
            distorted(config, name, k) + 0.6 * np.array([k % 2, k // 2 % 2, k // 4])
            for k, name in enumerate(names)
        ]
    )
    cluster = Cluster(names)
    expected = {
        **cluster.bonded(x),
        "lennard-jones": cluster.lennard_jones(x),
        "coulomb": cluster.coulomb(x),
    }
    assert energies(system, topology, x) == pytest.approx(expected, rel=1e-6)


def test_periodic_box(fluid):
    """Cutoff, minimum image and long-range correction of the simulated system; bonds to
    hydrogen are constrained.
    """
    cutoff = 0.6
    config = small(
        fluid, 3, initial_density="0.6 gram/centimeter**3", nonbonded_cutoff=f"{cutoff} nanometer"
    )
    topology, x = pack(config)
    # the packed molecules are rigid copies
    x += np.random.default_rng(3).normal(scale=0.003, size=x.shape)
    edge = topology.getPeriodicBoxVectors()[0][0].value_in_unit(unit.nanometer)
    system = create_system(config, topology)
    (coulomb,) = (force for force in system.getForces() if isinstance(force, openmm.NonbondedForce))
    coulomb.setEwaldErrorTolerance(1e-6)  # OpenMM's default of 5e-4 hides small mistakes
    cluster = Cluster([residue.name for residue in topology.residues()])
    expected = {
        **cluster.bonded(x, constrained=True),
        "lennard-jones": cluster.lennard_jones(x, edge, cutoff) + cluster.tail(edge, cutoff),
        "coulomb": ewald(cluster, x, edge),
    }
    assert energies(system, topology, x) == pytest.approx(expected, rel=1e-5)
    to_hydrogen = [
        b for b in topology.bonds() if "H" in (b.atom1.element.symbol, b.atom2.element.symbol)
    ]
    assert system.getNumConstraints() == len(to_hydrogen)


def test_masses_and_charges(fluid):
    config = small(fluid, 1)
    system, topology = free_system(config)
    molecules = [Molecule(residue.name) for residue in topology.residues()]
    types = [t for molecule in molecules for t in molecule.types]
    mass = [
        system.getParticleMass(i).value_in_unit(unit.dalton)
        for i in range(system.getNumParticles())
    ]
    assert mass == pytest.approx([TABLE["types"][t][0] for t in types])
    assert atomic_charges(system) == pytest.approx([TABLE["types"][t][1] for t in types])
    assert [atom.name for atom in topology.atoms()] == [
        name for molecule in molecules for name in molecule.atoms
    ]
    charge = {
        name: sum(TABLE["types"][t][1] for t in Molecule(name).types)
        for name in ("CHO", "CL", DONOR[fluid])
    }
    assert charge == pytest.approx({"CHO": 0.8, "CL": -0.8, DONOR[fluid]: 0}, abs=1e-9)


def test_every_number_of_the_file(fluid):
    """Each parameter written in the XML, used by a molecule or not, is the published one, and
    none is missing or twice.
    """
    root = ElementTree.parse(SYSTEMS / fluid / "forcefield.xml").getroot()
    types = {t for name in ("CHO", "CL", DONOR[fluid]) for t in TABLE["atoms"][name].values()}
    table = {name: TABLE["types"][name] for name in types}
    assert {t.get("name"): float(t.get("mass")) for t in root.iter("Type")} == {
        name: row[0] for name, row in table.items()
    }
    charges = {a.get("type"): float(a.get("charge")) for a in root.find("NonbondedForce")}
    assert charges == {name: row[1] for name, row in table.items()}
    pair = {
        a.get("type"): (float(a.get("a")), float(a.get("b")))
        for a in root.find("CustomNonbondedForce").iter("Atom")
    }
    for name, (_, _, sigma, epsilon) in table.items():
        assert pair.pop(name) == pytest.approx(
            (2 * epsilon**0.5 * sigma**6, 2 * epsilon**0.5 * sigma**3), rel=1e-11
        )
    assert not pair
    for section, force in (
        ("bonds", "HarmonicBondForce"),
        ("angles", "HarmonicAngleForce"),
        ("torsions", "PeriodicTorsionForce"),
    ):
        found = {}
        for element in root.find(force):
            classes = [element.get(f"class{k}") for k in range(1, 5) if element.get(f"class{k}")]
            found["~".join(min(classes, classes[::-1]))] = numbers(element)
        assert len(found) == len(root.find(force))
        wanted = [key.split("~") for key in TABLE[section] if set(key.split("~")) <= types]
        assert found == {
            "~".join(min(key, key[::-1])): pytest.approx(published(section, key), rel=1e-9)
            for key in wanted
        }


def numbers(element: ElementTree.Element) -> list[float]:
    """Parameters of one element of the XML in the table's units and form."""
    if element.tag == "Bond":
        return [float(element.get("length")), float(element.get("k"))]
    if element.tag == "Angle":
        return [math.degrees(float(element.get("angle"))), float(element.get("k"))]
    v = [0.0, 0.0, 0.0]
    for term in (k for k in "123" if element.get(f"k{k}")):
        periodicity = int(element.get(f"periodicity{term}"))
        assert float(element.get(f"phase{term}")) == pytest.approx(
            0 if periodicity % 2 else math.pi
        )
        v[periodicity - 1] = 2 * float(element.get(f"k{term}"))
    return v


@pytest.mark.parametrize(("fluid", "name"), MOLECULES)
def test_molecule_file(fluid, name):
    """Elements, bonds and bond lengths of the molecule's PDB."""
    pdb = load_molecule(load_system(SYSTEMS / fluid / "system.yaml"), name)
    elements = [atom.element.symbol for atom in pdb.topology.atoms()]
    assert {symbol: elements.count(symbol) for symbol in elements} == FORMULA[name]
    molecule = Molecule(name)
    assert {frozenset((a.index, b.index)) for a, b in pdb.topology.bonds()} == {
        frozenset(bond) for bond in molecule.bonds
    }
    x = pdb.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    for i, j in molecule.bonds:
        assert np.linalg.norm(x[i] - x[j]) == pytest.approx(
            published("bonds", [molecule.types[i], molecule.types[j]])[0], abs=0.006
        )


def test_shipped_system(fluid):
    config = load_system(SYSTEMS / fluid / "system.yaml")
    assert config.name == fluid
    assert [(m.name, m.count) for m in config.molecules] == [
        ("CHO", 60),
        ("CL", 60),
        (DONOR[fluid], 120),
    ]
    assert [bead.type for bead in config.beads] == ["CHO", "CL", DONOR[fluid]]
    assert config.temperature == pytest.approx(363.15)


def test_packs_minimizes_and_runs_at_constant_pressure(fluid):
    # 1.1 nm wide when dense
    config = small(
        fluid, 4, initial_density="0.7 gram/centimeter**3", nonbonded_cutoff="0.45 nanometer"
    )
    topology, x = pack(config)
    system = create_system(config, topology)
    barostat = openmm.MonteCarloBarostat(1 * unit.bar, config.temperature * unit.kelvin, 5)
    barostat.setRandomNumberSeed(5)
    system.addForce(barostat)
    simulation = all_atom_simulation(config, system, topology, seed=5)
    simulation.context.setPositions(x * unit.nanometer)
    packed = simulation.context.getState(energy=True).getPotentialEnergy()._value
    simulation.minimizeEnergy()
    assert simulation.context.getState(energy=True).getPotentialEnergy()._value < packed - 100
    simulation.context.setVelocitiesToTemperature(config.temperature * unit.kelvin, 5)
    simulation.integrator.setStepSize(1 * unit.femtosecond)
    simulation.step(200)
    simulation.integrator.setStepSize(config.reference.timestep * unit.picosecond)
    volume = simulation.context.getState().getPeriodicBoxVolume()
    # a minimised liquid takes half of its kinetic energy back: 1 ps until the thermostat has made
    # up for it
    simulation.step(250)
    kinetic = []
    for _ in range(15):
        simulation.step(50)
        kinetic.append(
            simulation.context.getState(energy=True)
            .getKineticEnergy()
            .value_in_unit(unit.kilojoule_per_mole)
        )
    state = simulation.context.getState(positions=True)
    assert state.getPeriodicBoxVolume() != volume  # the barostat has moved
    freedom = 3 * system.getNumParticles() - system.getNumConstraints() - 3
    temperature = 2 * np.mean(kinetic) / freedom / 0.0083145  # over 24 runs 371 +- 12 K
    assert temperature == pytest.approx(config.temperature, rel=0.2)
    x = state.getPositions(asNumpy=True)._value
    for a, b in topology.bonds():
        assert np.linalg.norm(x[a.index] - x[b.index]) < 0.18


def test_shipped_atoms_are_those_of_the_shipped_frames():
    """At equal times the centres of mass of `atoms.xtc` are the beads of `frames.h5`, to the
    precision of the XTC format.
    """
    config = load_system(SYSTEMS / "ethaline" / "system.yaml")
    topology = mdtraj.Topology.from_openmm(build_topology(config))
    frames, atoms = (
        read_frames(SYSTEMS / "ethaline" / "frames.h5"),
        mdtraj.load(SYSTEMS / "ethaline" / "atoms.xtc", top=topology),
    )
    assert (atoms.time[0], atoms.time[-21], atoms.time[-1]) == (1417, 1647, 1847)
    mapping = mapping_from_config(config, topology)
    whole = WholeMolecules(bond_order(topology), topology.n_atoms)
    for k in (0, 23, 42):
        (same,) = np.flatnonzero(frames.time == atoms.time[k])
        beads = mapping.map_positions(whole(atoms.xyz[k], atoms.unitcell_vectors[k]))
        away = (beads - frames.positions[same]) @ np.linalg.inv(frames.box[same])
        assert np.abs(away - away.round()).max() < 1e-3


def test_shipped_mean_forces_are_known_to_a_third():
    """Of 20 configurations, standard errors against mean forces freed of them, per component
    and type.
    """
    known = read_mean_forces(SYSTEMS / "ethaline" / "mean_forces.h5")
    assert len(known.forces) == 20
    for kind, name in enumerate(known.beads.type_names):
        beads = known.beads.types == kind
        error, found = (
            np.mean(each[:, beads].astype(float) ** 2)
            for each in (known.standard_error, known.forces)
        )
        assert 0 < np.sqrt(error / (found - error)) < 1 / 3, name


def test_shipped_mean_forces_do_not_depend_on_the_restraint_constant():
    with h5py.File(SYSTEMS / "ethaline" / "mean_forces.h5") as file:
        check = Estimates(
            *(
                file[f"checks/other_constant/{name}"][:]
                for name in ("first", "second", "first_error", "second_error")
            )
        )
        assert file["checks/other_constant"].attrs["slope"] == pytest.approx(
            check.agreement()["slope"], rel=1e-4
        )
    found = check.agreement()
    assert abs(found["slope"] - 1) < 3 * found["slope_error"] < 0.035
    assert found["difference"] < 1.1 * found["expected"]
