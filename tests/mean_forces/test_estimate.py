"""Mean forces from restrained runs, against exact answers."""

import h5py
import mdtraj
import numpy as np
import openmm
import pytest
from openmm import app

from openmm_cgkd.allatom.backmap import add_restraint, set_restraint
from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.allatom.run import run_reference
from openmm_cgkd.exceptions import ConfigError, FramesError
from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.mapping.mapping import Mapping
from openmm_cgkd.mean_forces.estimate import mean_and_error, run_mean_forces
from openmm_cgkd.mean_forces.file import Estimates, MeanForces, read_mean_forces, write_mean_forces
from openmm_cgkd.mean_forces.restrained import (
    Configuration,
    RestrainedRun,
    as_check,
    run_configuration,
    sample_mean_force,
    start_file,
)
from tests.cases.fluids import small_config

KT = 0.00831446 * 300


class Springs:
    """Three molecules of two atoms, every force harmonic.

    The potential of mean force of the beads is quadratic.

    With U = x.K.x/2 per Cartesian component and X = M x, W(X) = X.inv(M inv(K) M^T).X/2.
    """

    masses = np.array([12.0, 3.0, 16.0, 1.0, 14.0, 5.0])
    bonds = (
        (0, 1, 4000.0),
        (2, 3, 3000.0),
        (4, 5, 5000.0),
        (1, 2, 900.0),
        (3, 4, 700.0),
        (0, 5, 500.0),
    )
    anchors = (300.0, 50.0, 200.0, 400.0, 100.0, 250.0)

    def __init__(self):
        beads = BeadTopology(("A",), np.zeros(3, int), np.zeros(3), np.arange(3))
        self.mapping = Mapping(
            [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])], self.masses, beads
        )
        matrix = np.diag(self.anchors)
        for i, j, k in self.bonds:
            matrix[[i, j], [i, j]] += k
            matrix[[i, j], [j, i]] -= k
        weights = np.zeros((3, 6))
        for bead in range(3):
            mine = self.masses * (self.mapping.bead_of_atom == bead)
            weights[bead] = mine / mine.sum()
        self.curvature = np.linalg.inv(weights @ np.linalg.inv(matrix) @ weights.T)

    def simulation(self, beads, constant):
        system = openmm.System()
        for mass in self.masses:
            system.addParticle(mass)
        force = openmm.HarmonicBondForce()  # of length zero, hence harmonic in every component
        for i, j, k in self.bonds:
            force.addBond(i, j, 0.0, k)
        correct_pair_part = openmm.CustomExternalForce("0.5*k*(x^2+y^2+z^2)")
        correct_pair_part.addPerParticleParameter("k")
        for i, k in enumerate(self.anchors):
            correct_pair_part.addParticle(i, [k])
        system.addForce(force)
        system.addForce(correct_pair_part)
        add_restraint(system, self.mapping, beads, constant)
        topology = app.Topology()
        residue = topology.addResidue("X", topology.addChain())
        for _ in self.masses:
            topology.addAtom("C", app.Element.getBySymbol("C"), residue)
        integrator = openmm.LangevinMiddleIntegrator(300, 5, 0.002)
        integrator.setRandomNumberSeed(3)
        simulation = app.Simulation(
            topology, system, integrator, openmm.Platform.getPlatformByName("Reference")
        )
        simulation.context.setPositions(beads[self.mapping.bead_of_atom])
        simulation.context.setVelocitiesToTemperature(300, 3)
        simulation.step(1000)
        return simulation


BEADS = np.array([[0.1, 0.02, -0.15], [0.3, -0.1, 0.05], [-0.2, 0.25, 0.1]])


@pytest.mark.parametrize("constant", [2e4, 1e5])
def test_mean_force_of_harmonic_molecules(constant):
    springs = Springs()
    found = sample_mean_force(
        springs.simulation(BEADS, constant), springs.mapping, BEADS, 200.0, 0.02, 20
    )
    exact = -springs.curvature @ found.positions
    z = (found.forces - exact) / found.standard_error
    # nine components, Student's t with 19 degrees of freedom
    assert np.sqrt((z**2).mean()) < 1.8
    assert np.abs(z).max() < 4.5
    assert np.sqrt((found.standard_error**2).mean()) < 0.05 * np.sqrt((exact**2).mean())


