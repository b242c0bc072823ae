"""Checksums of masses, molecules, charges and attributes: no flipped bit passes without a word."""

import shutil
import time

import h5py
import numpy as np
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import (
    iterate_frames,
    read_frames,
    set_attributes,
    write_frames,
    write_stream,
)
from openmm_cgkd.frames.seal import CONTENT
from tests.cases.cli import call
from tests.cases.flips import outcomes
from tests.cases.frames import BEADS, check, edited, frame, kill, start_writer, write
from tests.cases.old_files import FOLDER

REFUSED = r"differs \(if you changed it yourself, delete the attribute content_sha256\)"


def appended(folder):
    return write(folder / "frames.h5", range(6))


def packed(folder):
    write_frames(read_frames(appended(folder)), folder / "packed.h5")
    return folder / "packed.h5"


def streamed(folder):
    path = appended(folder)
    write_stream(folder / "s.h5", BEADS, {"temperature": 300.0, "a": [1, 2]}, iterate_frames(path))
    set_attributes(folder / "s.h5", {"density": 1.0})
    return folder / "s.h5"


@pytest.mark.parametrize("make", [appended, packed, streamed])
def test_flipped_bits(tmp_path, make):
    found = outcomes(make(tmp_path), read_frames, 150)
    assert found["refused"] > 5
    assert found["refused"] + found["same"] == 150, found


@pytest.mark.parametrize("make", [appended, packed, streamed])
@pytest.mark.parametrize("name", ["types", "masses", "molecules", "charges"])
def test_changed_bead_data(tmp_path, make, name):
    path = make(tmp_path)
    with h5py.File(path, "r+") as file:
        file["beads"][name][2] = abs(1 - file["beads"][name][2])
    with pytest.raises(FramesError, match=f"the checksum of beads/{name} {REFUSED}"):
        read_frames(path)
    with edited(path):
        pass
    assert len(read_frames(path)) == 6


@pytest.mark.parametrize(
    "change",
    [
        lambda file: file.attrs.modify("temperature", 300.1),
        lambda file: file.attrs.create("system", "other"),
        lambda file: file.attrs.create("new", 1),
        lambda file: file.attrs.__delitem__("system"),
        lambda file: file["beads"].attrs.create("type_names", ["B", "A"]),
        lambda file: file.move("beads/charges", "beads/other"),
        lambda file: file["beads"].create_dataset("bonds", data=np.zeros((0, 2), int)),
        lambda file: file["beads/masses"].attrs.__delitem__("sha256"),
    ],
)
def test_changed_attributes_and_names(tmp_path, change):
    path = appended(tmp_path)
    with h5py.File(path, "r+") as file:
        change(file)
    message = f"checksum of its attributes, names, types and shapes {REFUSED}"
    with pytest.raises(FramesError, match=message):
        read_frames(path)
    for options in ((), ("--repair",)):
        result = call("verify", path, *options)
        assert result.exit_code == 2
        assert "is damaged: the checksum of its attributes" in result.stderr


def test_checksum_is_not_handed_on(tmp_path):
    """A file made of another has its own checksum, of its own attributes."""
    frames = read_frames(appended(tmp_path))
    assert frames.attributes == {"temperature": 363.15, "system": "test"}
    write_frames(frames[::2], tmp_path / "few.h5")
    assert len(read_frames(tmp_path / "few.h5")) == 3


def test_whole_while_it_grows(tmp_path):
    """Readers and a kill meet a right checksum at every moment, and so does who goes on."""
    path = tmp_path / "frames.h5"
    process = start_writer(path, -1)
    try:
        deadline = time.monotonic() + 60
        while len(read_frames(path, allow_empty=True)) < 5:
            assert time.monotonic() < deadline
        shutil.copy(path, tmp_path / "copy.h5")
    finally:
        kill(process)
    n = len(read_frames(path))
    with h5py.File(tmp_path / "copy.h5", "r", libver="latest", swmr=True) as file:
        assert CONTENT in file.attrs
    assert call("verify", path, "--repair").exit_code == 0
    write(path, [n], after_step=n - 1)
    check(path, range(n + 1))


def test_files_before_there_were_checksums(tmp_path):
    for name in ("frames.h5", "mean_forces.h5", "labels.h5"):
        with h5py.File(FOLDER / name) as file:
            assert CONTENT not in file.attrs
    frames = read_frames(FOLDER / "frames.h5")
    write_frames(frames, tmp_path / "new.h5")
    assert read_frames(tmp_path / "new.h5").identity == frames.identity


def test_long_text_of_attributes(tmp_path):
    """Too much for the header of an object."""
    path = appended(tmp_path)
    text = "".join(str(frame(k)["forces"]) for k in range(300))
    assert len(text) > 2**16
    set_attributes(path, {"configuration": text, "more": ["a", "é", ""] * 20})
    found = read_frames(path).attributes
    assert found["configuration"] == text
    assert list(found["more"]) == ["a", "é", ""] * 20
