"""Labels, their gauge, the force-energy check, and students of every kind."""

from __future__ import annotations

import csv
import json

import h5py
import numpy as np
import pytest
import torch
from torch import nn
from training_cases import CUTOFF, make_frames, make_run

from openmm_cgkd.exceptions import BoxError, FramesError, TrainingError
from openmm_cgkd.files import file_hash
from openmm_cgkd.potential.tensornet import build_tensornet
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.training.checkpoint import load_checkpoint, save_checkpoint
from openmm_cgkd.training.consistency import check_consistency
from openmm_cgkd.training.data import FrameGraphs, load_prior, split_run, write_prior
from openmm_cgkd.training.distill import CONSISTENCY, train_student
from openmm_cgkd.training.fit import BEST, METRICS
from openmm_cgkd.training.label import combine, label_frames, load_labels, predict
from openmm_cgkd.training.teach import train_member


@pytest.fixture(scope="module")
def frames():
    return make_frames(20, 12, noise=1.0)[0]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory, frames):
    """A run with two trained teachers and their labels."""
    run = make_run(tmp_path_factory.mktemp("labelled"), frames)
    write_prior(run, frames)
    for k in range(2):
        train_member(run, k, "inputs", lambda epochs, note: None)
    label_frames(run)
    return run


def test_labels_are_the_mean_of_the_teachers(labelled, frames):
    folder = RunFolder(labelled)
    labels = load_labels(folder.labels, frames)
    graphs = FrameGraphs(frames, CUTOFF, load_prior(folder.prior))
    networks = [load_checkpoint(folder.teacher(k) / BEST)[0] for k in range(2)]
    (f0, e0), (f1, e1) = (predict(network, graphs, np.arange(len(frames))) for network in networks)
    assert np.abs(f0 - f1).max() > 1  # the members differ
    np.testing.assert_allclose(labels.forces, (f0 + f1) / 2, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(labels.single_forces, f0, rtol=1e-5, atol=1e-3)
    spread = np.sqrt(((f0 - f1) ** 2 / 2).mean(axis=-1))  # standard deviation of two values: |difference| / sqrt(2)
    np.testing.assert_allclose(labels.force_spread, spread, rtol=1e-4, atol=1e-3)
    training = split_run(labelled, frames).training
    centred = []
    for energies in (e0, e1):
        energies = energies.astype(float)
        for kind in (0, 1):
            energies[:, frames.beads.types == kind] -= energies[np.ix_(training, frames.beads.types == kind)].mean()
        centred.append(energies)
    np.testing.assert_allclose(labels.energies, (centred[0] + centred[1]) / 2, atol=1e-4)
    np.testing.assert_allclose(labels.single_energies, centred[0], atol=1e-4)
    np.testing.assert_allclose(labels.energy_spread, np.abs(centred[0] - centred[1]) / np.sqrt(2), atol=1e-4)


def test_labels_say_where_they_come_from(labelled, frames):
    folder = RunFolder(labelled)
    attributes = load_labels(folder.labels, frames).attributes
    assert attributes["frames"] == frames.identity
    assert list(attributes["teachers"]) == [file_hash(folder.teacher(k) / BEST) for k in range(2)]
    assert attributes["prior included"] == "no"
    assert attributes["energy_offsets"].shape == (2, 2)
    assert (attributes["consistency_max"] < 1e-4).all()
    validation = split_run(labelled, frames).validation
    graphs = FrameGraphs(frames, CUTOFF, load_prior(folder.prior))
    error = load_labels(folder.labels, frames).forces[validation] + graphs.prior_forces[validation] - frames.forces[validation]
    assert attributes["validation_force_rmse"] == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-4)
    assert attributes["validation_force_ratio"] == pytest.approx(np.mean(error**2) / frames.forces[validation].var(), rel=1e-4)
    assert "force RMSE against mapped forces" in folder.log("label").read_text()
    with h5py.File(folder.labels) as file:
        assert file["forces"].dtype == np.float32
        assert file["forces"].attrs["unit"] == "kJ/mol/nm"


def test_finished_labels_are_kept(labelled):
    path = RunFolder(labelled).labels
    before = path.stat().st_mtime_ns
    assert label_frames(labelled) == path
    assert path.stat().st_mtime_ns == before


def test_energy_zero_of_a_teacher_does_not_matter():
    random = np.random.default_rng(0)
    forces, energies = random.normal(size=(3, 10, 6, 3)), random.normal(size=(3, 10, 6))
    types, training = np.array([0, 0, 1, 1, 2, 2]), np.arange(7)
    plain = combine(forces, energies, types, training)
    shifted = energies.copy()
    shifted[1] += np.array([100.0, -40.0, 7.0])[types]
    moved = combine(forces, shifted, types, training)
    for name in ("forces", "energies", "force_spread", "energy_spread", "single_energies"):
        np.testing.assert_allclose(getattr(moved, name), getattr(plain, name), atol=1e-10)
    np.testing.assert_allclose(moved.attributes["energy_offsets"][1] - plain.attributes["energy_offsets"][1], [100, -40, 7])
    for kind in range(3):
        assert plain.energies[training][:, types == kind].mean() == pytest.approx(0, abs=1e-12)
        assert abs(plain.energies[:, types == kind].mean()) > 1e-4  # over the training frames, not over all


def test_one_teacher_has_no_spread():
    random = np.random.default_rng(0)
    labels = combine(random.normal(size=(1, 4, 2, 3)), random.normal(size=(1, 4, 2)), np.array([0, 1]), np.arange(4))
    np.testing.assert_array_equal(labels.force_spread, 0)
    np.testing.assert_array_equal(labels.forces, labels.single_forces)