def test_mean_positions_remove_the_first_order_of_the_restraint():
    """At the restraint's centres, a soft restraint gives a force that is wrong by W''/k.

    At the mean positions it is right.
    """
    springs = Springs()
    found = sample_mean_force(
        springs.simulation(BEADS, 5e3), springs.mapping, BEADS, 400.0, 0.02, 20
    )
    at_centers, at_means = (
        np.abs(found.forces + springs.curvature @ x) for x in (BEADS, found.positions)
    )
    assert at_means.mean() < 0.4 * at_centers.mean()
    assert at_centers.max() > 5 * found.standard_error.max()


def test_standard_error_shrinks_with_time_and_is_honest():
    springs = Springs()
    simulation = springs.simulation(BEADS, 5e4)
    estimates = [
        sample_mean_force(simulation, springs.mapping, BEADS, 10.0, 0.02, 10) for _ in range(24)
    ]
    scatter = np.std([e.forces for e in estimates], axis=0, ddof=1)
    claimed = np.sqrt(np.mean([e.standard_error**2 for e in estimates], axis=0))
    # chi-squared with 23 degrees of freedom for each of nine components
    assert 0.75 < np.sqrt((scatter**2).mean() / (claimed**2).mean()) < 1.3


def mean_forces(seed, noise, frames=6, beads=40, signal=80.0):
    truth = np.random.default_rng(0).normal(0, signal, (frames, beads, 3))
    error = np.full_like(truth, noise)
    topology = BeadTopology(("A", "B"), np.arange(beads) % 2, np.ones(beads), np.arange(beads))
    forces = truth + np.random.default_rng(seed).normal(0, noise, truth.shape)
    box = np.tile(3 * np.eye(3), (frames, 1, 1))
    return MeanForces(
        truth * 0,
        forces,
        error,
        box,
        np.arange(frames) * 10.0,
        topology,
        {"restraint_constant": 1e5},
    )


def test_variance_is_freed_of_its_own_noise():
    found = mean_forces(1, noise=80.0)
    exact = np.var(mean_forces(1, noise=0.0).forces)
    assert abs(found.variance() / exact - 1) < 0.25
    assert abs((found.forces**2).mean() / exact - 1) > 0.7


def test_errors_from_independent_starts():
    random = np.random.default_rng(5)
    truth = random.normal(0, 80, (40, 1, 80, 3))
    mean, error = mean_and_error(truth + random.normal(0, 30, (40, 8, 80, 3)), np.arange(80) % 2)
    z = (mean - truth[:, 0]) / error
    assert abs(np.sqrt((error**2).mean()) / (30 / np.sqrt(8)) - 1) < 0.1
    # Student's t with 7 degrees of freedom has variance 7/5
    assert abs((z**2).mean() / (7 / 5) - 1) < 0.25


def test_errors_from_starts_that_remember():
    """Noise of 50 that is correlated by 0.7 from start to start, for one type.

    For the other it is independent.
    """
    random = np.random.default_rng(8)
    types, count = np.arange(80) % 2, 24
    truth, noise = random.normal(0, 100, (10, 80, 3)), random.normal(0, 50, (10, count, 80, 3))
    for k in range(1, count):
        noise[:, k, types == 0] *= np.sqrt(1 - 0.7**2)
        noise[:, k, types == 0] += 0.7 * noise[:, k - 1, types == 0]
    mean, error = mean_and_error(truth[:, None] + noise, types)
    lags = np.arange(1, count)
    exact = {
        0: 50 * np.sqrt((1 + 2 * ((1 - lags / count) * 0.7**lags).sum()) / count),
        1: 50 / np.sqrt(count),
    }
    for kind, expected in exact.items():
        mine = types == kind
        assert np.sqrt((error[:, mine] ** 2).mean()) == pytest.approx(expected, rel=0.2)
        assert np.sqrt(((mean - truth)[:, mine] ** 2).mean()) == pytest.approx(expected, rel=0.1)
    assert exact[0] > 2 * exact[1]


