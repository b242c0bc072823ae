"""Teachers at run time: their mean as a potential, their disagreement along a trajectory."""

import csv
import json

import h5py
import numpy as np
import openmm
import pytest
import torch
from openmm import app

from openmm_cgkd import CGPotential
from openmm_cgkd.config.run import SimulationConfig, load_run
from openmm_cgkd.exceptions import ConfigError, ModelFileError, SimulationError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.potential.export import write_potential
from openmm_cgkd.potential.network import TensorNetEnergies
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.simulation.committee import Committee, CommitteeReporter, SpreadRange
from openmm_cgkd.simulation.dynamics import run_dynamics
from openmm_cgkd.simulation.ensemble import EnsemblePotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.stages.committee import export_members, labeled_range
from tests.cases.potential import CUBIC, NAMES, PRIOR, beads, liquid, metadata, torchmd_network

TYPES, POSITIONS = liquid()


@pytest.fixture(scope="module")
def members(tmp_path_factory):
    """Three potentials that differ in the scale of their energies."""
    folder = tmp_path_factory.mktemp("members")
    files = []
    for k, scale in enumerate((20.0, 30.0, 55.0)):
        network = TensorNetEnergies(torchmd_network(scale))
        files.append(
            write_potential(folder / f"{k}.pt", network, PRIOR, metadata(), TYPES, POSITIONS, CUBIC)
        )
    return files


@pytest.fixture(scope="module")
def topology():
    return bead_topology_to_openmm(beads(TYPES), CUBIC)


def energy_and_forces(system, positions=POSITIONS, platform="CPU"):
    context = openmm.Context(
        system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform(platform)
    )
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def member_forces(file, positions=POSITIONS):
    """Straight from the file's TorchScript, without OpenMM."""
    module = torch.jit.load(str(file)).double()
    module.set_types(torch.from_numpy(TYPES))
    at = torch.tensor(positions, requires_grad=True)
    energy = module(at, torch.tensor(CUBIC))
    return energy.item(), -torch.autograd.grad(energy, at)[0].numpy()


@pytest.mark.parametrize("platform", ["Reference", "CPU"])
def test_ensemble_is_the_mean_of_its_members(members, topology, platform):
    energy, forces = energy_and_forces(
        EnsemblePotential(members).createSystem(topology), platform=platform
    )
    energies, expected = zip(*map(member_forces, members), strict=True)
    assert energy == pytest.approx(np.mean(energies), rel=1e-5)
    np.testing.assert_allclose(
        forces, np.mean(expected, axis=0), atol=1e-4 * np.abs(expected).max()
    )


def test_ensemble_system_is_as_the_members(members, topology):
    system, single = (
        EnsemblePotential(members).createSystem(topology),
        CGPotential(members[0]).createSystem(topology),
    )
    assert [system.getParticleMass(k) for k in range(30)] == [
        single.getParticleMass(k) for k in range(30)
    ]
    assert system.usesPeriodicBoundaryConditions()
    np.testing.assert_allclose(
        [list(row._value) for row in system.getDefaultPeriodicBoxVectors()], CUBIC
    )
    assert any(isinstance(force, openmm.CMMotionRemover) for force in system.getForces())
    # whole box vectors change nothing
    moved = POSITIONS + np.random.default_rng(1).integers(-2, 3, (30, 3)) @ CUBIC
    assert energy_and_forces(system, moved)[0] == pytest.approx(
        energy_and_forces(system)[0], rel=1e-5
    )
    open_box = bead_topology_to_openmm(beads(TYPES))
    assert (
        not EnsemblePotential(members[:2]).createSystem(open_box).usesPeriodicBoundaryConditions()
    )


def test_spread_is_that_of_the_members_and_follows_the_box(members, topology):
    committee = Committee(members, topology, platform="CPU")
    expected = np.array([member_forces(file)[1] for file in members])
    np.testing.assert_allclose(
        committee.forces(POSITIONS), expected, atol=1e-4 * np.abs(expected).max()
    )
    spread = np.sqrt(((expected - expected.mean(axis=0)) ** 2).sum(axis=0).mean(axis=1) / 2)
    np.testing.assert_allclose(committee.spread(POSITIONS), spread, rtol=1e-3, atol=1e-3)
    wide = committee.spread(POSITIONS, 3 * CUBIC * openmm.unit.nanometer)
    assert np.abs(wide - spread).max() > 1e-2 * spread.max()  # neighbours across the faces are gone


def dynamics(members, topology, reporters, steps):
    """Positions after some steps of constant-energy dynamics with the first member."""
    system = CGPotential(members[0]).createSystem(topology)
    simulation = app.Simulation(
        topology, system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatform("Reference")
    )
    simulation.context.setPositions(POSITIONS)
    simulation.reporters.extend(reporters)
    simulation.step(steps)
    return simulation.context.getState(positions=True).getPositions(asNumpy=True)._value


