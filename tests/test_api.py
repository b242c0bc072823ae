"""The package as a library: the public names, and the whole pipeline without a run.yaml."""

from __future__ import annotations

import inspect
import subprocess
import sys

import mdtraj
import numpy as np
import openmm
import pytest
import torch
from openmm import unit
from torch import nn

import openmm_cgkd as cgkd
from openmm_cgkd.exceptions import ConfigError, ModelFileError
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.custom_network import build_network
from openmm_cgkd.potential.forces import energies_and_forces
from openmm_cgkd.potential.pairs import find_pairs
from openmm_cgkd.potential.prior import Prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.simulation.engines import check_stack
from openmm_cgkd.simulation.topology import bead_topology_to_openmm
from openmm_cgkd.training.labels import load_labels
from openmm_cgkd.utils.seeds import derived_seed
from tests.cases.pair_network import PairNetwork

LIGHT = "import sys, openmm_cgkd; print({'torch', 'openmm', 'numpy', 'h5py'} & set(sys.modules))"
TRAINING = cgkd.TrainingConfig(epochs=2, batch_size=4)
TEACHERS = cgkd.TeachersConfig(count=2, blocks=4, training=TRAINING)
SPLIT = cgkd.SplitConfig(gap="0 ps")
TENSORNET = cgkd.ModelConfig(channels=8, cutoff="0.9 nm", radial_functions=8)
OWN = cgkd.CustomNetwork(PairNetwork, cutoff=0.9, options={"width": 10})
MD = cgkd.SimulationConfig(
    timestep="2 fs",
    equilibration="0.1 ps",
    production="0.8 ps",
    frame_interval="0.04 ps",
    platform="CPU",
)


def test_import_is_light():
    result = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result.stderr


@pytest.mark.parametrize("name", [name for name in cgkd.__all__ if name != "__version__"])
def test_public_names_are_documented_and_typed(name):
    value = getattr(cgkd, name)
    assert inspect.getdoc(value)
    assert name in dir(cgkd)
    if inspect.isfunction(value):
        assert inspect.signature(value).return_annotation is not inspect.Signature.empty


def test_unknown_name():
    with pytest.raises(AttributeError, match="no attribute 'distil'"):
        cgkd.distil  # noqa: B018


@pytest.fixture(scope="module")
def trained(lj_frames, tmp_path_factory):
    """Frames, prior, and student checkpoints of TensorNet and of a user's own network."""
    folder = tmp_path_factory.mktemp("api")
    frames = cgkd.read_frames(lj_frames)
    prior = cgkd.fit_prior(frames)
    students = {}
    for name, network in (("tensornet", TENSORNET), ("own", OWN)):
        here = folder / name
        ensemble = cgkd.train_ensemble(
            frames, here / "teachers", prior, network, TEACHERS, SPLIT, workers=2
        )
        labels = cgkd.label_frames(frames, ensemble, here / "labels.h5", SPLIT)
        students[name] = cgkd.distill(
            frames, labels, here / "student", prior, network, TRAINING, split=SPLIT
        )
    return folder, frames, prior, students


def test_labels_are_the_mean_of_the_teachers(trained):
    folder, frames, _, _ = trained
    labels = load_labels(folder / "own" / "labels.h5", frames)
    k, forces = 7, []
    for member in range(2):
        network, _ = load_checkpoint(folder / "own" / "teachers" / f"{member:02d}/best.pt", OWN)
        pairs = find_pairs(frames.positions[k], frames.box[k], 0.9)
        forces.append(of_network(network, frames, k, pairs)[1])
    assert np.abs(forces[0] - forces[1]).max() > 1e-3
    np.testing.assert_allclose(labels.forces[k], np.mean(forces, axis=0), atol=2e-3)


def of_network(network, frames, k, pairs):
    """Per-bead energies and forces of one frame in double precision."""
    energies, forces = energies_and_forces(
        network.double(),
        torch.from_numpy(frames.beads.types.astype(np.int64)),
        torch.from_numpy(frames.positions[k].astype(float)),
        *(torch.from_numpy(values) for values in (pairs.first, pairs.second, pairs.shifts)),
    )
    return energies.detach().numpy(), forces.numpy()


