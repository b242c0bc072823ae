"""MappedReporter in a real all-atom simulation, against mapping its states independently."""

import time
from dataclasses import replace

import mdtraj
import numpy as np
import openmm
import pytest
import yaml
from openmm import app, unit

import openmm_cgkd
from openmm_cgkd.allatom.build import create_system, pack
from openmm_cgkd.allatom.force_field import atomic_charges
from openmm_cgkd.allatom.reporter import MappedReporter
from openmm_cgkd.exceptions import BoxError, ConfigError, FramesError, MappingError
from openmm_cgkd.frames.frames import read_frames, write_frames
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mapping.mapping import Mapping, mapping_from_config
from openmm_cgkd.platforms import hardware_of
from tests.cases.fluids import COUNTS, ETHALINE, simulation_of, small_config

MASS = {"C": 12.011, "O": 15.999, "H": 1.008, "N": 14.007, "Cl": 35.45}


class Independent:
    """Centres of mass and force sums by loops over residues, from states at the same steps."""

    def __init__(self, interval: int) -> None:
        self.interval, self.positions, self.forces, self.total, self.times = (
            interval,
            [],
            [],
            [],
            [],
        )

    def describeNextReport(self, simulation):
        return {
            "steps": self.interval - simulation.currentStep % self.interval,
            "periodic": False,
            "include": [],
        }

    def report(self, simulation, _state):
        state = simulation.context.getState(getPositions=True, getForces=True)
        x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
        f = state.getForces(asNumpy=True).value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
        positions, forces = [], []
        for residue in simulation.topology.residues():
            atoms = [atom.index for atom in residue.atoms()]
            masses = np.array([MASS[atom.element.symbol] for atom in residue.atoms()])
            positions.append(masses @ x[atoms] / masses.sum())
            forces.append(f[atoms].sum(axis=0))
        self.positions.append(positions)
        self.forces.append(forces)
        self.total.append(f.sum(axis=0))
        self.times.append(state.getTime().value_in_unit(unit.picosecond))


@pytest.fixture(scope="module")
def liquid():
    """A dozen molecules of ethaline with heavy hydrogens: simulation and mapping."""
    config = small_config(hydrogen_mass="3 dalton")
    topology, positions = pack(config)
    system = create_system(config, topology)
    mapping = mapping_from_config(
        config, mdtraj.Topology.from_openmm(topology), atomic_charges(system)
    )
    return simulation_of(config, system, topology, positions), mapping


def test_frames_equal_independent_mapping(liquid, tmp_path):
    simulation, mapping = liquid
    reporter = MappedReporter(tmp_path / "frames.h5", 10, mapping, {"temperature": 363.15})
    independent = Independent(10)
    simulation.reporters = [reporter, independent]
    simulation.step(60)
    reporter.close()
    simulation.reporters = []
    frames = read_frames(tmp_path / "frames.h5")
    assert frames.step.tolist() == list(range(10, 61, 10))
    assert frames.time == pytest.approx(independent.times)
    # element masses of two tables
    assert np.allclose(frames.positions, independent.positions, rtol=1e-5, atol=1e-5)
    assert np.allclose(frames.forces, independent.forces, rtol=1e-5, atol=1e-2)
    assert np.allclose(frames.forces.sum(axis=1), independent.total, atol=2e-2)
    box = [
        vector.value_in_unit(unit.nanometer)
        for vector in simulation.system.getDefaultPeriodicBoxVectors()
    ]
    assert np.allclose(frames.box, box)
    assert frames.beads.masses == pytest.approx([104.17] * 3 + [35.45] * 3 + [62.07] * 6, abs=0.01)


def test_molecules_stay_whole_when_they_leave_the_box(liquid, tmp_path):
    """Beads follow a molecule that is moved by box vectors; nothing is wrapped or broken."""
    simulation, mapping = liquid
    state = simulation.context.getState(getPositions=True)
    x = state.getPositions(asNumpy=True).value_in_unit(unit.nanometer)
    box = state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.nanometer)
    shift = np.zeros_like(x)
    shift[mapping.bead_of_atom == 2] = 2 * box[0] - box[1]
    for k, moved in enumerate((x, x + shift)):
        reporter = MappedReporter(tmp_path / f"{k}.h5", 1, mapping, {"temperature": 363.15})
        simulation.context.setPositions(moved)
        reporter.report(simulation, simulation.context.getState(getPositions=True, getForces=True))
        reporter.close()
    simulation.context.setPositions(x)
    before, after = read_frames(tmp_path / "0.h5"), read_frames(tmp_path / "1.h5")
    expected = np.zeros((12, 3))
    expected[2] = 2 * box[0] - box[1]
    assert np.allclose(after.positions[0] - before.positions[0], expected, atol=1e-5)
    # PME on the CPU platform works in single precision
    assert np.allclose(after.forces, before.forces, atol=0.5)