def test_agreement_of_estimates_that_do_and_do_not_agree():
    first, second = mean_forces(1, noise=20.0), mean_forces(2, noise=20.0)
    errors = first.standard_error, second.standard_error
    same = Estimates(first.forces, second.forces, *errors).agreement()
    assert abs(same["slope"] - 1) < 4 * same["slope_error"]
    assert abs(same["difference"] / same["expected"] - 1) < 0.15
    assert (
        abs(Estimates(first.forces, 0.7 * second.forces, *errors).agreement()["slope"] - 0.7) < 0.1
    )


def test_errors_of_a_check_are_those_between_equal_runs():
    """Also where much of what a run sees outlasts it, as atoms around held beads do.

    Noise of 40, correlated by 0.7 from run to run.
    """
    random = np.random.default_rng(6)
    truth, noise = 100 * random.normal(size=(6, 40, 3)), 40 * random.normal(size=(3, 6, 40, 3))
    for run in (1, 2):
        noise[run] = 0.7 * noise[run - 1] + np.sqrt(1 - 0.7**2) * noise[run]
    control, first, second = truth + noise
    for factor in (1, 0.8):
        found = Estimates(**as_check(control, first, factor * second)).agreement()
        assert abs(found["slope"] - factor) < 4 * found["slope_error"] < 0.08
    assert Estimates(**as_check(control, first, second)).agreement()["expected"] == pytest.approx(
        40 * np.sqrt(2 * 0.3), rel=0.1
    )


def test_holding_elsewhere_moves_the_mean_force():
    """The force is the same after the centres have moved.

    They moved to where the other constant gives the same mean positions.
    """
    springs, soft = Springs(), 5e3
    simulation = springs.simulation(BEADS, 1e5)
    (restraint,) = (
        force
        for force in simulation.system.getForces()
        if isinstance(force, openmm.CustomCentroidBondForce)
    )
    first = sample_mean_force(simulation, springs.mapping, BEADS, 200.0, 0.02, 20)
    centers = first.positions - first.forces / soft
    set_restraint(simulation.context, restraint, centers, soft)
    simulation.step(1000)
    second = sample_mean_force(simulation, springs.mapping, centers, 200.0, 0.02, 20)
    error = np.hypot(first.standard_error, second.standard_error)
    assert np.abs(second.forces - first.forces).max() < 5 * error.max()
    assert np.abs(centers - BEADS).max() > 10 * np.abs(second.positions - first.positions).max()


def test_file_round_trip(tmp_path):
    main = mean_forces(1, 20.0)
    path = tmp_path / "mean_forces.h5"
    check = Estimates(
        main.forces, mean_forces(2, 20.0).forces, main.standard_error, main.standard_error
    )
    write_mean_forces(path, main, {"other_constant": check})
    found = read_mean_forces(path)
    np.testing.assert_allclose(found.forces, main.forces, rtol=1e-6)
    assert found.beads.type_names == ("A", "B")
    assert found.attributes["restraint_constant"] == 1e5
    with h5py.File(path) as file:
        group = file["checks/other_constant"]
        np.testing.assert_allclose(group["second"][:], check.second, rtol=1e-6)
        assert group.attrs["slope"] == check.agreement()["slope"]
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(FramesError, match="damaged"):
        read_mean_forces(path)
    with pytest.raises(FramesError, match="no such file"):
        read_mean_forces(tmp_path / "none.h5")


COUNTS = {"CHO": 2, "CL": 2, "EGL": 2}


@pytest.fixture(scope="module")
def atoms(tmp_path_factory):
    """A short all-atom run with snapshots."""
    reference = {
        "annealing": "0.2 ps",
        "npt": "0.8 ps",
        "nvt": "0.2 ps",
        "production": "0.4 ps",
        "frame_interval": "0.1 ps",
    }
    config = small_config(
        COUNTS,
        **reference,
        snapshot_interval="40 fs",
        nonbonded_cutoff="0.4 nm",
        initial_density="0.3 g/cm^3",
    )
    times = {
        "annealing": 0.1,
        "cooling": 0.1,
        "equilibration": 0.1,
        "sampling": 0.2,
        "sample_interval": 0.02,
    }
    config = config.model_copy(
        update={
            "mean_force": config.mean_force.model_copy(
                update={**times, "check_frames": 1, "starts": 2}
            )
        }
    )
    return config, run_reference(config, tmp_path_factory.mktemp("aa")).with_name("production.xtc")


