"""Labels: mean, spread, gauge, streaming, and whose they are."""

from __future__ import annotations

import dataclasses

import h5py
import numpy as np
import pytest
import torch

from openmm_cgkd.exceptions import FramesError, ModelFileError, TrainingError
from openmm_cgkd.mean_forces.file import MeanForces, write_mean_forces
from openmm_cgkd.potential.checkpoint import load_checkpoint, save_checkpoint
from openmm_cgkd.potential.network import build_tensornet
from openmm_cgkd.potential.prior import read_prior, write_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.distill import train_student
from openmm_cgkd.stages.inputs import fit_prior_of, split_run
from openmm_cgkd.stages.label import label_run
from openmm_cgkd.training import label_parts
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.label_parts import Parts, energy_offsets, write_parts
from openmm_cgkd.training.labels import UNITS, load_labels
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.task import BEST
from openmm_cgkd.utils.files import file_hash
from tests.cases.training import CUTOFF, make_run


def teachers_of(run, frames):
    """Forces and energies of the two teachers, predicted directly."""
    folder = RunFolder(run)
    graphs = FrameGraphs(frames, CUTOFF, read_prior(folder.prior))
    return [
        predict(load_checkpoint(folder.teacher(k) / BEST)[0], graphs, range(len(frames)))
        for k in range(2)
    ]


def test_labels_are_the_mean_of_the_teachers(labeled_run):
    run, frames = labeled_run
    labels = load_labels(RunFolder(run).labels, frames)
    (f0, e0), (f1, e1) = teachers_of(run, frames)
    assert np.abs(f0 - f1).max() > 0.1  # the members differ
    np.testing.assert_allclose(labels.forces, (f0 + f1) / 2, rtol=1e-5, atol=1e-3)
    np.testing.assert_allclose(labels.single_forces, f0, rtol=1e-5, atol=1e-3)
    # standard deviation of two values: |difference| / sqrt(2)
    spread = np.sqrt(((f0 - f1) ** 2 / 2).mean(axis=-1))
    np.testing.assert_allclose(labels.force_spread, spread, rtol=1e-3, atol=1e-3)
    training = split_run(run, frames).training
    centered = []
    for energies in (e0, e1):
        energies = energies.astype(float)
        for kind in (0, 1):
            energies[:, frames.beads.types == kind] -= energies[
                np.ix_(training, frames.beads.types == kind)
            ].mean()
        centered.append(energies)
    np.testing.assert_allclose(labels.energies, (centered[0] + centered[1]) / 2, atol=1e-4)
    np.testing.assert_allclose(labels.single_energies, centered[0], atol=1e-4)
    np.testing.assert_allclose(
        labels.energy_spread, np.abs(centered[0] - centered[1]) / np.sqrt(2), atol=1e-4
    )


def test_labels_say_where_they_come_from(labeled_run):
    run, frames = labeled_run
    folder = RunFolder(run)
    attributes = load_labels(folder.labels, frames).attributes
    assert attributes["frames"] == frames.identity
    assert list(attributes["teachers"]) == [file_hash(folder.teacher(k) / BEST) for k in range(2)]
    assert attributes["prior"] == read_prior(folder.prior).identity
    assert attributes["prior included"] == "no"
    assert attributes["energy_offsets"].shape == (2, 2)
    assert (attributes["consistency_max"] < 1e-4).all()
    validation = split_run(run, frames).validation
    graphs = FrameGraphs(frames, CUTOFF, read_prior(folder.prior))
    error = (
        load_labels(folder.labels, frames).forces[validation]
        + graphs.prior_forces[validation]
        - frames.forces[validation]
    )
    assert attributes["validation_force_rmse"] == pytest.approx(
        np.sqrt(np.mean(error**2)), rel=1e-4
    )
    assert attributes["validation_force_ratio"] == pytest.approx(
        np.mean(error**2) / frames.forces[validation].var(), rel=1e-4
    )
    assert "force RMSE against mapped forces" in folder.log("label").read_text()
    with h5py.File(folder.labels) as file:
        assert file["forces"].dtype == np.float32
        assert file["forces"].attrs["unit"] == "kJ/mol/nm"


