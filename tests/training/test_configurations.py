"""Configurations beyond the frames: which ones, their labels, and the bound on the teachers'
spread.
"""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.exceptions import BoxError, FramesError, TrainingError
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.prior import read_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.distill import train_student
from openmm_cgkd.stages.inputs import split_run
from openmm_cgkd.stages.label import label_run
from openmm_cgkd.training.configurations import perturbed, snapshots
from openmm_cgkd.training.distillation import labeled_configurations
from openmm_cgkd.training.graphs import FrameGraphs
from openmm_cgkd.training.labels import UNITS, load_labels
from openmm_cgkd.training.predict import predict
from openmm_cgkd.training.task import BEST
from tests.cases.training import CUTOFF, change_student


def write_trajectory(path, frames, positions=None, box=True):
    trajectory = mdtraj.Trajectory(
        frames.positions if positions is None else positions, frames.beads.to_mdtraj()
    )
    if box:
        trajectory.unitcell_vectors = frames.box[: len(trajectory)]
    trajectory.save(str(path))


def test_snapshots_of_the_frames_get_the_labels_of_the_frames(own_labeled_run):
    run, frames = own_labeled_run
    write_trajectory(run.base_folder / "trajectory.dcd", frames)
    run = change_student(
        run, extra={"trajectories": ["trajectory.dcd"], "snapshots": 7}, max_spread=1e6
    )
    labels_before = RunFolder(run).labels.stat().st_mtime_ns
    label_run(run)
    assert RunFolder(run).labels.stat().st_mtime_ns == labels_before
    extra = load_labels(RunFolder(run).extra_labels, frames)
    chosen = np.array([0, 3, 6, 10, 13, 16, 19])
    np.testing.assert_allclose(extra.positions, frames.positions[chosen], atol=1e-5)
    np.testing.assert_allclose(extra.box, frames.box[chosen], atol=1e-5)
    labels = load_labels(RunFolder(run).labels, frames)
    for name in UNITS:
        expected = getattr(labels, name)[chosen]
        np.testing.assert_allclose(
            getattr(extra, name), expected, atol=2e-3 * np.abs(expected).max()
        )
    stamp = RunFolder(run).extra_labels.stat().st_mtime_ns
    label_run(run)
    assert RunFolder(run).extra_labels.stat().st_mtime_ns == stamp


def test_configurations_on_which_teachers_disagree_are_dropped(own_labeled_run):
    run, frames = own_labeled_run
    folder = RunFolder(run)
    crowded = frames.positions[:6].copy()
    crowded[3:] *= 0.7  # squeezed together, beads meet at distances that no teacher has seen
    write_trajectory(run.base_folder / "trajectory.dcd", frames[:6], crowded)
    networks = [load_checkpoint(folder.teacher(k) / BEST)[0] for k in range(2)]
    training = split_run(run, frames).training

    def largest(positions, boxes):
        graphs = FrameGraphs(
            type(frames)(
                positions, positions, boxes, *[np.arange(len(positions))] * 2, frames.beads, {}
            ),
            CUTOFF,
            prior,
        )
        one, other = (predict(network, graphs, range(len(positions)))[0] for network in networks)
        return np.sqrt(((one - other) ** 2 / 2).mean(axis=-1)).max(axis=1)

    prior = read_prior(folder.prior)
    known = np.percentile(largest(frames.positions, frames.box)[training], 99)
    ratios = largest(crowded, frames.box[:6]) / known
    bound = float(np.sort(ratios)[2:4].mean())  # in the middle: three are within
    run = change_student(run, extra={"trajectories": ["trajectory.dcd"]}, max_spread=bound)
    label_run(run)
    extra = load_labels(folder.extra_labels, frames)
    np.testing.assert_allclose(extra.positions, crowded[ratios < bound], atol=1e-5)
    assert (extra.attributes["offered"], extra.attributes["kept"]) == (6, 3)
    assert extra.attributes["spread_limit"] == pytest.approx(bound * known, rel=1e-3)
    assert "3 of 6 configurations have spreads within" in folder.log("label").read_text()
    with pytest.raises(
        TrainingError,
        match=r"none of 6 configurations has a force spread within student\.max_spread = 1e-06",
    ):
        label_run(change_student(run, max_spread=1e-6))


def test_student_learns_the_extra_configurations(own_labeled_run):
    run, frames = own_labeled_run
    run = change_student(
        run, extra={"perturbed": 5, "displacement": "0.005 nm"}, max_spread=10, spread_weights=True
    )
    with pytest.raises(
        FramesError, match=r"extra\.h5: no such file; make labels with 'cgkd label'"
    ):
        train_student(run)
    label_run(run)
    labels = [
        load_labels(path, frames) for path in (RunFolder(run).labels, RunFolder(run).extra_labels)
    ]
    everything = labeled_configurations(frames, labels)
    assert len(everything) == 25
    np.testing.assert_array_equal(everything.positions[:20], frames.positions)
    np.testing.assert_array_equal(everything.positions[20:], labels[1].positions)
    assert np.isnan(everything.forces[20:]).all()  # nobody knows them
    _, content = load_checkpoint(train_student(run))
    assert content["training"]["configurations_beyond_frames"] == 5
    assert content["frames"] == frames.identity


def test_perturbed_frames(labeled_run):
    frames = labeled_run[1]
    moved = perturbed(frames, 40, 0.02, seed=3)
    chosen = np.linspace(0, 19, 40).round().astype(int)
    shifts = moved.positions - frames.positions[chosen]
    assert shifts.std() == pytest.approx(0.02, rel=0.05)  # 1440 numbers
    assert abs(shifts.mean()) < 4 * 0.02 / np.sqrt(shifts.size)
    np.testing.assert_array_equal(moved.box, frames.box[chosen])
    np.testing.assert_array_equal(moved.positions, perturbed(frames, 40, 0.02, seed=3).positions)


def test_trajectories_that_do_not_fit_are_refused(tmp_path, own_labeled_run):
    run, frames = own_labeled_run
    with pytest.raises(FramesError, match=r"student\.extra\.trajectories: .*no such file"):
        label_run(change_student(run, extra={"trajectories": ["absent.dcd"]}))
    write_trajectory(tmp_path / "open.dcd", frames, box=False)
    with pytest.raises(BoxError, match="has no periodic box"):
        snapshots(tmp_path / "open.dcd", frames, 5)
    few = mdtraj.Trajectory(
        frames.positions[:, :5],
        frames.beads.to_mdtraj().subset(range(5)),
        unitcell_lengths=np.full((20, 3), 1.9),
        unitcell_angles=np.full((20, 3), 90.0),
    )
    few.save(str(tmp_path / "few.dcd"))
    with pytest.raises(FramesError, match="cannot be read as a trajectory of 12 beads"):
        snapshots(tmp_path / "few.dcd", frames, 5)
    broken = frames.positions.copy()
    broken[4] = np.nan
    write_trajectory(tmp_path / "broken.dcd", frames, broken)
    with pytest.raises(FramesError, match="positions of frame 4 are not finite"):
        snapshots(tmp_path / "broken.dcd", frames, 20)
