"""On-policy rounds: who simulates, what is labelled, what is trained again."""

from __future__ import annotations

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.on_policy import simulate_student, train_on_policy
from openmm_cgkd.training.labels import load_labels
from openmm_cgkd.training.task import BEST, TEST
from openmm_cgkd.utils.files import file_hash
from tests.cases.training import change_student


def test_rounds_gather_labels(own_labeled_run):
    run, frames = own_labeled_run
    calls = []

    def sample(run, checkpoint, folder):
        """Stands in for a simulation: shaken frames."""
        calls.append((checkpoint, folder))
        shaken = frames.positions + np.random.default_rng(len(calls)).normal(
            scale=0.002, size=frames.positions.shape
        )
        trajectory = mdtraj.Trajectory(shaken, frames.beads.to_mdtraj())
        trajectory.unitcell_vectors = frames.box
        folder.mkdir(parents=True)
        trajectory.save(str(folder / "trajectory.xtc"))
        return folder / "trajectory.xtc"

    run = change_student(run, on_policy={"rounds": 2, "snapshots": 6}, max_spread=10)
    folder = RunFolder(run)
    best = train_on_policy(run, sample)
    students = [folder.student_of_round(k) / BEST for k in range(3)]
    assert best == students[2] == folder.student / BEST
    assert calls == [(students[k - 1], folder.on_policy(k) / "simulation") for k in (1, 2)]
    beyond = [
        load_checkpoint(path)[1]["training"]["configurations_beyond_frames"] for path in students
    ]
    assert beyond == [0, 6, 12]
    # the test part is looked at once, for the last student
    assert [(path.parent / TEST).exists() for path in students] == [False, False, True]
    assert len(load_labels(folder.on_policy(1) / "labels.h5", frames).forces) == 6

    hashes = [file_hash(path) for path in students]
    assert train_on_policy(run, sample) == best
    assert len(calls) == 2
    fewer = change_student(run, on_policy={"rounds": 1, "snapshots": 6})
    assert train_on_policy(fewer, sample) == students[1] == RunFolder(fewer).student / BEST
    assert [file_hash(path) for path in students] == hashes  # nothing was trained again


def test_student_simulates_itself(own_labeled_run):
    run, frames = own_labeled_run
    short = {"timestep": "2 fs", "equilibration": "0.01 ps", "platform": "CPU"}
    data = run.simulation.model_dump(mode="json") | short
    run = run.model_copy(update={"simulation": type(run.simulation).model_validate(data)})
    run = change_student(run, on_policy={"rounds": 1, "production": "0.1 ps", "snapshots": 5})
    teacher = RunFolder(run).teacher(0) / BEST
    path = simulate_student(run, teacher, run.base_folder / "simulation")
    trajectory = mdtraj.load(str(path), top=frames.beads.to_mdtraj())
    assert len(trajectory) == 5
    np.testing.assert_allclose(trajectory.unitcell_vectors[0], frames.box[0], atol=1e-5)
    assert not np.allclose(trajectory.xyz[0], trajectory.xyz[-1], atol=1e-3)
    # it began at the last training frame
    assert np.abs(trajectory.xyz[0] - frames.positions[15]).max() < 0.1


def test_what_an_exploding_student_visits_is_used(own_labeled_run, monkeypatch, caplog):
    run, _ = own_labeled_run
    written = run.base_folder / "simulation" / "trajectory.dcd"

    def explode(*arguments, **options):
        raise SimulationError("it exploded")

    def explode_later(*arguments, **options):
        written.write_text("frames")
        raise SimulationError("it exploded later")

    teacher = RunFolder(run).teacher(0) / BEST
    monkeypatch.setattr("openmm_cgkd.stages.on_policy.simulate", explode)
    with pytest.raises(SimulationError):
        simulate_student(run, teacher, written.parent)
    monkeypatch.setattr("openmm_cgkd.stages.on_policy.simulate", explode_later)
    assert simulate_student(run, teacher, written.parent) == written
    assert "it exploded later" in caplog.text