def test_finished_labels_are_kept(labeled_run):
    run, _ = labeled_run
    path = RunFolder(run).labels
    before = path.stat().st_mtime_ns
    assert label_run(run) == path
    assert path.stat().st_mtime_ns == before


def test_interrupted_labelling_goes_on_part_by_part(own_labeled_run, monkeypatch):
    run, frames = own_labeled_run
    path = RunFolder(run).labels
    expected = load_labels(path, frames)
    path.unlink()
    # seven parts of at most three frames
    monkeypatch.setattr(label_parts, "BEADS_PER_PART", 3 * frames.beads.n_beads)
    real, sizes = label_parts.predict, []

    def dying(network, graphs, indices):
        sizes.append(len(graphs))
        if len(sizes) == 8:  # the second teacher in the fourth part
            raise OSError("the machine went down")
        return real(network, graphs, indices)

    monkeypatch.setattr(label_parts, "predict", dying)
    with pytest.raises(OSError, match="went down"):
        label_run(run)
    assert not path.exists()
    label_run(run)
    assert len(sizes) == 8 + 2 * 4  # three parts were finished
    assert max(sizes) == 3  # never more in memory
    found = load_labels(path, frames)
    for name in UNITS:
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-4
        )
    assert not (path.parent / "labels.parts").exists()


def write_some_parts(folder, forces, energies):
    parts = Parts(folder, "inputs")
    for first in range(0, forces.shape[1], 4):
        parts.write(
            first, forces[:, first : first + 4], energies[:, first : first + 4], refuse=True
        )
    return parts


