"""Files are complete or absent."""

import hashlib

import pytest

from openmm_cgkd.exceptions import DiskError
from openmm_cgkd.utils.files import file_hash, replacing, write_text


def test_replacing_makes_folders_and_leaves_nothing_beside(tmp_path):
    path = tmp_path / "new" / "folder" / "result.txt"
    with replacing(path) as fresh:
        fresh.write_text("done")
        assert not path.exists()
    assert path.read_text() == "done"
    assert list(path.parent.iterdir()) == [path]


def test_failure_keeps_the_old_file(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "old")

    def fail() -> None:
        with replacing(path) as fresh:
            fresh.write_text("half")
            raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_block_that_writes_nothing_is_an_error(tmp_path):
    path = tmp_path / "result.txt"
    write_text(path, "old")
    with pytest.raises(DiskError, match="No such file"), replacing(path):
        pass
    assert path.read_text() == "old"


def test_leftover_of_a_killed_writer_is_overwritten(tmp_path):
    path = tmp_path / "result.txt"
    path.with_name("result.txt.tmp").write_text("torn, and longer than what follows")
    write_text(path, "whole")
    assert path.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [path]


def test_file_hash(tmp_path):
    path = tmp_path / "data.bin"
    path.write_bytes(b"ethaline" * 1000)
    assert file_hash(path) == hashlib.sha256(b"ethaline" * 1000).hexdigest()


def test_a_link_in_place_of_the_unfinished_file_leads_nowhere(tmp_path):
    other = tmp_path / "other.txt"
    other.write_text("somebody's")
    (tmp_path / "result.txt.tmp").symlink_to(other)
    write_text(tmp_path / "result.txt", "done")
    assert other.read_text() == "somebody's"
    assert (tmp_path / "result.txt").read_text() == "done"
