"""Two beads per molecule from the all-atom fluid to dynamics.

Map, train, export, finite differences, bond lengths.
"""

from pathlib import Path

import mdtraj
import numpy as np
import openmm
import pytest
import yaml
from openmm import unit

from openmm_cgkd import CGPotential
from openmm_cgkd.allatom.build import create_system, pack
from openmm_cgkd.allatom.reporter import MappedReporter
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.mapping.mapping import mapping_from_config
from openmm_cgkd.potential.bonded import nearest_vectors
from openmm_cgkd.potential.metadata import read_metadata
from openmm_cgkd.simulation.outputs import write_topology
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.stages.export import export_student
from openmm_cgkd.stages.inputs import fit_prior_of
from openmm_cgkd.stages.label import label_run
from openmm_cgkd.stages.on_policy import train_on_policy
from openmm_cgkd.stages.teach import ensemble_task
from openmm_cgkd.training.ensemble import train_member
from tests.cases.fluids import COUNTS, ETHALINE, simulation_of, small_config
from tests.cases.training import ignore

BEADS = [
    {"type": "CHM", "molecule": "CHO", "selection": "not name CS CW OY HY HS1 HS2 HW1 HW2"},
    {"type": "CHE", "molecule": "CHO", "selection": "name CS CW OY HY HS1 HS2 HW1 HW2"},
    {"type": "CL", "molecule": "CL"},
    {"type": "EGH", "molecule": "EGL", "selection": "name C1 O1 HO1 H11 H12"},
    {"type": "EGH", "molecule": "EGL", "selection": "name C2 O2 HO2 H21 H22"},
]


@pytest.fixture(scope="module")
def frames_file(tmp_path_factory) -> Path:
    """0.8 ps of the all-atom fluid, mapped while it runs."""
    config = small_config()
    data = yaml.safe_load((ETHALINE / "system.yaml").read_text()) | {"beads": BEADS}
    data["molecules"] = [dict(m, count=COUNTS[m["name"]]) for m in data["molecules"]]
    topology, positions = pack(config)
    system = create_system(config, topology)
    simulation = simulation_of(config, system, topology, positions)
    simulation.step(200)
    mapping = mapping_from_config(
        parse(SystemConfig, data, "two beads", ETHALINE), mdtraj.Topology.from_openmm(topology)
    )
    path = tmp_path_factory.mktemp("aa") / "frames.h5"
    reporter = MappedReporter(
        path, 10, mapping, {"system": "two beads", "temperature": config.temperature}
    )
    simulation.reporters = [reporter]
    simulation.step(800)
    reporter.close()
    return path


@pytest.fixture(scope="module")
def student(frames_file, tmp_path_factory) -> Path:
    """One teacher, labels and a student, one epoch each; exported."""
    training = {"epochs": 1, "batch_size": 4}
    data = {
        "system": "system.yaml",
        "folder": "run",
        "frames": str(frames_file),
        "split": {"gap": "0 ps"},
        "model": {"channels": 8, "cutoff": "0.7 nm", "radial_functions": 8},
        "teachers": {"count": 1, "blocks": 4, "training": training},
        "student": {"training": training},
    }
    run = parse(RunConfig, data, "test", tmp_path_factory.mktemp("student"))
    fit_prior_of(run, read_frames(frames_file))
    train_member(ensemble_task(run), 0, ignore)
    label_run(run)
    train_on_policy(run)
    return export_student(run)


def lengths(positions: np.ndarray, box: np.ndarray, frames: Frames) -> dict[str, np.ndarray]:
    """Bond lengths of one configuration by bead types."""
    found = np.linalg.norm(nearest_vectors(positions, box, *frames.beads.bonds.T), axis=1)
    names = ["-".join(frames.beads.names[k] for k in bond) for bond in frames.beads.bonds]
    return {name: found[[other == name for other in names]] for name in set(names)}


