"""Dynamics: conservation laws, temperature, resuming, explosions, files in the folder."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys

import mdtraj
import numpy as np
import openmm
import pytest
from openmm import app, unit

from openmm_cgkd import CGPotential
from openmm_cgkd.config.run import SimulationConfig
from openmm_cgkd.exceptions import ConfigError, SimulationError
from openmm_cgkd.simulation import dynamics
from openmm_cgkd.simulation.dynamics import run_dynamics
from openmm_cgkd.simulation.explosion import ExplosionGuard
from openmm_cgkd.simulation.outputs import log_column
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.utils import save_points
from openmm_cgkd.utils.records import read_record, write_record
from tests.cases.dynamics import run_toy
from tests.cases.potential import CUBIC, NAMES, beads, liquid, write_toy_potential

TEMPERATURE = 200.0


@pytest.fixture(autouse=True)
def _saved_often(monkeypatch):
    """Save every ten frames, however fast they are."""
    monkeypatch.setattr(dynamics, "SAVE_EVERY", 0.0)


@pytest.fixture(scope="module")
def potential(tmp_path_factory):
    return CGPotential(write_toy_potential(tmp_path_factory.mktemp("model") / "student.pt"))


@pytest.fixture(scope="module")
def case(potential):
    """System, topology and relaxed positions of 30 beads under the exported potential."""
    types, positions = liquid()
    topology = bead_topology_to_openmm(beads(types), CUBIC)
    system = potential.createSystem(topology)
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("CPU")
    )
    context.setPositions(positions)
    openmm.LocalEnergyMinimizer.minimize(context, 10, 30)
    return system, topology, context.getState(positions=True).getPositions(asNumpy=True)._value


def protocol(**changes):
    values = {
        "timestep": "2 fs",
        "equilibration": "0.04 ps",
        "production": "0.4 ps",
        "frame_interval": "0.02 ps",
        "platform": "Reference",
    }
    return SimulationConfig(**{**values, **changes})


def harmonic_case():
    """Beads in harmonic wells, cheap enough for thousands of steps.

    The kinetic temperature is known.
    """
    types, positions = liquid()
    topology = bead_topology_to_openmm(beads(types), CUBIC)
    system, force = openmm.System(), openmm.CustomExternalForce("500*((x-x0)^2+(y-y0)^2+(z-z0)^2)")
    for name in ("x0", "y0", "z0"):
        force.addPerParticleParameter(name)
    for k, position in enumerate(positions):
        system.addParticle(60.0)
        force.addParticle(k, position)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*CUBIC)
    return system, topology, positions


def load(folder, suffix="dcd"):
    return mdtraj.load(str(folder / f"trajectory.{suffix}"), top=str(folder / "topology.pdb"))


def test_energy_is_conserved_without_a_thermostat(case):
    system, _, positions = case
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("CPU")
    )
    context.setPositions(positions)
    context.setVelocitiesToTemperature(TEMPERATURE, 1)
    totals, kinetics = [], []
    for _ in range(12):
        context.getIntegrator().step(10)
        state = context.getState(energy=True)
        kinetics.append(state.getKineticEnergy()._value)
        totals.append(kinetics[-1] + state.getPotentialEnergy()._value)
    assert np.ptp(totals) < 0.02 * np.mean(kinetics)
    assert np.ptp(kinetics) > 10 * np.ptp(totals)  # energy was exchanged meanwhile


@pytest.mark.parametrize("suffix", ["dcd", "xtc"])
def test_run_leaves_what_it_promises(case, tmp_path, suffix):
    path = run_dynamics(*case, tmp_path, protocol(trajectory=suffix), TEMPERATURE)
    assert path == tmp_path / f"trajectory.{suffix}"
    trajectory = load(tmp_path, suffix)
    assert trajectory.n_frames == 20
    assert [atom.name for atom in trajectory.topology.atoms] == [
        atom.name for atom in case[1].atoms()
    ]
    assert all(atom.element is mdtraj.element.virtual for atom in trajectory.topology.atoms)
    np.testing.assert_allclose(
        trajectory.unitcell_vectors, np.broadcast_to(CUBIC, (20, 3, 3)), atol=1e-5
    )
    assert 0 < np.abs(np.diff(trajectory.xyz, axis=0)).max() < 0.2  # moves, and is not wrapped
    if suffix == "xtc":
        np.testing.assert_allclose(trajectory.time, 0.02 * np.arange(1, 21), rtol=1e-4)
    np.testing.assert_allclose(log_column(tmp_path / "state.csv", "Step"), 10 * np.arange(1, 21))
    np.testing.assert_allclose(log_column(tmp_path / "state.csv", "Time"), 0.02 * np.arange(1, 21))
    summary = json.loads((tmp_path / "simulation.json").read_text())
    assert summary["steps"] == 200
    assert summary["platform"] == "Reference"
    assert summary["use_cuda_graphs"] == "off"
    assert summary["hardware"].startswith(f"{summary['threads']} thread")
    assert summary["ns_per_day"] == pytest.approx(200 * 2e-6 * 86400 / summary["seconds"])
    assert summary["step_time_ms"] == pytest.approx(1e3 * summary["seconds"] / 200)
    assert summary["mean_temperature"] == pytest.approx(
        log_column(tmp_path / "state.csv", "Temperature").mean()
    )
    state = openmm.XmlSerializer.deserialize((tmp_path / "state.xml").read_text())
    assert state.getStepCount() == 200
    np.testing.assert_allclose(
        state.getPositions(asNumpy=True)._value, trajectory.xyz[-1], atol=1e-3
    )


def test_mean_temperature_is_the_set_one(tmp_path):
    settings = protocol(
        timestep="5 fs",
        equilibration="5 ps",
        production="100 ps",
        frame_interval="0.5 ps",
        friction="5/ps",
    )
    run_dynamics(*harmonic_case(), tmp_path, settings, TEMPERATURE)
    mean = json.loads((tmp_path / "simulation.json").read_text())["mean_temperature"]
    # 90 degrees of freedom, about 100 independent samples: standard error 200 K sqrt(2 / 90 / 100)
    # = 3 K
    assert mean == pytest.approx(TEMPERATURE, abs=12)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("suffix", ["dcd", "xtc"])
@pytest.mark.parametrize("moment", ["before the save", "between state and record"])
def test_resume_after_a_stop_repeats_no_frame(tmp_path, monkeypatch, suffix, moment):
    # 50 frames, saved every 10
    case, settings = harmonic_case(), protocol(production="1 ps", trajectory=suffix)
    run_dynamics(*case, tmp_path / "whole", settings, TEMPERATURE)
    stopped = tmp_path / "stopped"

    def stopped_save(self, simulation, steps, seconds):
        if simulation.currentStep == 300:
            raise KilledError
        original(self, simulation, steps, seconds)

    def stopped_write(path, content):
        if content["steps"] == 300:
            raise KilledError
        write_record(path, content)

    original, write_record = dynamics.Dynamics.save, save_points.write_record
    if moment == "before the save":
        monkeypatch.setattr(dynamics.Dynamics, "save", stopped_save)
    else:
        monkeypatch.setattr(save_points, "write_record", stopped_write)
    with pytest.raises(KilledError):
        run_dynamics(*case, stopped, settings, TEMPERATURE)
    monkeypatch.undo()
    trajectory = stopped / f"trajectory.{suffix}"
    assert load(stopped, suffix).n_frames == 30
    with open(trajectory, "ab") as file:
        file.write(trajectory.read_bytes()[-200:-60])  # and a torn frame after them
    with open(stopped / "state.csv", "a") as file:
        file.write("310,0.6")
    run_dynamics(*case, stopped, settings, TEMPERATURE)
    assert_same_run(stopped, tmp_path / "whole", suffix)
    np.testing.assert_allclose(log_column(stopped / "state.csv", "Time"), 0.02 * np.arange(1, 51))
    if suffix == "xtc":
        np.testing.assert_allclose(load(stopped, suffix).time, 0.02 * np.arange(1, 51), rtol=1e-4)


def assert_same_run(found, expected, suffix="dcd"):
    """Bit for bit, but for the speed in the log and the date in the trajectory."""
    np.testing.assert_array_equal(load(found, suffix).xyz, load(expected, suffix).xyz)
    for name in ("Step", "Time", "Potential Energy", "Kinetic Energy", "Temperature"):
        np.testing.assert_array_equal(
            log_column(found / "state.csv", name), log_column(expected / "state.csv", name)
        )
    assert (found / "state.xml").read_bytes() == (expected / "state.xml").read_bytes()


KILLED = """
import os, signal, sys
from pathlib import Path
from openmm import app
from openmm_cgkd.utils import save_points
from tests.cases.dynamics import run_toy
moment, model, folder = sys.argv[1:]
report, write_record = app.DCDReporter.report, save_points.write_record
def killed_report(self, simulation, state):
    report(self, simulation, state)
    if simulation.currentStep == 130:
        os.kill(os.getpid(), signal.SIGKILL)
