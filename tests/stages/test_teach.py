"""The stage of the teachers."""

from __future__ import annotations

import dataclasses
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from openmm_cgkd.config.section import plain_inputs
from openmm_cgkd.exceptions import BoxError, ConfigError, ExecutionError, FramesError, TrainingError
from openmm_cgkd.execution.processes import cores
from openmm_cgkd.potential.checkpoint import load_checkpoint
from openmm_cgkd.potential.prior import read_prior, write_prior
from openmm_cgkd.run_folder import RunFolder
from openmm_cgkd.stages.inputs import fit_prior_of
from openmm_cgkd.stages.teach import ensemble_task, train_teachers
from openmm_cgkd.training.ensemble import members_at_once, threads_per_member, train_member
from openmm_cgkd.training.task import BEST, LAST
from tests.cases.training import ignore, make_frames, make_run


@pytest.fixture(scope="module")
def frames():
    return make_frames(20, 12, noise=1.0)[0]


@pytest.mark.slow
def test_teachers_differ_and_are_trained_once(tmp_path, frames):
    """Member 1 cannot write its folder at first; the obstacle goes away before the second call."""
    run = make_run(tmp_path, frames, execution={"retries": 0})
    folder = RunFolder(run)
    obstacle = folder.teacher(1)
    obstacle.parent.mkdir(parents=True)
    obstacle.write_text("in the way")
    with pytest.raises(
        ExecutionError, match="1 of 2 tasks failed 1 times, the first is teacher-01"
    ):
        train_teachers(run)
    trained = (folder.teacher(0) / BEST).stat().st_mtime_ns
    obstacle.unlink()
    best = train_teachers(run)
    assert best[0].stat().st_mtime_ns == trained
    one, other = (load_checkpoint(path) for path in best)
    assert one[1]["training"]["seed"] != other[1]["training"]["seed"]
    assert not torch.equal(one[0].linear.weight, other[0].linear.weight)
    assert len(read_prior(folder.prior).contact) == 2
    assert "epoch 1" in (folder.teacher(0) / "train.log").read_text()

    times = [path.stat().st_mtime_ns for path in best]
    assert train_teachers(run) == best  # finished: nothing is touched
    assert [path.stat().st_mtime_ns for path in best] == times
    assert "finished before" in folder.log("teach").read_text()


def kill_the_writer(path: Path, marker: Path) -> None:
    """Wait for the marker, then kill the process that has a file open."""
    while not marker.exists():
        time.sleep(0.005)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(file.samefile(path) for file in (process / "fd").iterdir() if file.exists()):
                os.kill(int(process.name), signal.SIGKILL)
        except OSError:  # of another user, or gone
            continue


@pytest.mark.slow
def test_member_killed_in_a_parsl_worker_goes_on_to_the_same_end(tmp_path, frames, caplog):
    teachers = {
        "count": 2,
        "blocks": 4,
        "training": {"epochs": 25, "batch_size": 4, "patience": 50},
    }
    for name in ("killed", "whole"):
        (tmp_path / name).mkdir()
    run = make_run(tmp_path / "killed", frames, teachers=teachers, execution={"backend": "parsl"})
    folder = RunFolder(run).teacher(1)
    killer = threading.Thread(
        target=kill_the_writer, args=(folder / "train.log", folder / LAST), daemon=True
    )
    killer.start()
    best = train_teachers(run)
    assert "task teacher-01 failed, trying again" in caplog.text
    assert "task teacher-00" not in caplog.text
    assert "resuming after epoch" in (folder / "train.log").read_text()

    whole = make_run(tmp_path / "whole", frames, teachers=teachers)
    fit_prior_of(whole, frames)
    before = torch.get_num_threads()
    torch.set_num_threads(threads_per_member(run.teachers, run.execution, run.workers))
    try:
        expected = train_member(ensemble_task(whole), 1, ignore)
    finally:
        torch.set_num_threads(before)
    one, other = (load_checkpoint(path)[0].state_dict() for path in (best[1], expected))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_of_an_earlier_version_keeps_its_wall(tmp_path, frames, caplog):
    """Its networks were trained with it, and so the stage of its teachers stays finished."""
    run = make_run(tmp_path, frames)
    path, fitted = RunFolder(run).prior, fit_prior_of(run, frames)
    old = dataclasses.replace(fitted, stiffness=None)
    write_prior(old, path)
    assert fit_prior_of(run, frames) == old == read_prior(path)
    assert f"{path}: of an earlier version" in caplog.text
    assert "delete it to train again" in caplog.text
    assert "stiffness" not in plain_inputs({"prior": run.prior})["prior"]

    named = make_run(tmp_path, frames, prior={"stiffness": "5e4 kJ/mol/nm^2"})
    assert fit_prior_of(named, frames).stiffness == 5e4
    assert plain_inputs({"prior": named.prior})["prior"]["stiffness"].startswith("50000 ")
    write_prior(dataclasses.replace(old, force=1.0), path)  # of other frames
    assert fit_prior_of(run, frames) == fitted
    path.unlink()
    assert fit_prior_of(run, frames) == fitted

    steep = make_run(tmp_path, frames, prior={"distance": "1e-5 nm"})
    with pytest.raises(ConfigError, match=r"prior\.stiffness: got 30000 "):  # too soft for it
        fit_prior_of(steep, frames)
    before = dataclasses.replace(old, distance=1e-5)
    write_prior(before, path)
    assert fit_prior_of(steep, frames) == before == read_prior(path)


def test_threads_do_not_depend_on_what_is_left(tmp_path, frames):
    for workers, count in ((1, 4), (2, 2), (4, 1)):
        run = make_run(tmp_path, frames, workers=workers, teachers={"count": count})
        settings = (run.teachers, run.execution, run.workers)
        assert members_at_once(*settings) == workers
        assert threads_per_member(*settings) == max(1, cores() // min(workers, count))
    run = make_run(tmp_path, frames, execution={"backend": "parsl"}, workers=None)
    assert members_at_once(run.teachers, run.execution, run.workers) is None


def test_bad_input_stops_before_any_work(tmp_path, frames):
    wide = make_run(tmp_path, frames, model={"channels": 8, "cutoff": "1.2 nm"})
    with pytest.raises(BoxError, match=r"cutoff of 1\.2 nm"):
        train_teachers(wide)
    with pytest.raises(TrainingError, match=r"teachers\.blocks is 17"):
        train_teachers(make_run(tmp_path, frames, teachers={"count": 1, "blocks": 17}))
    with pytest.raises(FramesError, match="cannot be split"):
        train_teachers(make_run(tmp_path, frames, split={"validation": 0.01, "gap": "0 ps"}))
    (tmp_path / "frames.h5").unlink()
    with pytest.raises(FramesError, match="no such file"):
        train_teachers(wide)
    assert not RunFolder(wide).teacher(0).exists()


def test_cutoff_is_checked_against_the_box_of_every_frame(tmp_path, frames):
    boxes = frames.box.copy()
    boxes[13] *= 0.9  # half of it is 0.855 nm, the cutoff 0.9 nm
    shrunk = type(frames)(
        frames.positions,
        frames.forces,
        boxes,
        frames.time,
        frames.step,
        frames.beads,
        frames.attributes,
    )
    with pytest.raises(
        BoxError, match=r"cutoff of 0\.9 nm is above half the smallest box height of 1\.71"
    ):
        train_teachers(make_run(tmp_path, shrunk))