def test_resumes_from_an_earlier_state(liquid, tmp_path):
    """The saved state is older than the last frame.

    Frames beyond it are made again, none is missing or doubled.
    """
    simulation, mapping = liquid
    path = tmp_path / "frames.h5"
    simulation.currentStep = 0
    reporter = MappedReporter(path, 5, mapping, {"temperature": 363.15})
    simulation.reporters = [reporter]
    simulation.step(10)
    simulation.saveState(str(tmp_path / "state.xml"))
    simulation.step(15)
    reporter.close()
    first = read_frames(path)
    simulation.reporters = []
    simulation.loadState(str(tmp_path / "state.xml"))
    reporter = MappedReporter(
        path, 5, mapping, {"temperature": 363.15}, after_step=simulation.currentStep
    )
    simulation.reporters = [reporter]
    simulation.step(20)
    reporter.close()
    simulation.reporters = []
    again = read_frames(path)
    assert first.step.tolist() == [5, 10, 15, 20, 25]
    assert again.step.tolist() == [5, 10, 15, 20, 25, 30]
    assert np.array_equal(again.positions[:2], first.positions[:2])
    # other random numbers: really made again
    assert not np.array_equal(again.positions[2:5], first.positions[2:5])


def test_constraint_across_beads_stops_the_simulation(tmp_path):
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("A", topology.addChain())
    for _ in range(2):
        system.addParticle(1.0)
        topology.addAtom("A", app.element.hydrogen, residue)
    system.addConstraint(0, 1, 0.1)
    simulation = app.Simulation(
        topology,
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    simulation.context.setPositions([[0, 0, 0], [0.1, 0, 0]])
    beads = BeadTopology(("A",), np.array([0, 0]), np.ones(2), np.array([0, 0]))
    mapping = Mapping([np.array([0]), np.array([1])], np.ones(2), beads)
    reporter = MappedReporter(tmp_path / "frames.h5", 1, mapping, {"temperature": 300.0})
    simulation.reporters.append(reporter)
    with pytest.raises(MappingError, match="constraint between atoms 0 and 1 crosses beads"):
        simulation.step(1)
    reporter.close()
    assert not list(tmp_path.iterdir())


def test_from_system_yaml(liquid, tmp_path):
    """The public class with nothing but a system.yaml; heavy hydrogens do not move beads."""
    simulation, mapping = liquid
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text())
    data["molecules"] = [
        {"name": m["name"], "structure": str(ETHALINE / m["structure"]), "count": COUNTS[m["name"]]}
        for m in data["molecules"]
    ]
    path = tmp_path / "system.yaml"
    path.write_text(yaml.safe_dump(data))
    reporters = [
        openmm_cgkd.MappedReporter(tmp_path / "a.h5", 5, path),
        MappedReporter(tmp_path / "b.h5", 5, mapping, {"temperature": 363.15}),
    ]
    simulation.reporters = list(reporters)
    simulation.step(10)
    simulation.reporters = []
    for reporter in reporters:
        reporter.close()
    frames, expected = read_frames(tmp_path / "a.h5"), read_frames(tmp_path / "b.h5")
    assert len(frames) == 2
    assert np.array_equal(frames.positions, expected.positions)
    assert np.array_equal(frames.forces, expected.forces)
    assert frames.attributes == {"system": "ethaline", "temperature": 363.15}
    assert frames.beads.charges == pytest.approx([0.8] * 3 + [-0.8] * 3 + [0.0] * 6, abs=1e-4)


