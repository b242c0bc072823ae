"""Trajectories that are far larger than what is looked at."""

import struct
import tracemalloc

import MDAnalysis
import pytest

from openmm_cgkd.allatom.mdanalysis import open_trajectory
from openmm_cgkd.exceptions import FramesError

N = 10


def write(path, frames):
    universe = MDAnalysis.Universe.empty(N, trajectory=True, forces=True)
    with MDAnalysis.Writer(str(path), n_atoms=N, velocities=False, forces=True) as writer:
        for k in range(frames):
            step = universe.trajectory.ts
            step.positions, step.forces = k, k
            step.dimensions, step.time = [30, 30, 30, 90, 90, 90], k
            writer.write(universe.atoms)
    return path


@pytest.mark.filterwarnings("ignore:Could not find netCDF4")
def test_memory_for_a_long_netcdf_trajectory(tmp_path):
    """Of 2 GB, most of which are a hole in the file."""
    path, longer = write(tmp_path / "a.nc", 2), write(tmp_path / "b.nc", 3)
    frame = longer.stat().st_size - path.stat().st_size
    n = 2**31 // frame
    with open(path, "r+b") as file:
        file.seek(4)
        file.write(struct.pack(">i", n))  # number of frames
        file.truncate(path.stat().st_size + (n - 2) * frame)
    universe = MDAnalysis.Universe.empty(N)
    tracemalloc.start()
    trajectory = open_trajectory(path, universe, tmp_path / "a.pdb", None, None)
    frames = iter(trajectory)
    first, second = next(frames), next(frames)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(trajectory) == n
    assert (first.time, second.time) == (0, 1)
    assert second.positions == pytest.approx(0.1)
    assert peak < 2**22
    with pytest.raises(FramesError):  # what is in the hole is no frame
        next(frames)
