"""Trajectories that must not be compared: damaged ones, and those in another unit."""

import shutil
from dataclasses import replace
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_cgkd import compare
from openmm_cgkd.analysis.comparison.sources import source_of_frames
from openmm_cgkd.exceptions import FramesError, RecordError
from openmm_cgkd.frames.frames import Frames, read_frames
from openmm_cgkd.training.configurations import snapshots
from tests.cases.dynamics import run_toy
from tests.cases.fluids import ETHALINE
from tests.cases.potential import write_toy_potential


@pytest.fixture(scope="module")
def frames() -> Frames:
    return read_frames(ETHALINE / "frames.h5")[-40:]


@pytest.fixture(scope="module")
def simulation(tmp_path_factory) -> Path:
    """Folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    return run_toy(write_toy_potential(folder / "student.pt"), folder / "simulation").parent


@pytest.mark.parametrize(
    ("suffix", "scale", "box_scale", "message"),
    [
        # as programs write them that take no notice of the unit of the format
        ("xtc", 10, 10, "positions and box look as if they were in angstrom"),
        ("dcd", 0.1, 0.1, "positions and box look ten times too small"),
        ("dcd", 10, 1, "positions look as if they were in angstrom"),
    ],
)
def test_a_trajectory_in_another_unit(frames, tmp_path, suffix, scale, box_scale, message):
    path = tmp_path / f"trajectory.{suffix}"
    trajectory = mdtraj.Trajectory(scale * frames.positions, frames.beads.to_mdtraj())
    trajectory.unitcell_vectors = (box_scale * frames.box).astype(np.float32)
    trajectory.time = np.arange(len(frames), dtype=float)
    trajectory.save(str(path))
    trajectory[0].save_pdb(str(tmp_path / "topology.pdb"))
    with pytest.raises(FramesError, match=rf"trajectory\.{suffix}: {message}"):
        compare(ETHALINE / "frames.h5", path, tmp_path / "comparison")
    assert not (tmp_path / "comparison").exists()
    with pytest.raises(FramesError, match=rf"trajectory\.{suffix}: {message}"):
        snapshots(path, frames, 5)


@pytest.mark.parametrize("name", ["trajectory.dcd", "state.csv", "topology.pdb", "progress.json"])
def test_a_file_of_a_simulation_with_a_flipped_bit(simulation, tmp_path, name):
    folder = tmp_path / "simulation"
    shutil.copytree(simulation, folder)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 4
    (folder / name).write_bytes(data)
    with pytest.raises(RecordError, match=f"{name}: (was changed or damaged|is not valid JSON)"):
        compare(ETHALINE / "frames.h5", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("times", "middle"),
    [
        (np.arange(100.0), 0.5),
        (np.r_[0:56, 140:184], 0.56),  # as the shipped frames of ethaline
        (np.r_[0:10, 94:184], 0.5),  # far from the middle
        (np.r_[0:56, 60:104], 0.5),  # short
        (np.r_[0:45, 60:67, 140:188], 0.52),  # the longer one
        (None, 0.5),
    ],
)
def test_halves_of_a_run_with_a_gap(frames, times, middle):
    source = replace(source_of_frames(frames[np.zeros(100, int)], Path("a.h5")), times=times)
    assert source.middle == middle
