"""The running checksum of a file that grows, against one of the whole content."""

import hashlib
import json

import pytest

from openmm_cgkd.exceptions import RecordError
from openmm_cgkd.utils.appended import AppendedFile, check_written, fits, is_whole
from openmm_cgkd.utils.records import write_record


def test_a_growing_file_is_read_once(tmp_path):
    path, data = tmp_path / "state.csv", bytes(range(256)) * 5000
    file = AppendedFile(path)
    assert file.summary()["size"] == 0
    for end in (100, 30_000, len(data)):
        path.write_bytes(data[:end])
        found = file.summary()
        assert found["size"] == end
        assert found["sha256"] == hashlib.sha256(data[:end]).hexdigest()
        assert fits(path, found)


def test_a_tail_may_follow_but_nothing_may_change(tmp_path):
    path = tmp_path / "trajectory.xtc"
    path.write_bytes(b"abc" * 1000)
    found = AppendedFile(path).summary()
    path.write_bytes(b"abc" * 1000 + b"torn")
    assert fits(path, found)
    AppendedFile(path).cut(found)
    assert path.read_bytes() == b"abc" * 1000
    for bad in (b"abd" + b"abc" * 999, b"abc" * 999, b""):
        path.write_bytes(bad)
        assert not fits(path, found)
    path.unlink()
    assert not fits(path, found)


def test_the_frame_count_of_a_dcd_may_change(tmp_path):
    path = tmp_path / "trajectory.dcd"
    head = bytes(276)
    path.write_bytes(head + b"frame" * 50)
    found = AppendedFile(path).summary()
    path.write_bytes(head[:8] + b"\x07" + head[9:] + b"frame" * 51)
    assert fits(path, found)
    AppendedFile(path).cut(found)
    assert path.read_bytes() == head + b"frame" * 50
    path.write_bytes(head[:12] + b"\x07" + head[13:] + b"frame" * 50)  # another number than a count
    assert not fits(path, found)


def test_a_file_that_was_written_anew_is_read_anew(tmp_path):
    """OpenMM writes an XTC file again when step numbers outgrow 32 bits."""
    path = tmp_path / "trajectory.xtc"
    path.write_bytes(b"a" * 500)
    file = AppendedFile(path)
    file.summary()
    path.write_bytes(b"b" * 700)
    assert file.summary()["sha256"] == hashlib.sha256(b"b" * 700).hexdigest()


@pytest.mark.parametrize("change", [b"abX", b"ab", b"abcd"])
def test_a_changed_file_of_a_finished_run_is_named(tmp_path, change):
    path, record = tmp_path / "state.csv", tmp_path / "progress.json"
    path.write_bytes(b"abc")
    check_written(path)  # without a record
    record.write_text(json.dumps({"steps": 1}))
    check_written(path)  # of an earlier version
    files = {"state.csv": AppendedFile(path).summary()}
    write_record(record, {"files": files, "finished": True})
    check_written(path)
    assert is_whole(tmp_path)
    path.write_bytes(change)
    with pytest.raises(RecordError, match=r"state\.csv: was changed or damaged .* run the simul"):
        check_written(path)
    assert not is_whole(tmp_path)