def test_labels_of_other_frames_are_refused(labelled, frames, tmp_path):
    path = RunFolder(labelled).labels
    with pytest.raises(FramesError, match="labels other frames"):
        load_labels(path, frames[:15])
    with pytest.raises(FramesError, match="no such file"):
        load_labels(tmp_path / "labels.h5", frames)
    (tmp_path / "labels.h5").write_text("text")
    with pytest.raises(FramesError, match="is not an HDF5 file of labels"):
        load_labels(tmp_path / "labels.h5", frames)
    with pytest.raises(FramesError, match="is not a file of labels"):
        load_labels(labelled.path(labelled.frames), frames)
    with pytest.raises(FramesError, match="was trained on other frames"):
        label_frames(labelled.model_copy(update={"max_frames": 15}))


# --- force-energy consistency -----------------------------------------------------------------------------------------


class Tampered(nn.Module):
    """A network whose energy has a small part that its forces do not know of."""

    def __init__(self, network: nn.Module, size: float) -> None:
        super().__init__()
        self.network, self.size = network, size

    def forward(self, types, first, second, vectors):
        hidden = self.network(types, first, second, vectors.detach())
        return self.network(types, first, second, vectors) + self.size * hidden


def test_consistency_of_a_network(labelled, frames):
    network, _ = load_checkpoint(RunFolder(labelled).teacher(0) / BEST)
    check = check_consistency(network, CUTOFF, frames, np.arange(16, 20))
    assert check.components == 36
    assert 0 < check.rms_error <= check.max_error < 1e-5
    assert next(network.parameters()).dtype == torch.float32  # a copy was converted, not the network


def test_wrong_forces_are_detected(labelled, frames):
    network, _ = load_checkpoint(RunFolder(labelled).teacher(0) / BEST)
    check_consistency(Tampered(network, 1e-6), CUTOFF, frames, np.arange(16, 20))
    with pytest.raises(TrainingError, match="Forces and energies disagree"):
        check_consistency(Tampered(network, 0.01), CUTOFF, frames, np.arange(16, 20))


def test_jump_at_the_cutoff_is_detected(labelled, frames):
    """Pairs cut where their energy is not yet zero: the bead and its neighbour cross the edge when displaced."""
    network, _ = load_checkpoint(RunFolder(labelled).teacher(0) / BEST)
    delta = frames.positions[16, 1:].astype(float) - frames.positions[16, 0]
    delta -= np.round(delta @ np.linalg.inv(frames.box[16])) @ frames.box[16]
    nearest = float(np.linalg.norm(delta, axis=1).min())
    with pytest.raises(TrainingError, match="Forces and energies disagree"):
        check_consistency(network, nearest, frames, np.array([16]), n_components=36)


def test_network_with_nan_is_refused(tmp_path, frames):
    run = make_run(tmp_path, frames, teachers={"count": 1, "blocks": 4})
    write_prior(run, frames)
    network = build_tensornet(run.model, 2, 2.5)
    with torch.no_grad():
        network.linear.weight[0, 0] = np.nan
    save_checkpoint(RunFolder(run).teacher(0) / BEST, network, run.model, 2.5, frames.identity, ("A", "B"), {})
    with pytest.raises(TrainingError, match="nan of the RMS force"):
        label_frames(run)
    assert not RunFolder(run).labels.exists()


# --- students ---------------------------------------------------------------------------------------------------------

MIXES = {"F": (1, 0, 0), "F+E": (1, 1, 0), "F+e": (1, 0, 1)}
VARIANTS = [("noisy", "F"), *((targets, mix) for targets in ("single", "ensemble") for mix in MIXES)]


@pytest.mark.parametrize(("targets", "mix"), VARIANTS)
def test_every_variant_of_the_student_trains(labelled, frames, targets, mix):
    weights = dict(zip(("force", "energy", "bead_energy"), MIXES[mix], strict=True))
    data = labelled.student.model_dump(mode="json") | {"targets": targets, "weights": weights}
    data["model"] = {"channels": 4, "layers": 0, "cutoff": "0.8 nm", "radial_functions": 8}
    run = labelled.model_copy(update={"student": type(labelled.student).model_validate(data)})
    run._folder = labelled._folder
    best = train_student(run)
    network, content = load_checkpoint(best)
    assert network.channels == 4
    assert content["training"]["targets"] == targets
    assert content["training"]["weights"] == weights
    assert json.loads((best.parent / CONSISTENCY).read_text())["max_error"] < 1e-4
    with open(best.parent / METRICS) as file:
        (row,) = csv.DictReader(file)
    labels = load_labels(RunFolder(run).labels, frames)
    graphs = FrameGraphs(frames, 0.8, load_prior(RunFolder(run).prior))
    split = split_run(run, frames)
    wanted = {"noisy": frames.forces - graphs.prior_forces, "single": labels.single_forces, "ensemble": labels.forces}[targets]
    error = predict(network, graphs, split.validation)[0] - wanted[split.validation]
    assert float(row["force_rmse"]) == pytest.approx(np.sqrt(np.mean(error**2)), rel=1e-3)

    before = best.stat().st_mtime_ns
    train_student(run)
    assert best.stat().st_mtime_ns == before


def test_student_cutoff_is_checked(labelled):
    data = labelled.student.model_dump(mode="json") | {"model": {"cutoff": "2 nm"}}
    run = labelled.model_copy(update={"student": type(labelled.student).model_validate(data)})
    with pytest.raises(BoxError, match="cutoff of 2 nm"):
        train_student(run)
