"""What HDF5 would never end on, or expand without limit, is refused before HDF5 has it."""

import shutil
import struct

import h5py
import pytest

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import read_frames
from openmm_cgkd.frames.guard import GuardedFile
from openmm_cgkd.frames.values import DamageError
from tests.cases.frames import check, leave_open, write


@pytest.fixture
def place(tmp_path):
    """A file and where its heap begins."""
    path = write(tmp_path / "frames.h5", range(3))
    return path, path.read_bytes().index(b"GCOL")


def changed(path, first, damage):
    data = bytearray(path.read_bytes())
    data[first : first + len(damage)] = damage
    path.write_bytes(data)


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize(
    ("first", "damage"),
    [
        (16, bytes(16)),  # free space of no length: HDF5 would not end
        (24, b"\xff" * 8),
        (24, (2**40).to_bytes(8, "little")),
        (16, b"\0\0\1\0\0\0\0\0\7" + bytes(7)),
    ],
)
def test_impossible_lengths(place, first, damage, killed):
    path, start = place
    changed(path, start + first, damage)
    if killed:
        leave_open(path)
    with pytest.raises(
        FramesError, match=r"is damaged: the text at byte \d+ has an impossible len"
    ):
        read_frames(path)


def test_heap_where_nothing_tells_of_writers(place, monkeypatch):
    """The file says that it is being written, and its file system cannot tell whether it is."""
    path, start = place
    leave_open(path)
    monkeypatch.setattr("openmm_cgkd.frames.hdf5.is_held", lambda path, unknown=True: unknown)
    check(path, range(3))
    changed(path, start + 16, bytes(16))
    with pytest.raises(FramesError, match="has an impossible length"):
        read_frames(path)


def test_heaps_of_many_texts(tmp_path):
    """Several heaps, full ones among them."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        for k in range(500):
            file.attrs[f"a{k}"] = "x" * k
    assert path.read_bytes().count(b"GCOL") > 5
    with GuardedFile(path) as guarded, h5py.File(guarded, "r") as file:
        assert all(file.attrs[f"a{k}"] == "x" * k for k in range(500))


def test_bytes_that_nobody_asks_for(tmp_path):
    """Neither what looks like a heap, nor the heap of a dataset that is not read."""
    path = write(tmp_path / "frames.h5", range(3))
    shutil.copy(path, tmp_path / "longer.h5")
    with open(tmp_path / "longer.h5", "ab") as file:
        file.write(struct.pack("<8sQ", b"GCOL\1", 48) + bytes(32))
    check(tmp_path / "longer.h5", range(3))


def test_heaps_within_heaps(tmp_path):
    """Each is right by itself; all would be walked through to the end of the file."""
    path, n = tmp_path / "a.h5", 1000
    data = b"".join(
        struct.pack("<8sQ", b"GCOL\1", 32 * (n - k)) + struct.pack("<HH4xQ", 1, 1, 16 * (k < n - 1))
        for k in range(n)
    )
    path.write_bytes(data)
    with GuardedFile(path) as guarded:
        for _ in range(3):  # the same one may be asked for again
            guarded.seek(0)
            assert guarded.read(16) == data[:16]
        guarded.seek(32)
        with pytest.raises(DamageError, match="the text at byte 32 lies within"):
            guarded.read(16)


def test_one_heap_again_and_again(tmp_path):
    """HDF5 keeps what it has read; a file that makes it forget is not read for ever."""
    path = tmp_path / "a.h5"
    path.write_bytes(struct.pack("<8sQHH4xQ", b"GCOL\1", 2**24, 0, 0, 2**24 - 16))
    with open(path, "r+b") as file:
        file.truncate(2**24)

    def ask(guarded):
        for _ in range(100):
            guarded.seek(0)
            guarded.read(16)

    with GuardedFile(path) as guarded, pytest.raises(DamageError, match="is far too long"):
        ask(guarded)


def test_sizes_that_are_not_known(tmp_path):
    """With lengths of four bytes everything in a heap stands elsewhere."""
    made = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    made.set_sizes(8, 4)
    h5py.h5f.create(str(tmp_path / "a.h5").encode(), fcpl=made).close()
    with h5py.File(tmp_path / "a.h5") as file:
        assert list(file) == []
    with (
        GuardedFile(tmp_path / "a.h5") as guarded,
        pytest.raises(DamageError, match="addresses and lengths have not 8 bytes"),
    ):
        h5py.File(guarded, "r")


def test_packed_names(tmp_path):
    """HDF5 would expand the heap of names without limit."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for k in range(20):
            file.attrs[f"a{k}"] = k
    data = path.read_bytes()
    changed(path, data.index(b"FRHP\0") + 7, b"\x20\0")
    with (
        GuardedFile(path) as guarded,
        h5py.File(guarded, "r") as file,
        pytest.raises(DamageError, match="are packed"),
    ):
        dict(file.attrs)
