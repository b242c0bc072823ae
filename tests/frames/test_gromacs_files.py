"""GROMACS trajectories: whole ones of another library pass, damaged ones are found before it."""

import struct
from pathlib import Path

import mdtraj
import numpy as np
import pytest

from openmm_cgkd.frames.gromacs_files import ParticlesError, check_trr, check_xtc

CHECKS = {"trr": check_trr, "xtc": check_xtc}
XTC_HEADER = 56  # bytes before what describes the packed positions


def write(path: Path, positions: np.ndarray) -> Path:
    topology = mdtraj.Topology()
    chain = topology.add_chain()
    for _ in range(positions.shape[1]):
        topology.add_atom("A", mdtraj.element.virtual, topology.add_residue("A", chain))
    trajectory = mdtraj.Trajectory(positions, topology)
    trajectory.unitcell_vectors = np.repeat(10 * np.eye(3)[None], len(positions), 0)
    trajectory.save(str(path))
    return path


def molecules(n: int, edge: float, n_frames: int = 3) -> np.ndarray:
    """Groups of three near particles, which XTC packs as differences."""
    random = np.random.default_rng(0)
    centers = random.uniform(0, edge, (n_frames, n // 3, 1, 3))
    return (centers + random.normal(0, 0.05, (n_frames, n // 3, 3, 3))).reshape(n_frames, -1, 3)


@pytest.mark.parametrize("kind", CHECKS)
@pytest.mark.parametrize(
    "positions",
    [
        molecules(300, 3.0),
        molecules(30, 3e4),  # integers so large that they are packed one by one
        np.random.default_rng(1).uniform(-2, 2, (4, 100, 3)),
        np.random.default_rng(1).uniform(-2, 2, (4, 9, 3)),  # so few are not packed
        np.zeros((2, 20, 3)),
    ],
    ids=["molecules", "far", "gas", "few", "one place"],
)
def test_whole_files(tmp_path, kind, positions):
    path = write(tmp_path / f"a.{kind}", positions)
    n = positions.shape[1]
    CHECKS[kind](path, n)
    with pytest.raises(ParticlesError, match=f"frame 0 has {n} particles, not {n + 1}"):
        CHECKS[kind](path, n + 1)


@pytest.mark.parametrize("kind", CHECKS)
def test_a_file_that_is_cut_off(tmp_path, kind):
    path = write(tmp_path / f"a.{kind}", molecules(30, 3.0))
    whole = path.read_bytes()
    for kept in (len(whole) - 1, len(whole) // 2, 100, 50, 10):
        path.write_bytes(whole[:kept])
        with pytest.raises(ValueError, match="is cut off"):
            CHECKS[kind](path, 30)


@pytest.mark.parametrize(
    ("kind", "at", "value", "message"),
    [
        ("trr", 0, 1994, "the header of frame 0 is damaged"),
        ("trr", 32, 37, "header"),  # bytes of the box
        ("trr", 52, 7, "header"),  # of the positions
        ("trr", 52, -360, "header"),
        ("trr", 64, 0, "has 0 particles"),  # a library divides by it
        ("trr", 64, 2**30, "particles, not 30"),  # and would make room for these
        ("xtc", 0, 1996, "header"),
        ("xtc", 4, 2**30, "particles, not 30"),
        ("xtc", 52, 31, "header"),  # the number of particles stands twice
        ("xtc", XTC_HEADER + 4, 2**31 - 1, "header"),  # smallest integer above the largest
        ("xtc", XTC_HEADER + 28, 3, "header"),  # of small differences: no such size
        ("xtc", XTC_HEADER + 28, 1000, "header"),
        ("xtc", XTC_HEADER + 32, 2**30, "cut off"),  # bytes of the packed positions
        ("xtc", XTC_HEADER + 32, -1, "damaged"),
    ],
)
def test_damaged_headers(tmp_path, kind, at, value, message):
    path = write(tmp_path / f"a.{kind}", molecules(30, 3.0))
    data = bytearray(path.read_bytes())
    data[at : at + 4] = struct.pack(">i", value)
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message):
        CHECKS[kind](path, 30)


def test_packed_positions_of_too_many_particles(tmp_path):
    """Set bits say that more particles follow than there are; MDTraj would write them all."""
    path = write(tmp_path / "a.xtc", molecules(30, 3.0, n_frames=1))
    data = bytearray(path.read_bytes())
    packed = XTC_HEADER + 36
    data[packed:] = b"\xff" * (len(data) - packed)
    path.write_bytes(data)
    with pytest.raises(ValueError, match="the packed positions of frame 0 are damaged"):
        check_xtc(path, 30)
