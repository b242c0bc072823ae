"""What version 0.1 wrote is read today, with the same numbers."""

import csv
import shutil

import numpy as np
import openmm
import pytest

from openmm_cgkd import operators  # noqa: F401  what a reader of saved systems imports
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.mean_forces.file import read_mean_forces
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.metadata import read_metadata
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.simulation.cgpotential import CGPotential
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.training.fit import fit
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.labels import load_labels
from openmm_cgkd.training.predict import predict
from tests.cases.old_files import FOLDER, expected, read_system
from tests.cases.training import CUTOFF, ignore, make_frames, make_task


@pytest.fixture(scope="module")
def frames():
    return read_frames(FOLDER / "frames.h5")


@pytest.fixture(scope="module")
def graphs(frames):
    return FrameGraphs(frames, CUTOFF, read_prior(FOLDER / "prior.json"))


def energy_and_forces(system, positions):
    platform = openmm.Platform.getPlatform("Reference")
    context = openmm.Context(system, openmm.VerletIntegrator(0.001), platform)
    context.setPositions(positions)
    state = context.getState(energy=True, forces=True)
    return state.getPotentialEnergy()._value, state.getForces(asNumpy=True)._value


def test_frames(frames):
    made = make_frames(20, 12, noise=1.0)[0]
    for name in ("positions", "forces", "box", "time", "step"):
        np.testing.assert_allclose(getattr(frames, name), getattr(made, name), rtol=1e-6)
    np.testing.assert_array_equal(frames.forces[:4], expected()["forces"])
    assert frames.beads.type_names == ("A", "B")


def test_prior_and_checkpoints(frames, graphs):
    numbers = expected()
    np.testing.assert_allclose(graphs.prior_forces[:4], numbers["prior_forces"], atol=1e-3)
    for name in ("teacher", "student_checkpoint"):
        network, content = load_checkpoint(FOLDER / f"{name}.pt")
        assert content["frames"] == frames.identity
        forces, energies = predict(network, graphs, range(4))
        np.testing.assert_allclose(forces, numbers[f"{name}_forces"], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(energies, numbers[f"{name}_energies"], rtol=1e-4, atol=1e-5)


def test_labels(frames):
    numbers, labels = expected(), load_labels(FOLDER / "labels.h5", frames)
    np.testing.assert_array_equal(labels.forces[:4], numbers["labels_forces"])
    np.testing.assert_array_equal(labels.energies[:4], numbers["labels_energies"])
    assert (labels.force_spread > 0).all()


def test_mean_forces(frames):
    mean_forces = read_mean_forces(FOLDER / "mean_forces.h5")
    np.testing.assert_allclose(mean_forces.forces, frames.forces[:3], rtol=1e-6)
    np.testing.assert_allclose(mean_forces.positions, frames.positions[:3], rtol=1e-6)
    error = np.random.default_rng(1).uniform(1, 2, frames.forces[:3].shape)
    np.testing.assert_allclose(mean_forces.standard_error, error, rtol=1e-6)
    assert mean_forces.attributes["restraint_constant"] == 50000


@pytest.mark.parametrize("file", ["student.pt", "student-fast.pt"])
@pytest.mark.parametrize("engine", ["fast", "fused", "portable"])
def test_potential_files(frames, file, engine):
    """Both engines of 0.1 from both files; "fused" is what 0.1 called the engine "fast"."""
    assert read_metadata(FOLDER / file).cutoff == pytest.approx(CUTOFF)
    potential = CGPotential(FOLDER / file, engine)
    system = potential.createSystem(bead_topology_to_openmm(frames.beads, frames.box[0]))
    check(system, frames, "portable" if engine == "portable" else "fused")


@pytest.mark.parametrize("engine", ["fused", "portable"])
def test_systems_saved_as_xml(frames, engine):
    check(read_system(engine), frames, engine)


def check(system, frames, engine):
    numbers = expected()
    energy, forces = energy_and_forces(system, frames.positions[0].astype(float))
    assert energy == pytest.approx(float(numbers[f"{engine}_energy"]), rel=1e-5)
    np.testing.assert_allclose(forces, numbers[f"{engine}_forces"], rtol=1e-5, atol=1e-4)


def test_interrupted_training_goes_on(tmp_path, graphs):
    """To the metrics of the training that was not interrupted, and not from the beginning."""
    shutil.copytree(FOLDER / "interrupted", tmp_path / "run")
    epochs = []
    best = fit(make_task(tmp_path / "run", graphs), lambda done, _: epochs.append(done))
    assert min(epochs) * 4 > 2
    with (
        open(tmp_path / "run" / "metrics.csv") as file,
        open(FOLDER / "metrics_uninterrupted.csv") as other,
    ):
        for row, wanted in zip(csv.DictReader(file), csv.DictReader(other), strict=True):
            assert row.keys() == wanted.keys()
            for name, value in wanted.items():
                assert float(row[name]) == pytest.approx(float(value), rel=1e-3, abs=1e-6), name
    forces = predict(load_checkpoint(best)[0], graphs, range(4))[0]
    np.testing.assert_allclose(forces, expected()["resumed_forces"], rtol=1e-2, atol=1e-3)
    assert fit(make_task(tmp_path / "run", graphs), ignore) == best
