"""The last frame is that of the whole file, and nothing else is read."""

import h5py
import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import read_frames, write_frames
from openmm_cgkd.frames.hdf5 import FRAMES
from openmm_cgkd.frames.last_frame import read_last_frame
from openmm_cgkd.frames.seal import seal
from tests.cases.frames import frame, leave_open, write


def check(path, step):
    found = read_last_frame(path)
    assert len(found) == 1
    assert found.step[0] == step
    assert np.array_equal(found.box[0], frame(step)["box"])
    assert np.array_equal(found.forces[0], frame(step)["forces"].astype("f4"))


def test_last_frame(tmp_path):
    path = write(tmp_path / "frames.h5", range(5))
    check(path, 4)
    write_frames(read_frames(path), tmp_path / "packed.h5")
    check(tmp_path / "packed.h5", 4)


def test_other_frames_are_not_read(tmp_path):
    path = write(tmp_path / "frames.h5", range(5))
    with h5py.File(path, "r+") as file:
        file["forces"][0] = 0  # its checksum is wrong now
    check(path, 4)
    with pytest.raises(FramesError, match="frame 0 is damaged"):
        read_frames(path)


def test_torn_tail(tmp_path):
    """Left out if the writer was killed, told otherwise."""
    path = write(tmp_path / "frames.h5", range(5))
    with h5py.File(path, "r+", libver="latest") as file:
        file["forces"][4] = 0
        seal(file, FRAMES.growing)
    with pytest.raises(FramesError, match="ends in 1 torn after 4 whole frames"):
        read_last_frame(path)
    leave_open(path)
    check(path, 3)


def test_no_frame(tmp_path):
    with pytest.raises(FramesError, match="holds no whole frame"):
        read_last_frame(write(tmp_path / "frames.h5", []))
    with pytest.raises(FramesError, match="no such file"):
        read_last_frame(tmp_path / "none.h5")
