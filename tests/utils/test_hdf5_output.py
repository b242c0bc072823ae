"""HDF5 files on a disk that takes no more; HDF5 itself would end the process by a signal."""

import subprocess
import sys

import h5py
import numpy as np
import pytest

from openmm_cgkd.utils.hdf5_output import hdf5_output
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