def test_mean_forces_of_ethaline(atoms, tmp_path):
    config, trajectory = atoms
    folder = tmp_path / "mf"
    fewer = read_mean_forces(run_mean_forces(config, trajectory, folder, count=2, share=0.5))
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert len(before) == 6  # two starts of two configurations, and the two checks of one

    more = config.model_copy(
        update={"mean_force": config.mean_force.model_copy(update={"starts": 4})}
    )
    path = run_mean_forces(more, trajectory, folder, count=2, share=0.5)
    found = read_mean_forces(path)
    charges = dict(
        zip(np.array(found.beads.type_names)[found.beads.types], found.beads.charges, strict=True)
    )
    assert charges == pytest.approx({"CHO": 0.8, "CL": -0.8, "EGL": 0.0}, abs=1e-6)
    assert found.forces.shape == (2, 6, 3)
    assert found.standard_error.min() > 0
    # what was there has been kept and used
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.npz")}
    assert before.items() < after.items()
    starts = [np.load(folder / f"configuration-0000-start-{k:02d}.npz") for k in range(4)]
    np.testing.assert_allclose(
        found.forces[0],
        np.mean([start["forces"] for start in starts], axis=0),
        rtol=1e-5,
        atol=1e-3,
    )
    np.testing.assert_allclose(
        fewer.forces[0],
        np.mean([start["forces"] for start in starts[:2]], axis=0),
        rtol=1e-5,
        atol=1e-3,
    )
    # all starts hold the same beads, to thermal motion of sqrt(kT/k) = 4e-3 nm, with other
    # conformations
    assert max(np.abs(start["positions"] - found.positions[0]).max() for start in starts) < 0.02
    assert min(np.abs(start["forces"] - starts[0]["forces"]).max() for start in starts[1:]) > 1
    # products of starts so many apart, of the last bead type
    both = np.array(
        [
            [
                np.load(folder / f"configuration-{i:04d}-start-{k:02d}.npz")["forces"][4:]
                for k in range(4)
            ]
            for i in range(2)
        ]
    )
    products = [
        np.mean([(both[:, k] * both[:, k + lag]).mean() for k in range(4 - lag)])
        for lag in range(4)
    ]
    np.testing.assert_allclose(found.attributes["start_products"][2], products)
    with h5py.File(path) as file:
        assert set(file["checks"]) == {"other_constant", "other_start", "other_heating"}
        assert file["checks/other_constant/first"].shape == (1, 6, 3)


@pytest.fixture
def restrained(atoms):
    """The last configuration of the short run, its beads held."""
    config, trajectory = atoms
    topology = mdtraj.Topology.from_openmm(build_topology(config))
    last = mdtraj.load(str(trajectory), top=topology)[-1]
    return RestrainedRun(config, Configuration(0, last.xyz[0], last.unitcell_vectors[0], False))


def test_a_start_goes_on_from_the_one_before(restrained, tmp_path, monkeypatch):
    """Also where the one before has been done already."""
    given, begin = [], RestrainedRun.begin

    def record(self, start, atoms):
        given.append((start, atoms))
        begin(self, start, atoms)

    monkeypatch.setattr(RestrainedRun, "begin", record)
    for starts in (2, 3):
        config = restrained.config.model_copy(
            update={"mean_force": restrained.protocol.model_copy(update={"starts": starts})}
        )
        run_configuration(config, restrained.configuration, tmp_path, lambda done, note: None)
    assert [start for start, _ in given] == [0, 1, 2]
    for start, atoms in given[1:]:
        before = np.load(start_file(tmp_path, 0, start - 1))
        np.testing.assert_array_equal(atoms, before["atoms"])
        assert np.abs(restrained.mapping.map_positions(atoms) - restrained.beads).max() < 0.03
    assert np.abs(given[2][1] - given[1][1]).max() > 0.05
    # and a damaged one is done again
    path = start_file(tmp_path, 0, 1)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    given.clear()
    run_configuration(config, restrained.configuration, tmp_path, lambda done, note: None)
    assert [start for start, _ in given] == [1]
    assert path.with_name(f"{path.name}.damaged").read_bytes() == data


