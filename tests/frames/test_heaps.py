"""Damaged heaps of text, on which HDF5 itself never ends."""

import shutil

import h5py
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.frames.heaps import check_heaps
from openmm_cgkd.frames.values import DamageError
from tests.cases.frames import check, write


@pytest.fixture
def place(tmp_path):
    """A file and where its heap begins."""
    path = write(tmp_path / "frames.h5", range(3))
    return path, path.read_bytes().index(b"GCOL")


@pytest.mark.parametrize(
    ("first", "damage"),
    [
        (16, bytes(16)),  # free space of no length: HDF5 would not end
        (24, b"\xff" * 8),
        (24, (2**40).to_bytes(8, "little")),
        (16, b"\0\0\1\0\0\0\0\0\7" + bytes(7)),
    ],
)
def test_impossible_lengths(place, first, damage):
    path, start = place
    data = bytearray(path.read_bytes())
    data[start + first : start + first + len(damage)] = damage
    path.write_bytes(data)
    with pytest.raises(
        FramesError, match=r"is damaged: the text at byte \d+ has an impossible len"
    ):
        read_frames(path)


def test_heaps_of_many_texts(tmp_path):
    """Several heaps, full ones among them."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for k in range(500):
            file.attrs[f"a{k}"] = "x" * k
    assert path.read_bytes().count(b"GCOL") > 5
    check_heaps(path)


def test_heap_across_blocks(place, monkeypatch):
    path, start = place
    monkeypatch.setattr("openmm_cgkd.frames.heaps.BLOCK", start + 3)
    check_heaps(path)
    data = bytearray(path.read_bytes())
    data[start + 16 : start + 32] = bytes(16)
    path.write_bytes(data)
    with pytest.raises(DamageError):
        check_heaps(path)


def test_positions_that_look_like_a_heap(tmp_path):
    """Without a plausible size they are numbers."""
    path = write(tmp_path / "frames.h5", range(3))
    shutil.copy(path, tmp_path / "longer.h5")
    with open(tmp_path / "longer.h5", "ab") as file:
        file.write(b"GCOL\1\0\0\0" + b"\xff" * 40)
    check_heaps(tmp_path / "longer.h5")
    check(tmp_path / "longer.h5", range(3))