def test_reporter_writes_the_spread_and_leaves_the_dynamics_alone(members, topology, tmp_path):
    committee = Committee(members, topology, platform="Reference")
    known = SpreadRange.of(np.full((1, 30), 1e6), committee.names)
    reporter = CommitteeReporter(tmp_path / "committee.csv", 4, committee, known)
    end = dynamics(members, topology, [reporter], 12)
    np.testing.assert_array_equal(end, dynamics(members, topology, [], 12))
    with open(tmp_path / "committee.csv") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["4", "8", "12"]
    assert [float(row["time (ps)"]) for row in rows] == pytest.approx([0.002, 0.004, 0.006])
    spread = committee.spread(end)
    for kind, name in enumerate(NAMES):
        assert float(rows[-1][f"{name} mean (kJ/mol/nm)"]) == pytest.approx(
            spread[kind == TYPES].mean(), rel=1e-3
        )
        assert float(rows[-1][f"{name} largest (kJ/mol/nm)"]) == pytest.approx(
            spread[kind == TYPES].max(), rel=1e-3
        )


def test_leaving_the_known_range(members, topology, tmp_path, caplog):
    committee = Committee(members, topology, platform="Reference")
    spread = committee.spread(POSITIONS)
    known = SpreadRange.of(spread[None], committee.names)
    assert known.largest["CL"] == pytest.approx(spread[TYPES == 1].max())

    def reporter(ratio, action):
        return CommitteeReporter(tmp_path / "committee.csv", 1, committee, known, ratio, action)

    dynamics(members, topology, [reporter(2.0, "stop")], 3)  # stays within
    assert not caplog.records
    dynamics(members, topology, [reporter(0.5, "warn")], 3)
    assert len(caplog.records) == 3  # once per bead type
    assert "outside of what the student has learnt" in caplog.text
    with pytest.raises(
        SimulationError,
        match=r"stopped at step 1 .*disagreement on average of type \w+ is .* above 0.5 times the",
    ):
        dynamics(members, topology, [reporter(0.5, "stop")], 3)


def test_range_is_taken_per_type_and_frame():
    spread = np.array([[1.0, 3.0, 10.0], [2.0, 4.0, 7.0]])
    known = SpreadRange.of(spread, ["A", "A", "B"])
    assert known.mean == {"A": 3.0, "B": 10.0}
    assert known.largest == {"A": 4.0, "B": 10.0}


def test_dynamics_with_a_committee_resumes(members, topology, tmp_path):
    settings = {
        "timestep": "0.5 fs",
        "equilibration": "0 ps",
        "frame_interval": "1 fs",
        "platform": "CPU",
        "committee": {"interval": "2 fs"},
    }
    committee = Committee(members, topology, platform="CPU")
    watch = committee, SpreadRange.of(np.full((1, 30), 1e6), committee.names)
    for folder, productions in (("parts", ("10 fs", "20 fs")), ("whole", ("20 fs",))):
        for production in productions:
            protocol = SimulationConfig(**settings, production=production)
            system = CGPotential(members[0]).createSystem(topology)
            run_dynamics(
                system, topology, POSITIONS, tmp_path / folder, protocol, 1000.0, committee=watch
            )
    lines = (tmp_path / "parts" / "committee.csv").read_text().splitlines()
    assert [int(line.split(",")[0]) for line in lines[1:]] == list(range(4, 41, 4))
    for name in ("committee.csv", "state.xml"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_bad_members(members, topology, tmp_path):
    with pytest.raises(ConfigError, match="at least two members, got 1"):
        Committee(members[:1], topology)
    with pytest.raises(ModelFileError, match="1 to 32 members, got 0"):
        EnsemblePotential([])
    with pytest.raises(SimulationError, match="Platform Abacus cannot run the committee"):
        Committee(members, topology, platform="Abacus")
    other = metadata(masses=[1.0, 2.0, 3.0])
    file = write_potential(
        tmp_path / "other.pt",
        TensorNetEnergies(torchmd_network()),
        PRIOR,
        other,
        TYPES,
        POSITIONS,
        CUBIC,
    )
    with pytest.raises(ModelFileError, match="other bead types or masses"):
        EnsemblePotential([members[0], file])


def test_teachers_of_a_run(finished_run):
    path, result = finished_run
    assert result.returncode == 0, result.stderr
    run = load_run(path)
    frames = read_frames(RunFolder(run).frames)
    files = export_members(run, frames)
    assert [file.parent.name for file in files] == ["00", "01"]
    stamps = [file.stat().st_mtime_ns for file in files]
    assert [file.stat().st_mtime_ns for file in export_members(run, frames)] == stamps  # made once
    committee = Committee(
        files, bead_topology_to_openmm(frames.beads, frames.box[3]), platform="CPU"
    )
    with h5py.File(RunFolder(run).labels) as labels:
        expected = labels["force_spread"][3]
    # the labels are of the networks alone, and the prior, which all share, takes no part in the
    # spread
    np.testing.assert_allclose(
        committee.spread(frames.positions[3].astype(float)),
        expected,
        rtol=1e-2,
        atol=1e-3 * expected.max(),
    )
    known = labeled_range(run, frames)
    assert set(known.largest) == {"A", "B"}
    assert known.largest["A"] >= expected[frames.beads.types == 0].max() - 1e-5
    assert json.loads((RunFolder(run).root / "stages" / "export-teacher-00.json").read_text())[
        "checkpoint"
    ]