def killed_write(path, content):
    if content["steps"] == 300:
        os.kill(os.getpid(), signal.SIGKILL)
    write_record(path, content)
if moment == "after a frame":
    app.DCDReporter.report = killed_report
else:
    save_points.write_record = killed_write
run_toy(Path(model), Path(folder))
"""


def test_killed_run_goes_on_bit_for_bit(tmp_path, potential):
    """SIGKILL between two saves, then between the state and the record of a save."""
    run_toy(potential.file, tmp_path / "whole")
    for moment, frames in (("after a frame", 13), ("before the record", 30)):
        child = subprocess.run(
            [sys.executable, "-c", KILLED, moment, str(potential.file), str(tmp_path / "killed")],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
        )
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        assert load(tmp_path / "killed").n_frames == frames
    run_toy(potential.file, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert load(tmp_path / "killed").n_frames == 40


@pytest.fixture(scope="module")
def halves(tmp_path_factory) -> tuple:
    """Folders of a run that has stopped after 30 of 50 frames, and of one that has not."""
    root = tmp_path_factory.mktemp("halves")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamics, "SAVE_EVERY", 0.0)
        run_dynamics(*harmonic_case(), root / "half", protocol(production="0.6 ps"), TEMPERATURE)
        (root / "half" / "simulation.json").unlink()
        run_dynamics(*harmonic_case(), root / "whole", protocol(production="1 ps"), TEMPERATURE)
    return root / "half", root / "whole"


def go_on(folder) -> None:
    run_dynamics(*harmonic_case(), folder, protocol(production="1 ps"), TEMPERATURE)


RESUMED = ["trajectory.dcd", "state.csv", "state.xml", "state.chk", "progress.json"]


@pytest.mark.parametrize("name", RESUMED)
def test_a_flipped_bit_changes_no_result(halves, tmp_path, name):
    """The short leg of 60 flips in each file."""
    half, whole = halves
    rng = np.random.default_rng(len(name))
    for k in range(5):
        folder = tmp_path / str(k)
        shutil.copytree(half, folder)
        data = bytearray((folder / name).read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        (folder / name).write_bytes(data)
        go_on(folder)
        assert_same_run(folder, whole)


def cut(path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path) -> None:
    path.write_bytes(b"")


def removed(path) -> None:
    path.unlink()


@pytest.mark.parametrize("harm", [cut, emptied, removed])
@pytest.mark.parametrize("name", RESUMED)
def test_a_spoiled_file_costs_work_and_nothing_else(halves, tmp_path, caplog, name, harm):
    half, whole = halves
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    harm(folder / name)
    with caplog.at_level("INFO", "openmm_cgkd"):
        go_on(folder)
    assert_same_run(folder, whole)
    over = "cannot be continued and starts over. Kept as " in caplog.text
    # the trajectory and its log had less in the save before, the states are there twice
    assert over == (name in ("trajectory.dcd", "state.csv") and harm is not cut)
    assert over == bool(list(folder.glob("*.damaged")))
    if over:
        assert f"{name}: is missing, or was changed" in caplog.text
        damaged = folder / "progress.json.damaged"
        assert damaged.read_bytes() == (half / "progress.json").read_bytes()
        assert not any("damaged" in line for line in (folder / "state.csv").read_text().split())
    elif name != "state.xml" or harm is not removed:
        assert "resuming at 0." in caplog.text


def test_files_without_a_record_are_kept(halves, tmp_path, caplog):
    half, whole = halves
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    for path in folder.glob("progress*"):
        path.unlink()
    go_on(folder)
    assert_same_run(folder, whole)
    assert "starts over. Kept as trajectory.dcd.damaged, state.csv.damaged" in (caplog.text)
    kept = folder / "trajectory.dcd.damaged"
    assert kept.read_bytes() == (half / "trajectory.dcd").read_bytes()


def test_checkpoint_of_another_platform(halves, tmp_path, caplog):
    """The state takes its place, with other random numbers."""
    half, whole = halves
    folder = tmp_path / "run"
    shutil.copytree(half, folder)
    for path in folder.glob("*.previous.*"):
        path.unlink()
    system, topology, positions = harmonic_case()
    other = app.Simulation(
        topology,
        system,
        openmm.LangevinMiddleIntegrator(200, 1, 0.002),
        openmm.Platform.getPlatform("CPU"),
    )
    other.context.setPositions(positions)
    checkpoint = other.context.createCheckpoint()
    (folder / "state.chk").write_bytes(checkpoint)
    record = read_record(folder / "progress.json")
    hashed = hashlib.sha256(checkpoint).hexdigest()
    write_record(folder / "progress.json", {**record, "checkpoint": hashed})
    with caplog.at_level("INFO", "openmm_cgkd"):
        go_on(folder)
    assert "state.chk: is of another machine, platform or version of OpenMM" in caplog.text
    assert "resuming at 0.6 ps" in caplog.text
    found, expected = load(folder).xyz, load(whole).xyz
    np.testing.assert_array_equal(found[:30], expected[:30])
    assert len(found) == 50
    assert np.abs(found[30:] - expected[30:]).max() > 1e-3
    jumps = np.abs(np.diff(found, axis=0)).max(axis=(1, 2))
    assert 0 < jumps[29] < 3 * np.median(jumps)


def test_equilibration_resumes_after_a_stop(tmp_path, monkeypatch, caplog):
    case, settings = harmonic_case(), protocol(equilibration="0.6 ps")  # 300 steps, saved every 100
    run_dynamics(*case, tmp_path / "whole", settings, TEMPERATURE)
    steps, step = [], dynamics.Dynamics.step

    def stopped(self, simulation, n):
        if len(steps) == 2:
            raise KilledError
        steps.append(n)
        step(self, simulation, n)

    monkeypatch.setattr(dynamics.Dynamics, "step", stopped)
    # as if nothing could be done any more
    monkeypatch.setattr(dynamics.Dynamics, "rescue", lambda *_: None)
    with pytest.raises(KilledError):
        run_dynamics(*case, tmp_path / "stopped", settings, TEMPERATURE)
    monkeypatch.undo()
    steps.clear()
    monkeypatch.setattr(
        dynamics.Dynamics,
        "step",
        lambda self, sim, n: (steps.append(n), step(self, sim, n)),
    )
    with caplog.at_level("INFO", "openmm_cgkd"):
        run_dynamics(*case, tmp_path / "stopped", settings, TEMPERATURE)
    assert "resuming equilibration at 0.4 ps" in caplog.text
    assert sum(steps) == 100 + 200  # what was left of the equilibration, and production
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_good_state_is_saved_on_an_error_and_resumed_from(tmp_path, monkeypatch):
    class FullDisk:
        def describeNextReport(self, simulation):
            return {
                "steps": 157 - simulation.currentStep if simulation.currentStep < 157 else 10**9,
                "periodic": False,
                "include": [],
            }

        def report(self, simulation, state):
            raise OSError("No space left on device")

    case, original = harmonic_case(), dynamics.Dynamics.reporters
    monkeypatch.setattr(
        dynamics.Dynamics,
        "reporters",
        lambda self: [*original(self), FullDisk()],
    )
    with pytest.raises(OSError, match="No space"):
        run_dynamics(*case, tmp_path, protocol(), TEMPERATURE)
    monkeypatch.undo()
    assert (
        openmm.XmlSerializer.deserialize((tmp_path / "state.xml").read_text()).getStepCount() == 157
    )
    assert not (tmp_path / "failure.xml").exists()
    run_dynamics(*case, tmp_path, protocol(), TEMPERATURE)
    run_dynamics(*case, tmp_path / "whole", protocol(), TEMPERATURE)
    assert_same_run(tmp_path, tmp_path / "whole")


def test_barostat_gives_an_ideal_gas_its_volume(tmp_path):
    """p(V) ~ V^N exp(-PV/kT), so <V> = (N + 1) kT / P."""
    n, pressure = 30, 107.0
    # only makes it periodic
    system, force = (
        openmm.System(),
        openmm.CustomExternalForce("0*periodicdistance(x, y, z, 0, 0, 0)"),
    )
    for _ in range(n):
        system.addParticle(60.0)
    system.addForce(force)
    system.setDefaultPeriodicBoxVectors(*CUBIC)
    topology = bead_topology_to_openmm(beads(np.zeros(n, dtype=int)), CUBIC)
    positions = np.random.default_rng(0).uniform(0, 2, (n, 3))
    settings = protocol(
        timestep="10 fs",
        equilibration="30 ps",
        production="300 ps",
        frame_interval="0.25 ps",
        pressure=f"{pressure} bar",
    )
    run_dynamics(system, topology, positions, tmp_path, settings, TEMPERATURE)
    volumes = load(tmp_path).unitcell_volumes
    # 1 kJ/mol/nm^3 is 16.6 bar
    expected = (n + 1) * 8.314462618e-3 * TEMPERATURE / (pressure / 16.6053907)
    blocks = volumes.reshape(10, -1).mean(axis=1)
    error = blocks.std(ddof=1) / np.sqrt(10)
    assert error < 0.06 * expected
    assert volumes.mean() == pytest.approx(expected, abs=4 * error)
    summary = json.loads((tmp_path / "simulation.json").read_text())
    assert summary["mean_density"] == pytest.approx(
        (n * 60.0 / volumes).mean() * 1.66053907e-3, rel=1e-3
    )
    assert summary["pressure_bar"] == pressure
    # the caller's system stays as it is
    assert not any(isinstance(force, openmm.MonteCarloBarostat) for force in system.getForces())


def test_a_resumed_barostat_has_other_random_numbers(tmp_path, monkeypatch):
    """A checkpoint does not hold those of the barostat, which must not repeat themselves."""
    system = openmm.System()
    for _ in range(30):
        system.addParticle(60.0)
    system.addForce(openmm.CustomExternalForce("0*periodicdistance(x, y, z, 0, 0, 0)"))
    system.setDefaultPeriodicBoxVectors(*CUBIC)
    topology = bead_topology_to_openmm(beads(np.zeros(30, dtype=int)), CUBIC)
    seeds, set_seed = [], openmm.MonteCarloBarostat.setRandomNumberSeed

    def record(self, seed):
        seeds.append(seed)
        set_seed(self, seed)

    monkeypatch.setattr(openmm.MonteCarloBarostat, "setRandomNumberSeed", record)
    positions = np.random.default_rng(0).uniform(0, 2, (30, 3))
    for production in ("0.4 ps", "0.8 ps"):
        settings = protocol(production=production, pressure="107 bar")
        run_dynamics(system, topology, positions, tmp_path, settings, TEMPERATURE)
    assert len(seeds) == 3  # at the start, when the simulation is made again, and to go on
    assert seeds[0] == seeds[1] != seeds[2]


def test_box_that_shrinks_below_twice_the_cutoff(potential, tmp_path):
    box = 1.606 * np.eye(3)
    positions = 0.803 * np.stack(np.meshgrid(*3 * [np.arange(2)], indexing="ij"), axis=-1).reshape(
        -1, 3
    )
    topology = bead_topology_to_openmm(beads(np.zeros(8, dtype=int)), box)
    settings = protocol(pressure="1e5 bar", equilibration="0 ps", production="20 ps")
    with pytest.raises(
        SimulationError,
        match=r"stopped at step \d+ .*below twice the cutoff of 0\.8 nm; use a larger box\.$",
    ):
        run_dynamics(
            potential.createSystem(topology), topology, positions, tmp_path, settings, TEMPERATURE
        )
    kept = openmm.XmlSerializer.deserialize((tmp_path / "state.xml").read_text())
    assert 1.6 <= kept.getPeriodicBoxVectors()[0][0]._value <= 1.606
    assert (tmp_path / "failure.xml").exists()
    context = openmm.Context(
        potential.createSystem(topology),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("CPU"),
    )
    context.setPeriodicBoxVectors(*kept.getPeriodicBoxVectors())
    context.setPositions(kept.getPositions())
    assert np.isfinite(context.getState(energy=True).getPotentialEnergy()._value)


def test_longer_production_continues_and_other_inputs_begin_anew(tmp_path):
    case = harmonic_case()
    run_dynamics(*case, tmp_path, protocol(), TEMPERATURE)
    first = load(tmp_path).xyz
    run_dynamics(*case, tmp_path, protocol(production="0.6 ps"), TEMPERATURE)
    longer = load(tmp_path).xyz
    assert len(longer) == 30
    np.testing.assert_allclose(longer[:20], first, atol=1e-6)
    run_dynamics(*case, tmp_path, protocol(production="0.6 ps"), TEMPERATURE, seed=2)
    other = load(tmp_path).xyz
    assert len(other) == 30
    assert np.abs(other[:20] - first).max() > 1e-3
    run_dynamics(*case, tmp_path, protocol(), TEMPERATURE, seed=2, identity="another potential")
    assert len(load(tmp_path)) == 20
    assert len(log_column(tmp_path / "state.csv", "Step")) == 20


def test_same_seed_gives_the_same_run(tmp_path):
    case = harmonic_case()
    for name in ("a", "b"):
        run_dynamics(*case, tmp_path / name, protocol(), TEMPERATURE, seed=5)
    np.testing.assert_array_equal(load(tmp_path / "a").xyz, load(tmp_path / "b").xyz)


def test_insane_timestep_is_caught(case, tmp_path):
    settings = protocol(
        timestep="500 fs", equilibration="0 ps", frame_interval="500 fs", production="20 ps"
    )
    with pytest.raises(
        SimulationError, match=r"stopped at step \d+ \(.* ps\): .*smaller time step"
    ) as caught:
        run_dynamics(*case, tmp_path, settings, TEMPERATURE)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "simulation.json").exists()


def test_explosion_keeps_trajectory_and_last_good_state(tmp_path, monkeypatch):
    system, topology, positions = harmonic_case()
    push = openmm.CustomExternalForce("-push*x")
    push.addGlobalParameter("push", 0.0)
    for k in range(len(positions)):
        push.addParticle(k, [])
    system.addForce(push)

    original = dynamics.Dynamics.save

    def save_then_push(self, simulation, steps, seconds):
        original(self, simulation, steps, seconds)
        if simulation.currentStep == 200:
            simulation.context.setParameter("push", 1e5)

    monkeypatch.setattr(dynamics.Dynamics, "save", save_then_push)
    with pytest.raises(
        SimulationError,
        match=r"step 210 \(0\.42 ps\): the temperature is \d+ K, set is 200 K, allowed 600 K",
    ):
        run_dynamics(
            system, topology, positions, tmp_path, protocol(production="1 ps"), TEMPERATURE
        )
    assert load(tmp_path).n_frames == 20  # nothing of the explosion is in it
    assert len(log_column(tmp_path / "state.csv", "Step")) == 20
    assert (
        openmm.XmlSerializer.deserialize((tmp_path / "state.xml").read_text()).getStepCount() == 200
    )
    assert (
        openmm.XmlSerializer.deserialize((tmp_path / "failure.xml").read_text()).getStepCount()
        == 210
    )


@pytest.mark.parametrize(
    ("cause", "expected"),
    [("sqrt(-1-x^2)", "energy|finite|NaN"), ("1e38*x^4", "finite|NaN|temperature")],
)
def test_energy_that_is_not_finite(tmp_path, cause, expected):
    system, topology, positions = harmonic_case()
    bad = openmm.CustomExternalForce(cause)
    bad.addParticle(0, [])
    system.addForce(bad)
    with pytest.raises(SimulationError, match=expected):
        run_dynamics(system, topology, positions, tmp_path, protocol(), TEMPERATURE)


def test_guard_allows_the_fluctuations_of_few_beads():
    system, topology = openmm.System(), app.Topology()
    system.addParticle(50.0)
    topology.addAtom("A", None, topology.addResidue("A", topology.addChain()))
    simulation = app.Simulation(
        topology,
        system,
        openmm.LangevinMiddleIntegrator(300, 5, 0.01),
        openmm.Platform.getPlatform("Reference"),
    )
    simulation.context.setPositions(np.zeros((1, 3)))
    simulation.reporters.append(ExplosionGuard(10, 300.0, 1.5))
    simulation.step(3000)  # the temperature of one bead passes 450 K in a tenth of all checks
    simulation.context.setVelocities([openmm.Vec3(5, 0, 0)])
    with pytest.raises(SimulationError, match="temperature"):
        simulation.step(10)


def test_open_boundaries(potential, tmp_path):
    types, positions = liquid(8, box=None)
    topology = bead_topology_to_openmm(beads(types))
    run_dynamics(
        potential.createSystem(topology),
        topology,
        positions,
        tmp_path,
        protocol(production="0.1 ps"),
        TEMPERATURE,
    )
    trajectory = load(tmp_path)
    assert trajectory.n_frames == 5
    assert trajectory.unitcell_vectors is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"frame_interval": "0.5 fs"},
            ConfigError,
            "frame_interval: 0.0005 ps is below the time step",
        ),
        ({"frame_interval": "1 ps"}, ConfigError, "frame_interval: 1 ps is above the production"),
        ({"platform": "Abacus"}, ConfigError, "simulation.platform: got Abacus.*Reference"),
        (
            {"timestep": "auto"},
            ConfigError,
            "timestep: is absent; write one, or let 'cgkd timestep' find one",
        ),
    ],
)
def test_bad_settings(tmp_path, changes, error, message):
    with pytest.raises(error, match=message):
        run_dynamics(*harmonic_case(), tmp_path, protocol(**changes), TEMPERATURE)


def test_pressure_without_a_box(tmp_path):
    system, topology, positions = harmonic_case()
    with pytest.raises(ConfigError, match="pressure: needs a periodic box"):
        run_dynamics(system, topology, positions, tmp_path, protocol(pressure="1 bar"), TEMPERATURE)


def test_topology_file_opens_in_openmm_too(case, tmp_path):
    run_dynamics(*case, tmp_path, protocol(production="0.02 ps"), TEMPERATURE)
    pdb = app.PDBFile(str(tmp_path / "topology.pdb"))
    assert [atom.name for atom in pdb.topology.atoms()] == [atom.name for atom in case[1].atoms()]
    assert {atom.name for atom in pdb.topology.atoms()} == set(NAMES)
    box = np.array(pdb.topology.getPeriodicBoxVectors().value_in_unit(unit.nanometer))
    np.testing.assert_allclose(box, CUBIC, atol=1e-4)
