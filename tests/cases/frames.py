"""Files of mapped frames whose numbers are known, written whole or by a process that is killed."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from openmm_cgkd.frames.frames import FrameWriter, read_frames
from openmm_cgkd.frames.recovery import lookup3
from openmm_cgkd.frames.seal import CONTENT
from openmm_cgkd.mapping.beads import BeadTopology

N = 7
TRICLINIC = np.array([[3.0, 0.0, 0.0], [1.2, 2.5, 0.0], [-0.7, 0.9, 2.2]])
BEADS = BeadTopology(
    ("A", "B"),
    np.array([0, 1] * 3 + [0]),
    np.linspace(10, 70, N),
    np.arange(N),
    np.linspace(-0.6, 0.6, N),
)


def frame(step: int) -> dict:
    """A frame whose every number follows from its step, so that a torn or swapped one shows."""
    rng = np.random.default_rng(step)
    return {
        "positions": rng.normal(size=(N, 3)),
        "forces": rng.normal(scale=300, size=(N, 3)),
        "box": TRICLINIC * (1 + 1e-4 * step),
        "time": 0.004 * step,
        "step": step,
    }


def write(path: Path, steps, **options) -> Path:
    with FrameWriter(path, BEADS, {"temperature": 363.15, "system": "test"}, **options) as writer:
        for step in steps:
            writer.append(**frame(step))
    return path


def check(path: Path, steps) -> None:
    """The file holds exactly these frames, every number right."""
    frames = read_frames(path)
    assert frames.step.tolist() == list(steps)
    for k, step in enumerate(steps):
        expected = frame(step)
        assert np.array_equal(frames.positions[k], expected["positions"].astype("f4"))
        assert np.array_equal(frames.forces[k], expected["forces"].astype("f4"))
        assert np.array_equal(frames.box[k], expected["box"])
        assert frames.time[k] == expected["time"]


@contextmanager
def edited(path: Path) -> Iterator[h5py.File]:
    """An HDF5 file to change by hand, as one of a user, without checksum of its content."""
    with h5py.File(path, "r+") as file:
        yield file
        if CONTENT in file.attrs:
            del file.attrs[CONTENT]


def leave_open(path: Path) -> None:
    """Mark a file as one whose writer was killed."""
    data = bytearray(path.read_bytes())
    data[11] = 5  # open for writing by a single writer, see `recovery`
    data[44:48] = struct.pack("<I", lookup3(bytes(data[:44])))
    path.write_bytes(data)


WRITER = """
import sys
from tests.cases.frames import BEADS, frame
from openmm_cgkd.frames import FrameWriter
writer = FrameWriter(sys.argv[1], BEADS, {"temperature": 1.0}, after_step=int(sys.argv[2]))
print("ready", flush=True)
step = int(sys.argv[2]) + 1
while True:
    writer.append(**frame(step))
    step += 1
"""


def start_writer(path: Path, after_step: int) -> subprocess.Popen:
    """A process that appends frames in a loop until it is killed."""
    code = textwrap.dedent(WRITER)
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(after_step)],
        stdout=subprocess.PIPE,
        env=os.environ,
    )
    assert process.stdout.readline() == b"ready\n"
    return process


def kill(process: subprocess.Popen) -> None:
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    process.stdout.close()