def test_mapped_molecules(frames_file):
    frames = read_frames(frames_file)
    assert frames.beads.names == ["CHM", "CHE"] * 3 + ["CL"] * 3 + ["EGH"] * 12
    assert frames.beads.bonds.tolist() == [[k, k + 1] for k in (0, 2, 4, *range(9, 21, 2))]
    mean = {
        name: values.mean()
        for name, values in lengths(frames.positions[-1], frames.box[-1], frames).items()
    }
    # C-C and C-N bonds of 0.15 nm with what hangs on them
    assert 0.2 < mean["EGH-EGH"] < mean["CHM-CHE"] < 0.4


def test_finite_differences_in_a_context(student, frames_file):
    frames = read_frames(frames_file)
    bonded = read_metadata(student).prior["bonded"]
    assert bonded["molecules"][0] == {"beads": ["CHM", "CHE"], "bonds": [[0, 1]]}
    assert {tuple(term["types"]) for term in bonded["bonds"]} == {("CHM", "CHE"), ("EGH", "EGH")}
    for engine in ("fast", "portable"):
        system = CGPotential(student, engine).createSystem(
            bead_topology_to_openmm(frames.beads, frames.box[-1])
        )
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
        )
        x, rng = frames.positions[-1].astype(float), np.random.default_rng(1)

        def energy(at, context=context):
            context.setPositions(at)
            return context.getState(energy=True).getPotentialEnergy()._value

        context.setPositions(x)
        forces = context.getState(forces=True).getForces(asNumpy=True)._value
        for direction in (rng.normal(size=x.shape), np.eye(1, x.size, 3 * 9).reshape(x.shape)):
            slope = sum(
                c * (energy(x + h * direction) - energy(x - h * direction)) / (2 * h)
                for c, h in ((4 / 3, 1e-4), (-1 / 3, 2e-4))
            )
            assert -np.sum(forces * direction) == pytest.approx(
                slope, rel=1e-3, abs=2e-3 * np.abs(forces).max()
            )


def test_topology_file_says_enough(student, frames_file, tmp_path):
    """As a user begins: from the PDB file that a simulation writes.

    Beads of one molecule may have one name there.
    """
    frames = read_frames(frames_file)
    topology = bead_topology_to_openmm(frames.beads, frames.box[-1])
    write_topology(tmp_path / "topology.pdb", topology, frames.positions[-1], frames.box[-1])
    energies = []
    for each in (topology, openmm.app.PDBFile(str(tmp_path / "topology.pdb")).topology):
        system = CGPotential(student).createSystem(each, boxVectors=frames.box[-1])
        context = openmm.Context(
            system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatform("Reference")
        )
        context.setPositions(frames.positions[-1])
        energies.append(context.getState(energy=True).getPotentialEnergy()._value)
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)


def test_dynamics_keeps_bonds(student, frames_file):
    frames = read_frames(frames_file)
    topology = bead_topology_to_openmm(frames.beads, frames.box[-1])
    integrator = openmm.LangevinMiddleIntegrator(frames.temperature, 5.0, 0.002)
    integrator.setRandomNumberSeed(3)
    system = CGPotential(student).createSystem(topology)
    simulation = openmm.app.Simulation(
        topology, system, integrator, openmm.Platform.getPlatform("CPU")
    )
    simulation.context.setPositions(frames.positions[-1])
    # two beads may be nearer than ever in the few training frames, deep in the prior's wall
    simulation.minimizeEnergy()
    simulation.context.setVelocitiesToTemperature(frames.temperature, 3)
    simulation.step(300)
    found: dict[str, list[np.ndarray]] = {}
    for _ in range(100):
        simulation.step(15)
        positions = (
            simulation.context.getState(positions=True)
            .getPositions(asNumpy=True)
            .value_in_unit(unit.nanometer)
        )
        for name, values in lengths(positions, frames.box[-1], frames).items():
            found.setdefault(name, []).append(values)
    for name, values in found.items():
        reference = np.concatenate(
            [
                lengths(x, box, frames)[name]
                for x, box in zip(frames.positions, frames.box, strict=True)
            ]
        )
        print(name, np.mean(values), np.std(values), reference.mean(), reference.std())
        assert np.mean(values) == pytest.approx(reference.mean(), abs=0.015)
        assert np.std(values) == pytest.approx(reference.std(), rel=0.5)