def test_energy_zero_of_a_teacher_does_not_matter(tmp_path, labeled_run):
    frames = labeled_run[1][:10]
    types, training = frames.beads.types, np.arange(7)
    random = np.random.default_rng(0)
    forces, energies = random.normal(size=(3, 10, 12, 3)), random.normal(size=(3, 10, 12))
    shifted = energies.copy()
    shifted[1] += np.array([100.0, -40.0])[types]
    found = []
    for name, values in (("plain", energies), ("shifted", shifted)):
        parts = write_some_parts(tmp_path / name, forces, values)
        offsets = energy_offsets(parts, types, training)
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            write_parts(file, parts, offsets, frames, np.ones(10, dtype=bool))
            found.append({name: file[name][:] for name in UNITS} | {"offsets": offsets})
    plain, moved = found
    for name in UNITS:
        np.testing.assert_allclose(moved[name], plain[name], atol=1e-4)
    np.testing.assert_allclose(moved["offsets"][1] - plain["offsets"][1], [100, -40], rtol=1e-6)
    np.testing.assert_allclose(plain["forces"], forces.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(
        plain["force_spread"], np.sqrt(forces.var(axis=0, ddof=1).mean(axis=-1)), atol=1e-6
    )
    for kind in range(2):
        assert plain["energies"][training][:, types == kind].mean() == pytest.approx(0, abs=1e-6)
        # over the training frames, not over all
        assert abs(plain["energies"][:, types == kind].mean()) > 1e-4


def test_one_teacher_has_no_spread(tmp_path, labeled_run):
    frames = labeled_run[1][:4]
    random = np.random.default_rng(0)
    parts = write_some_parts(
        tmp_path / "parts", random.normal(size=(1, 4, 12, 3)), random.normal(size=(1, 4, 12))
    )
    with h5py.File(tmp_path / "labels.h5", "w") as file:
        write_parts(
            file,
            parts,
            energy_offsets(parts, frames.beads.types, np.arange(4)),
            frames,
            np.ones(4, dtype=bool),
        )
        np.testing.assert_array_equal(file["force_spread"][:], 0)
        np.testing.assert_array_equal(file["energy_spread"][:], 0)
        np.testing.assert_array_equal(file["forces"][:], file["single_forces"][:])


def test_labels_of_other_frames_are_refused(labeled_run, tmp_path):
    run, frames = labeled_run
    path = RunFolder(run).labels
    with pytest.raises(FramesError, match="labels other frames"):
        load_labels(path, frames[:15])
    with pytest.raises(FramesError, match="no such file"):
        load_labels(tmp_path / "labels.h5", frames)
    (tmp_path / "labels.h5").write_text("text")
    with pytest.raises(FramesError, match="is not an HDF5 file of labels"):
        load_labels(tmp_path / "labels.h5", frames)
    with pytest.raises(FramesError, match="is not a file of labels"):
        load_labels(run.path(run.frames), frames)
    with pytest.raises(FramesError, match="was trained on other frames"):
        label_run(run.model_copy(update={"max_frames": 15}))


def test_stale_labels_are_refused(own_labeled_run):
    run, frames = own_labeled_run
    folder = RunFolder(run)
    teacher, prior = folder.teacher(1) / BEST, folder.prior
    network, content = load_checkpoint(teacher)
    keep = teacher.read_bytes()
    with torch.no_grad():
        network.linear.weight[0, 0] += 1e-3
    save_checkpoint(teacher, network, run.model, content["scale"], frames.identity, ("A", "B"), {})
    with pytest.raises(
        FramesError, match="made by other teachers than those of this run; run 'cgkd label' again"
    ):
        train_student(run)
    teacher.write_bytes(keep)
    write_prior(dataclasses.replace(read_prior(prior), force=1.0), prior)
    with pytest.raises(FramesError, match="made with another pair prior"):
        train_student(run)


def test_network_with_nan_is_refused(tmp_path, labeled_run):
    frames = labeled_run[1]
    run = make_run(tmp_path, frames, teachers={"count": 1, "blocks": 4})
    fit_prior_of(run, frames)
    network = build_tensornet(run.model, 2, 2.5)
    with torch.no_grad():
        network.linear.weight[0, 0] = np.nan
    save_checkpoint(
        RunFolder(run).teacher(0) / BEST, network, run.model, 2.5, frames.identity, ("A", "B"), {}
    )
    with pytest.raises(ModelFileError, match=r"'linear\.weight' that are not finite"):
        label_run(run)
    assert not RunFolder(run).labels.exists()


def test_values_that_are_not_finite_name_teacher_and_frame(tmp_path):
    forces, energies = np.zeros((2, 4, 12, 3)), np.zeros((2, 4, 12))
    energies[1, 2, 5] = np.inf
    with pytest.raises(TrainingError, match="energies of teacher 1 at frame 10 are not finite"):
        Parts(tmp_path / "parts", "inputs").write(8, forces, energies, refuse=True)


def test_errors_against_mean_forces_are_stored(own_labeled_run):
    run, frames = own_labeled_run
    truth = np.random.default_rng(0).normal(size=frames.forces.shape, scale=50)
    attributes = {"temperature": frames.temperature}
    write_mean_forces(
        run.base_folder / "mean_forces.h5",
        MeanForces(
            frames.positions, truth, 0 * truth, frames.box, frames.time, frames.beads, attributes
        ),
    )
    RunFolder(run).labels.unlink()
    named = run.model_copy(update={"mean_forces": type(run.base_folder)("mean_forces.h5")})
    attributes = load_labels(label_run(named), frames).attributes
    (f0, _), (f1, _) = teachers_of(run, frames)
    prior = FrameGraphs(frames, CUTOFF, read_prior(RunFolder(run).prior)).prior_forces
    for name, forces in (("mean_force_rmse", (f0 + f1) / 2), ("single_mean_force_rmse", f0)):
        assert attributes[name] == pytest.approx(
            np.sqrt(np.mean((forces + prior - truth) ** 2)), rel=1e-4
        )
