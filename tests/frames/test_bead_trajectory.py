"""Trajectories of beads that libraries would read wrongly, or would crash on."""

import struct
from pathlib import Path

import mdtraj
import numpy as np
import pytest
from scipy.io import netcdf_file

from openmm_cgkd.exceptions import BoxError, CGKDError, FramesError
from openmm_cgkd.frames.bead_trajectory import read_bead_trajectory

N = 12


def beads() -> mdtraj.Topology:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(N):
        topology.add_atom("A", mdtraj.element.virtual, topology.add_residue("A", chain))
    return topology


def write(path: Path, **changes) -> Path:
    positions = np.random.default_rng(0).uniform(0, 2, (4, N, 3))
    trajectory = mdtraj.Trajectory(positions, beads(), np.arange(4.0))
    trajectory.unitcell_vectors = np.repeat(2 * np.eye(3)[None], 4, 0)
    for name, value in changes.items():
        setattr(trajectory, name, value)
    trajectory.save(str(path))
    return path


@pytest.mark.parametrize("kind", ["dcd", "xtc", "trr", "nc"])
def test_whole_files(tmp_path, kind):
    found = read_bead_trajectory(write(tmp_path / f"a.{kind}"), beads())
    assert found.positions.shape == (4, N, 3)
    assert found.boxes == pytest.approx(np.repeat(2 * np.eye(3)[None], 4, 0), abs=1e-5)
    assert (found.times is None) == (kind == "dcd")


def test_netcdf_without_times_has_none(tmp_path):
    """The library numbers the frames instead."""
    path = write(tmp_path / "a.nc")
    edit_netcdf(path, tmp_path / "b.nc", leave_out="time")
    assert read_bead_trajectory(tmp_path / "b.nc", beads()).times is None


@pytest.mark.parametrize(
    ("name", "attribute", "value", "message"),
    [
        ("coordinates", "units", b"nanometer", "coordinates are in 'nanometer', not in angstrom"),
        ("time", "units", b"femtosecond", "time are in 'femtosecond', not in picosecond"),
        ("cell_lengths", "units", b"bohr", "cell_lengths are in 'bohr'"),
        ("coordinates", "scale_factor", 10.0, "coordinates are to be multiplied by 10"),
    ],
)
def test_netcdf_in_other_units(tmp_path, name, attribute, value, message):
    path = write(tmp_path / "a.nc")
    edit_netcdf(path, tmp_path / "b.nc", name, attribute, value)
    with pytest.raises(FramesError, match=message):
        read_bead_trajectory(tmp_path / "b.nc", beads())


def edit_netcdf(path, output, name="", attribute="", value=None, leave_out="") -> None:
    with (
        netcdf_file(path, "r", mmap=False) as old,
        netcdf_file(output, "w", version=2) as new,
    ):
        new.Conventions, new.ConventionVersion = b"AMBER", b"1.0"
        for key, size in old.dimensions.items():
            new.createDimension(key, size)
        for key, data in old.variables.items():
            if key == leave_out:
                continue
            copy = new.createVariable(key, data.data.dtype, data.dimensions)
            copy[:] = data.data
            if hasattr(data, "units"):
                copy.units = data.units
            if key == name:
                setattr(copy, attribute, value)


@pytest.mark.parametrize("kind", ["xtc", "trr"])
def test_headers_on_which_the_library_crashes(tmp_path, kind):
    """Numbers of particles: 0, by which it divides, and 2^30, beyond its memory."""
    path = write(tmp_path / f"a.{kind}")
    whole, at = path.read_bytes(), {"xtc": 4, "trr": 64}[kind]
    assert struct.unpack(">i", whole[at : at + 4]) == (N,)
    for n in (0, 2**30, -1):
        path.write_bytes(whole[:at] + struct.pack(">i", n) + whole[at + 4 :])
        with pytest.raises(
            FramesError, match="cannot be read as a trajectory of 12 beads"
        ) as error:
            read_bead_trajectory(path, beads())
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"xyz": np.full((4, N, 3), 1e30)}, FramesError, "positions of frame 0 are not finite or"),
        ({"xyz": np.full((4, N, 3), np.nan)}, FramesError, "positions of frame 0 are not finite"),
        ({"time": np.array([0, 1, np.nan, 3])}, FramesError, "time of frame 2 is not finite"),
        ({"time": np.array([0, 1, 1, 3])}, FramesError, "frame 2 is at 1 ps, not after 1 ps"),
        ({"unitcell_vectors": np.zeros((4, 3, 3))}, BoxError, "no periodic box"),
        ({"unitcell_vectors": np.full((4, 3, 3), np.nan)}, BoxError, "no periodic box"),
    ],
)
def test_numbers_of_no_fluid(tmp_path, changes, error, message):
    path = write(tmp_path / "a.trr", **changes)
    with pytest.raises(error, match=message):
        read_bead_trajectory(path, beads())


def test_what_is_no_file(tmp_path):
    (tmp_path / "a.dcd").mkdir()
    for name in ("a.dcd", "absent.dcd", "a.txt"):
        with pytest.raises(CGKDError, match=name):
            read_bead_trajectory(tmp_path / name, beads())
