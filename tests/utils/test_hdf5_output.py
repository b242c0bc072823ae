"""HDF5 files on a disk that takes no more; HDF5 itself would end the process by a signal."""

import errno
import os
import subprocess
import sys

import h5py
import numpy as np
import pytest

from openmm_cgkd.exceptions import DiskError
from openmm_cgkd.frames.frames import FrameWriter
from openmm_cgkd.utils import hdf5_output as module
from openmm_cgkd.utils.hdf5_output import Room, hdf5_output, take_blocks
from tests.cases.frames import BEADS, check, frame, write
from tests.cases.paths import ROOT

_SETUP = """
import resource, sys
from pathlib import Path
import h5py, numpy as np
from openmm_cgkd.exceptions import DiskError
from openmm_cgkd.utils.files import replacing
from openmm_cgkd.utils.hdf5_output import hdf5_output
from openmm_cgkd.utils.lock import locked
from openmm_cgkd.frames.frames import FrameWriter, read_frames
from tests.cases.training import make_frames

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

folder = Path(sys.argv[1])
"""
_AT_ONCE = """
limit(200_000)
try:
    with replacing(folder / "labels.h5") as fresh, hdf5_output(fresh) as output, h5py.File(
        output, "w", libver="latest"
    ) as file:
        data = file.create_dataset("x", (100, 1000), "f8", chunks=(1, 1000), compression="gzip")
        for k in range(100):
            data[k] = np.random.default_rng(k).random(1000)
            file.flush()
except DiskError as error:
    print(error)
"""
_GROWING = """
frames = make_frames(2, 12, noise=0.1)[0]
written = 0
with FrameWriter(folder / "frames.h5", frames.beads, frames.attributes) as writer:
    def append():
        global written
        writer.append(frames.positions[0], frames.forces[0], frames.box[0], written, written)
        written += 1
    append()
    limit((folder / "frames.h5").stat().st_size + 2**22 + 20_000)
    try:
        with locked(folder):
            while True:
                append()
    except DiskError as error:
        print(error)
assert written > 10
assert len(read_frames(folder / "frames.h5")) == written
"""


@pytest.mark.parametrize(
    ("script", "name", "left"),
    [(_AT_ONCE, "labels.h5", []), (_GROWING, "frames.h5", ["frames.h5"])],
    ids=["at once", "growing"],
)
def test_disk_that_takes_no_more(tmp_path, script, name, left):
    result = subprocess.run(
        [sys.executable, "-c", _SETUP + script, tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert f"{tmp_path / name}: File too large; raise the limit" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == left


def test_whole_file_is_that_of_hdf5(tmp_path):
    values = np.random.default_rng(0).random((50, 200))
    with hdf5_output(tmp_path / "ours.h5") as output, h5py.File(output, "w") as file:
        file.create_dataset("x", data=values, chunks=(1, 200), compression="gzip")
        file.attrs["unit"] = "nm"
        assert (file["x"][7] == values[7]).all()
    with h5py.File(tmp_path / "ours.h5") as file:
        assert (file["x"][()] == values).all()
        assert file.attrs["unit"] == "nm"


def refusing(number):
    def refuse(*arguments):
        raise OSError(number, os.strerror(number))

    return refuse


def exhaust(monkeypatch, by_trial: bool) -> None:
    """From now on there is no room, by the quota of the user."""
    if by_trial:
        monkeypatch.setattr(module, "take_blocks", refusing(errno.EOPNOTSUPP))
        monkeypatch.setattr(os, "posix_fallocate", refusing(errno.EDQUOT))
    else:
        monkeypatch.setattr(module, "take_blocks", refusing(errno.EDQUOT))


@pytest.mark.parametrize("by_trial", [False, True])
def test_quota(tmp_path, monkeypatch, by_trial):
    path, written = tmp_path / "frames.h5", 0
    message = f"^{path}: Disk quota exceeded; free some of your quota, then run the same command"
    with FrameWriter(path, BEADS, {"temperature": 300.0}) as writer:
        writer.append(**frame(0))
        exhaust(monkeypatch, by_trial)
        monkeypatch.setattr(module, "MARGIN", 2**24)  # what was reserved is used up

        def fill():
            nonlocal written
            while True:
                written += 1
                writer.append(**frame(written))

        with pytest.raises(DiskError, match=message):
            fill()
    check(path, range(written))
    with pytest.raises(DiskError, match=message):
        write(path, [written])
    assert [each.name for each in tmp_path.iterdir()] == ["frames.h5"]
    check(path, range(written))


def test_room_is_that_of_the_file(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(bytes(10))
    room = Room(path)
    try:
        with open(path, "r+b") as file:
            take_blocks(file.fileno(), 0, 10)
    except OSError as error:
        pytest.skip(f"this file system cannot reserve blocks: {error}")
    room.require(2**20)
    assert path.stat().st_size == 10
    assert path.stat().st_blocks * 512 >= 2**20
    room.close()
    assert path.stat().st_size == 10
    assert path.stat().st_blocks * 512 < 2**20
    assert path.read_bytes() == bytes(10)


def test_room_where_blocks_cannot_be_reserved(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "take_blocks", refusing(errno.EOPNOTSUPP))
    check(write(tmp_path / "frames.h5", range(3)), range(3))
    assert [each.name for each in tmp_path.iterdir()] == ["frames.h5"]