def test_steps_are_short_while_hot(restrained):
    """Atoms move no farther in a step than at 1000 K, and the time is what was asked for.

    Sampling has the protocol's step again.
    """
    integrator, context = restrained.simulation.integrator, restrained.simulation.context
    restrained.begin(0, restrained.configuration.atoms)
    context.setTime(0)
    restrained.run(4000.0, 0.6, 1)
    assert integrator.getStepSize()._value == pytest.approx(0.002)
    assert context.getTime()._value == pytest.approx(0.6)
    atoms = context.getSystem().getNumParticles()
    freedom = 3 * atoms - context.getSystem().getNumConstraints()
    kinetic = context.getState(energy=True).getKineticEnergy()._value
    # one state of 64 atoms scatters by 11 %
    assert 2 * kinetic / (freedom * 0.00831446) == pytest.approx(4000, rel=0.45)
    restrained.begin(0, restrained.configuration.atoms)
    assert integrator.getStepSize()._value == pytest.approx(0.004)


def test_explosion_is_tried_again_with_half_the_step(restrained, monkeypatch):
    """From the same atoms; an explosion of that, too, is an error."""
    simulation, exploded = restrained.simulation, []

    def step(steps, original=simulation.step, fails=1):
        if len(exploded) < fails and simulation.integrator.getTemperature()._value == 2000:
            simulation.context.setPositions(
                simulation.context.getState(positions=True).getPositions(asNumpy=True)._value
                * np.nan
            )
            exploded.append(simulation.integrator.getStepSize()._value)
        original(steps)

    monkeypatch.setattr(simulation, "step", step)
    restrained.begin(1, restrained.configuration.atoms)
    assert exploded == [pytest.approx(0.004 / np.sqrt(2))]
    mapped = restrained.mapping.map_positions(restrained.atoms())
    assert np.abs(mapped - restrained.beads).max() < 0.03
    monkeypatch.setattr(simulation, "step", lambda steps, twice=step: twice(steps, fails=4))
    with pytest.raises(openmm.OpenMMException, match="NaN"):
        restrained.begin(1, restrained.configuration.atoms)
    assert exploded[1:] == [
        pytest.approx(0.004 / np.sqrt(2) * shorter) for shorter in (1, 0.5, 0.25)
    ]


def test_bad_input(atoms, tmp_path):
    config, trajectory = atoms
    with pytest.raises(ConfigError, match="holds 5 configurations, 9 were asked for"):
        run_mean_forces(config, trajectory, tmp_path / "a", count=9, share=0.5)
    with pytest.raises(ConfigError, match="no such file"):
        run_mean_forces(config, tmp_path / "none.xtc", tmp_path / "a", count=1, share=0.5)
    other = small_config({"CHO": 2, "CL": 2, "EGL": 3})
    with pytest.raises(ConfigError, match="cannot be read as a trajectory of"):
        run_mean_forces(other, trajectory, tmp_path / "a", count=1, share=0.5)
    assert not (tmp_path / "a").exists()
    run_mean_forces(config, trajectory, tmp_path / "b", count=1, share=0.2)
    colder = config.model_copy(update={"temperature": 350.0})
    with pytest.raises(ConfigError, match="other settings"):
        run_mean_forces(colder, trajectory, tmp_path / "b", count=1, share=0.2)


def test_snapshots_survive_a_resumed_run(atoms, tmp_path):
    """Production cut back to an earlier state writes every snapshot once."""
    from openmm_cgkd.allatom.phases import keep_snapshots

    copy = tmp_path / "production.xtc"
    copy.write_bytes(atoms[1].read_bytes()[:-100])  # torn
    keep_snapshots(copy, 7)
    with (
        mdtraj.formats.XTCTrajectoryFile(str(copy)) as file,
        mdtraj.formats.XTCTrajectoryFile(str(atoms[1])) as whole,
    ):
        (xyz, time, *_), (exact, exact_time, *_) = file.read(), whole.read(7)
    np.testing.assert_allclose(xyz, exact, atol=1e-6)
    np.testing.assert_allclose(time, exact_time)
