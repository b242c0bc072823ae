"""Archives of strangers: refused by what they say about themselves, before they cost anything."""

import tracemalloc
import zipfile

import pytest
import torch

from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.potential.archive import MEGABYTE, ArchiveError, check_shallow, read_archive
from tests.cases import hostile
from tests.cases.hostile import bytes_changed, zipped

MEMBERS = {f"archive/{name}": name.encode() * 20 for name in ("data/0", "data/1", "data.pkl")}


@pytest.fixture
def file(tmp_path):
    return zipped(tmp_path / "student.pt", MEMBERS)


def test_members_by_name(file):
    found = read_archive(file, "a file")
    assert found == {name.removeprefix("archive/"): data for name, data in MEMBERS.items()}


def test_what_torch_writes_with_any_name(tmp_path):
    """Its archives repeat their end, and their folder has the name of the file."""
    path = tmp_path / "grüner Tee (2).pt"
    torch.save({"a": torch.arange(3)}, path)
    assert read_archive(path, "a file")["data/0"] == bytes(torch.arange(3).numpy())


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (hostile.encrypted, "encrypted"),
        (hostile.many_members, "more than 20000 members"),
        (hostile.far_table, "damaged"),
        (hostile.overlapping, "overlap"),
        (hostile.larger_than_the_file, "damaged"),
        (lambda data: data.__delitem__(slice(-40, None)), "no archive"),
        (lambda data: data.__delitem__(slice(0, 40)), "damaged"),
        (lambda data: data.extend(b"comment"), "no archive"),
        (lambda data: data.clear(), "no archive"),
    ],
)
def test_archives_that_lie(file, tmp_path, change, reason):
    bad = bytes_changed(file, tmp_path / "bad.pt", change)
    with pytest.raises(ArchiveError, match=reason):
        read_archive(bad, "a file")


@pytest.mark.parametrize(
    "name",
    ["/etc/passwd", "../a", "archive/../../a", "archive/./a", "archive//a", "archive\\a",
     "archive/", "a", "archive/a\nb", "archive/a b"],
)  # fmt: skip
def test_odd_names(tmp_path, name):
    with pytest.raises(ArchiveError, match="odd name"):
        read_archive(zipped(tmp_path / "bad.pt", {name: b""}), "a file")


def test_names_twice_and_two_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"1")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("archive/data.pkl", b"2")
    with pytest.raises(ArchiveError, match="two members with the name"):
        read_archive(tmp_path / "a.pt", "a file")
    two = zipped(tmp_path / "b.pt", {"one/a": b"", "two/a": b""})
    with pytest.raises(ArchiveError, match="damaged"):
        read_archive(two, "a file")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_weights_are_not_compressed(tmp_path, method):
    with pytest.raises(ArchiveError, match=r"compressed member|patched member"):
        read_archive(zipped(tmp_path / "a.pt", {"archive/data/0": b"a" * 99}, method), "a file")


@pytest.mark.parametrize("declared", [64 * MEGABYTE, 1000])
def test_a_bomb_costs_no_memory(tmp_path, declared):
    """Of 64 MB, as it says or more than it says."""
    bomb, path = bytearray(hostile.bomb(64 * MEGABYTE)), tmp_path / "bomb.pt"
    (place,) = hostile.entries(bomb)
    bomb[place + 24 : place + 28] = declared.to_bytes(4, "little")
    path.write_bytes(bomb)
    tracemalloc.start()
    with pytest.raises(ArchiveError, match=r"scripts of more than 4 MB|damaged"):
        read_archive(path, "a file")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * len(bomb) + MEGABYTE


def test_files_that_are_none(tmp_path):
    with pytest.raises(ModelFileError, match="no such file"):
        read_archive(tmp_path / "a.pt", "a file")
    with pytest.raises(ModelFileError, match="is a folder"):
        read_archive(tmp_path, "a file")
    with open(tmp_path / "huge.pt", "wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(ArchiveError, match="larger than"):
        read_archive(tmp_path / "huge.pt", "a file")


def test_deep_and_endless_data():
    check_shallow({"a": [1, {"b": (2, [3])}]})
    deep: list = []
    for _ in range(100_000):
        deep = [deep]
    laughs: list = ["ha"]
    for _ in range(30):
        laughs = 10 * [laughs]
    for bad, reason in ((deep, "too deep"), (laughs, "too many"), ([[0] * 400_000], "too many")):
        with pytest.raises(ArchiveError, match=reason):
            check_shallow(bad)