def test_molecules_whose_bonds_cross_the_box_are_made_whole(tmp_path):
    """Two particles with a periodic bond, one of them at the other side of the box."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("A", topology.addChain())
    atoms = [topology.addAtom(name, app.element.argon, residue) for name in "AB"]
    topology.addBond(*atoms)
    for _ in range(2):
        system.addParticle(40.0)
    bond = openmm.HarmonicBondForce()
    bond.addBond(0, 1, 0.2, 1000.0)
    bond.setUsesPeriodicBoundaryConditions(True)
    system.addForce(bond)
    system.setDefaultPeriodicBoxVectors(*(3 * np.eye(3)))
    simulation = app.Simulation(
        topology,
        system,
        openmm.VerletIntegrator(1e-6),
        openmm.Platform.getPlatform("Reference"),
    )
    simulation.context.setPositions([[0.1, 1.0, 1.0], [2.9, 1.0, 1.0]])
    beads = BeadTopology(("A",), np.zeros(1, dtype=int), np.full(1, 80.0), np.zeros(1, dtype=int))
    mapping = Mapping([np.array([0, 1])], np.full(2, 40.0), beads)
    reporter = MappedReporter(tmp_path / "a.h5", 1, mapping, {"temperature": 300.0})
    simulation.reporters = [reporter]
    simulation.step(1)
    reporter.close()
    position = read_frames(tmp_path / "a.h5").positions[0, 0]
    assert position == pytest.approx([0.0, 1.0, 1.0], abs=1e-5)


def test_constant_pressure(liquid, tmp_path):
    """The box of each frame is that of its state."""
    config = small_config(hydrogen_mass="3 dalton")
    topology, positions = pack(config)
    system = create_system(config, topology)
    system.addForce(openmm.MonteCarloBarostat(1 * unit.bar, config.temperature * unit.kelvin, 1))
    simulation = simulation_of(config, system, topology, positions)
    reporter = MappedReporter(tmp_path / "frames.h5", 10, liquid[1], {"temperature": 363.15})
    simulation.reporters = [reporter]
    boxes = []
    for _ in range(4):
        simulation.step(10)
        boxes.append(
            simulation.context.getState()
            .getPeriodicBoxVectors(asNumpy=True)
            .value_in_unit(unit.nanometer)
        )
    reporter.close()
    frames = read_frames(tmp_path / "frames.h5")
    assert np.allclose(frames.box, boxes)
    assert np.ptp(np.linalg.det(frames.box)) > 1e-4


def test_what_cannot_be_mapped(liquid, tmp_path):
    """Refused before the first step, without a file."""
    simulation, mapping = liquid
    cases = [
        (
            MappedReporter(tmp_path / "a.h5", 5, mapping),
            ConfigError,
            "the temperature of the run is missing",
        ),
        (
            MappedReporter(tmp_path / "a.h5", 5, mapping, {"temperature": 300.0}),
            ConfigError,
            "the attributes say 300 K, the integrator has 363.15 K; correct",
        ),
        (
            MappedReporter(tmp_path / "a.h5", 5, ETHALINE / "system.yaml"),
            MappingError,
            "holds 3 molecules of CHO, the configuration says 60",
        ),
    ]
    for reporter, error, message in cases:
        simulation.reporters = [reporter]
        with pytest.raises(error, match=message):
            simulation.step(5)
        reporter.close()
    simulation.reporters = []
    assert not list(tmp_path.iterdir())


def test_all_temperatures_agree(liquid, tmp_path):
    """Of frames, file, integrator, thermostat and barostat."""
    simulation, mapping = liquid
    path = tmp_path / "frames.h5"
    reporter = MappedReporter(path, 5, mapping, {"temperature": 363.15})
    simulation.reporters = [reporter]
    simulation.step(5)
    reporter.close()
    frames, bare = read_frames(path), tmp_path / "bare.h5"
    write_frames(replace(frames, attributes={}), bare)
    simulation.reporters = [MappedReporter(bare, 5, mapping, {"temperature": 363.15})]
    with pytest.raises(FramesError, match=f"'cgkd verify {bare} --temperature KELVIN'"):
        simulation.step(5)
    simulation.integrator.setTemperature(300)
    simulation.reporters = [MappedReporter(path, 5, mapping, {"temperature": 300.0})]
    with pytest.raises(
        ConfigError, match=r"attributes say 300 K, the file has 363\.15 K; correct one of them"
    ):
        simulation.step(5)
    simulation.integrator.setTemperature(363.15)
    simulation.reporters = []


def compound() -> openmm.CompoundIntegrator:
    found = openmm.CompoundIntegrator()
    found.addIntegrator(openmm.VerletIntegrator(0.001))
    found.addIntegrator(openmm.LangevinMiddleIntegrator(300, 1, 0.001))
    return found


@pytest.mark.parametrize(
    ("integrator", "force", "message"),
    [
        (openmm.VerletIntegrator(0.001), openmm.AndersenThermostat(300, 1), "AndersenThermostat"),
        (openmm.VerletIntegrator(0.001), openmm.MonteCarloBarostat(1, 300), "MonteCarloBarostat"),
        (openmm.NoseHooverIntegrator(300, 1, 0.001), None, "integrator"),
        (openmm.MTSLangevinIntegrator(300, 1, 0.001, [(0, 1)]), None, "integrator"),
        (compound(), None, "integrator"),
    ],
)
def test_temperature_of_every_thermostat(tmp_path, integrator, force, message):
    system, topology = openmm.System(), app.Topology()
    atom = topology.addAtom("A", app.element.argon, topology.addResidue("A", topology.addChain()))
    for _ in range(2):
        system.addParticle(atom.element.mass)
    topology.addAtom("A", app.element.argon, next(topology.residues()))
    system.addForce(openmm.CustomExternalForce("0*periodicdistance(x, y, z, 0, 0, 0)"))
    system.setDefaultPeriodicBoxVectors(*(3 * np.eye(3)))
    if force is not None:
        system.addForce(force)
    simulation = app.Simulation(
        topology, system, integrator, openmm.Platform.getPlatform("Reference")
    )
    simulation.context.setPositions(np.eye(3)[:2])
    mapping = Mapping(
        [np.array([0]), np.array([1])],
        np.full(2, 40.0),
        BeadTopology(("A",), np.zeros(2, dtype=int), np.full(2, 40.0), np.arange(2)),
    )
    simulation.reporters = [MappedReporter(tmp_path / "a.h5", 1, mapping, {"temperature": 350.0})]
    with pytest.raises(
        ConfigError, match=f"the attributes say 350 K, the {message} has 300 K; correct"
    ):
        simulation.step(1)
    assert not (tmp_path / "a.h5").exists()
    simulation.reporters = [MappedReporter(tmp_path / "a.h5", 1, mapping, {"temperature": 300.0})]
    simulation.step(1)
    simulation.reporters[0].close()


def test_open_boundaries(tmp_path):
    system, topology = openmm.System(), app.Topology()
    system.addParticle(1.0)
    topology.addAtom("A", app.element.hydrogen, topology.addResidue("A", topology.addChain()))
    simulation = app.Simulation(
        topology,
        system,
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatformByName("Reference"),
    )
    simulation.context.setPositions([[0, 0, 0]])
    mapping = Mapping(
        [np.array([0])], np.ones(1), BeadTopology(("A",), np.array([0]), np.ones(1), np.array([0]))
    )
    simulation.reporters.append(
        MappedReporter(tmp_path / "frames.h5", 1, mapping, {"temperature": 300.0})
    )
    with pytest.raises(BoxError, match="is not periodic; only periodic fluids can be mapped"):
        simulation.step(1)


# --- virtual sites and Drude particles ------------------------------------------------------------


def forces_on_molecules(system: openmm.System, positions: np.ndarray, sites: int) -> np.ndarray:
    """-dE/dR by central differences, each molecule of `sites` particles moved as a whole."""
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
    )

    def energy(x: np.ndarray) -> float:
        context.setPositions(x)
        return context.getState(energy=True).getPotentialEnergy()._value

    h, found = 1e-5, np.zeros((len(positions) // sites, 3))
    for m in range(len(found)):
        for k in range(3):
            step = np.zeros_like(positions)
            step[m * sites : (m + 1) * sites, k] = h
            found[m, k] = (energy(positions - step) - energy(positions + step)) / (2 * h)
    return found


@pytest.mark.parametrize("model", ["tip3p", "tip4pew", "tip5p", "swm4ndp"])
def test_mapped_force_of_water_is_the_derivative_of_the_energy(tmp_path, model):
    """OpenMM leaves on a virtual site the force that it has handed on to its parents.

    Three, four and five particles; in SWM4-NDP one is a site and one a Drude particle, whose force
    counts though its element has no mass.
    """
    force_field = app.ForceField(f"{model}.xml")
    modeller = app.Modeller(app.Topology(), [] * unit.nanometer)
    modeller.addSolvent(force_field, model=model, numAdded=12)
    if model == "swm4ndp":
        modeller.addExtraParticles(force_field)
    # no cutoff, at which the energy would jump; a force without effect makes the system periodic
    system = force_field.createSystem(modeller.topology, nonbondedMethod=app.NoCutoff)
    system.addForce(openmm.CustomExternalForce("0 * periodicdistance(x, y, z, 0, 0, 0)"))
    integrator = openmm.LangevinMiddleIntegrator(300, 1, 0.0005)
    integrator.setRandomNumberSeed(1)
    simulation = app.Simulation(
        modeller.topology, system, integrator, openmm.Platform.getPlatform("Reference")
    )
    simulation.context.setPositions(modeller.positions)
    simulation.minimizeEnergy(maxIterations=20)
    data = {
        "name": "water",
        "force_field": "none.xml",
        "temperature": "300 K",
        "molecules": [{"name": "HOH", "structure": "none.pdb", "count": 12}],
        "beads": [{"type": "W", "molecule": "HOH"}],
    }
    (tmp_path / "system.yaml").write_text(yaml.safe_dump(data))
    reporter = MappedReporter(tmp_path / "frames.h5", 5, tmp_path / "system.yaml")
    simulation.reporters.append(reporter)
    simulation.step(5)
    reporter.close()
    frames = read_frames(tmp_path / "frames.h5")
    positions = simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
    expected = forces_on_molecules(system, positions, system.getNumParticles() // 12)
    assert np.abs(expected).max() > 50
    np.testing.assert_allclose(frames.forces[0], expected, atol=2e-3 * np.abs(expected).max())
    np.testing.assert_allclose(frames.beads.masses, 18.015, atol=0.01)
    assert np.abs(frames.beads.charges).max() < 1e-6


def chain_of_particles(masses: list[float]) -> tuple[openmm.System, app.Topology]:
    """Three argon atoms in a periodic box, with given masses."""
    system, topology = openmm.System(), app.Topology()
    residue = topology.addResidue("ARG", topology.addChain())
    for k, mass in enumerate(masses):
        system.addParticle(mass)
        topology.addAtom(f"A{k}", app.element.argon, residue)
    force = openmm.CustomExternalForce("periodicdistance(x, y, z, 0, 0, 0)^2")
    for k in range(len(masses)):
        force.addParticle(k)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*(3 * np.eye(3)))
    return system, topology


def mapping_of_one_bead(n: int) -> Mapping:
    beads = BeadTopology(("A",), np.array([0]), np.array([0.0]), np.array([0]))
    return Mapping([np.arange(n)], np.full(n, 39.948), beads)


@pytest.mark.parametrize(
    ("masses", "message"),
    [
        ([39.948, 0.0, 39.948], "Particle 1 has no mass in the system and is not a virtual site"),
        ([39.948, 45.0, 39.948], r"Molecule 0 weighs 124\.90 dalton in the system and 119\.84"),
        ([39.948, 39.948], "mapping is of 3 atoms, the system has 2 particles"),
    ],
)
def test_systems_of_other_particles_are_refused(tmp_path, masses, message):
    system, topology = chain_of_particles(masses)
    simulation = app.Simulation(
        topology,
        system,
        openmm.LangevinMiddleIntegrator(300, 1, 0.001),
        openmm.Platform.getPlatform("Reference"),
    )
    simulation.context.setPositions(np.eye(3)[: len(masses)])
    reporter = MappedReporter(
        tmp_path / "frames.h5", 5, mapping_of_one_bead(3), {"temperature": 300.0}
    )
    simulation.reporters.append(reporter)
    with pytest.raises(MappingError, match=message):
        simulation.step(1)
    assert not (tmp_path / "frames.h5").exists()


def test_speed_is_in_the_frames(liquid, tmp_path):
    """As a clock beside it tells, after `close` and without it; too few frames tell nothing."""
    simulation, mapping = liquid
    path = tmp_path / "frames.h5"
    for close, steps in ((True, 40), (False, 40), (True, 20)):
        path.unlink(missing_ok=True)
        reporter = MappedReporter(path, 10, mapping, {"temperature": 363.15})
        clock = []
        simulation.reporters = [reporter]
        simulation.currentStep = 0
        for _ in range(steps // 10):
            simulation.step(10)
            clock.append(time.perf_counter())
        simulation.reporters = []
        if close:
            reporter.close()
        del reporter
        found = read_frames(path).attributes
        if steps == 20:
            assert "ns_per_day" not in found
            continue
        interval = 10 * simulation.integrator.getStepSize().value_in_unit(unit.picosecond)
        expected = interval / np.median(np.diff(clock)) * 86400 / 1000
        assert found["ns_per_day"] == pytest.approx(expected, rel=0.5)
        assert found["hardware"] == hardware_of(simulation.context)
    assert not path.with_name("frames.h5.tmp").exists()