@pytest.mark.parametrize("name", ["tensornet", "own"])
def test_student_runs_in_openmm(trained, tmp_path, name):
    check_stack()
    _, frames, prior, students = trained
    custom = OWN if name == "own" else None
    file = cgkd.export_potential(students[name], tmp_path / "student.pt", frames, prior, custom)
    assert (tmp_path / "student-fast.pt").exists() == (name == "tensornet")
    if name == "own":  # its network is in the script alone
        with pytest.raises(ModelFileError, match="can do whatever you can do"):
            cgkd.CGPotential(file)
    potential = cgkd.CGPotential(file, run_script=name == "own")
    assert potential.engine == ("portable" if name == "own" else "fast")

    # forces in OpenMM are those of the network and the prior, by a separate sum
    topology = bead_topology_to_openmm(frames.beads, frames.box[-1])
    context = openmm.Context(
        potential.createSystem(topology),
        openmm.VerletIntegrator(0.001),
        openmm.Platform.getPlatform("CPU"),
    )
    context.setPositions(frames.positions[-1])
    found = context.getState(forces=True).getForces(asNumpy=True)
    found = found.value_in_unit(unit.kilojoule_per_mole / unit.nanometer)
    network, _ = load_checkpoint(students[name], custom)
    positions, box = frames.positions[-1].astype(float), frames.box[-1]
    pairs = find_pairs(positions, box, 0.9)
    repulsion = Prior(prior, 0.9, frames.beads.types, frames.beads.bonds)
    expected = of_network(network, frames, -1, pairs)[1]
    expected = expected + repulsion.energy_and_forces(positions, box, pairs)[1]
    np.testing.assert_allclose(found, expected, atol=2e-4 * np.abs(expected).max())

    trajectory = cgkd.simulate(potential, frames, tmp_path / "md", MD)
    assert len(mdtraj.load(str(trajectory), top=frames.beads.to_mdtraj())) == 20
    settings = cgkd.ComparisonConfig(bins=20)
    comparison = cgkd.compare(frames, trajectory, tmp_path / "comparison", settings)
    (result,) = comparison.results
    assert set(result.of_kind("rdf")) == {("A", "A"), ("A", "B"), ("B", "B")}
    for path in ("comparison.json", "rdf.csv", "rdf.png"):
        assert (tmp_path / "comparison" / path).stat().st_size > 0


def test_stages_give_what_the_library_gives(finished_run, tmp_path):
    path, result = finished_run
    assert result.returncode == 0, result.stderr
    run = cgkd.load_run(path)
    folder, frames = RunFolder(run), cgkd.read_frames(run.frames)
    student = cgkd.distill(
        frames,
        folder.labels,
        tmp_path / "student",
        cgkd.fit_prior(frames[: len(frames) - 12], run.prior),
        run.model,
        run.student.training,
        run.student.weights,
        run.split,
        seed=derived_seed(run.seed, "student"),
    )
    whole = load_checkpoint(folder.student / "best.pt")[0].state_dict()
    library = load_checkpoint(student)[0].state_dict()
    # threads differ between the processes, and rounding with them
    for name, weights in whole.items():
        torch.testing.assert_close(library[name], weights, rtol=1e-3, atol=1e-4)


def test_checkpoint_of_an_own_network_needs_it(trained):
    student = trained[3]["own"]
    with pytest.raises(ModelFileError, match="and none was given; give the same"):
        load_checkpoint(student)
    other = cgkd.CustomNetwork(PairNetwork, cutoff=0.9, options={"width": 11})
    with pytest.raises(ModelFileError, match="'width': 11"):
        load_checkpoint(student, other)


def test_engines_that_do_not_know_an_own_network(trained, tmp_path, monkeypatch):
    # as if PythonForce could run here; a missing library is refused before the file is read
    monkeypatch.setattr("openmm_cgkd.simulation.cgpotential.check_python_force", lambda: None)
    _, frames, prior, students = trained
    file = cgkd.export_potential(students["own"], tmp_path / "own.pt", frames, prior, OWN)
    for engine in ("fast", "python"):
        with pytest.raises(ModelFileError, match=f"the engine {engine} does not know"):
            cgkd.CGPotential(file, engine, run_script=True)


class Total(PairNetwork):
    """Gives the energy of all beads together."""

    def forward(self, types, first, second, vectors):
        return vectors.sum() * self.energy[0].weight.sum()


class Detached(PairNetwork):
    """Gives energies without a gradient."""

    def forward(
        self,
        types: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        vectors: torch.Tensor,
    ) -> torch.Tensor:
        return torch.zeros(types.shape[0])


class Empty(nn.Module):
    """Has nothing to train."""

    def __init__(self, n_types: int, cutoff: float, scale: float) -> None:
        super().__init__()


class Untranslatable(PairNetwork):
    """TorchScript knows no dictionaries of mixed types."""

    def forward(
        self,
        types: torch.Tensor,
        first: torch.Tensor,
        second: torch.Tensor,
        vectors: torch.Tensor,
    ) -> torch.Tensor:
        return {"a": 1, 2: vectors}["a"]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (Total, r"shape \(\) for 2 beads"),
        (Detached, "cannot be differentiated"),
        (Empty, "has no parameters"),
        (Untranslatable, "TorchScript cannot compile it"),
        (lambda **_: 3, "made a int"),
    ],
)
def test_network_that_breaks_the_protocol_is_refused_before_training(build, message):
    with pytest.raises(ConfigError, match=message):
        build_network(cgkd.CustomNetwork(build, cutoff=0.9), 2, 2.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"cutoff": 0.0}, "CustomNetwork.cutoff: got 0.0"),
        ({"cutoff": float("nan")}, "CustomNetwork.cutoff: got nan"),
        ({"cutoff": 0.9, "options": {"f": print}}, "CustomNetwork.options"),
    ],
)
def test_settings_of_an_own_network(values, message):
    with pytest.raises(ConfigError, match=message):
        cgkd.CustomNetwork(PairNetwork, **values)
