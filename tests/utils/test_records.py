"""Records: a flipped bit is refused or changes nothing; old files and white space do not matter."""

import json

import pytest

from openmm_cgkd.exceptions import RecordError
from openmm_cgkd.utils.records import CHECKSUM, read_record, write_record
from tests.cases.flips import outcomes

CONTENT = {
    "name": "ethaline",
    "numbers": [1, 2.5, -3e-300, 0.1 + 0.2],
    "nested": {"7": None, "é": True},
    "empty": [],
}


def test_round_trip(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, CONTENT)
    assert read_record(path) == CONTENT
    assert list(json.loads(path.read_text())) == [*CONTENT, CHECKSUM]
    write_record(path, {**read_record(path), "more": 1})
    assert read_record(path) == {**CONTENT, "more": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_keys_and_tuples_become_what_json_knows(tmp_path):
    write_record(tmp_path / "record.json", {"pair": (1, 2), "by index": {3: "x"}})
    assert read_record(tmp_path / "record.json") == {"pair": [1, 2], "by index": {"3": "x"}}


def test_without_checksum_and_with_other_white_space(tmp_path):
    path = tmp_path / "record.json"
    path.write_text(json.dumps(CONTENT))
    assert read_record(path) == CONTENT
    write_record(path, CONTENT)
    path.write_text(json.dumps(dict(reversed(json.loads(path.read_text()).items()))))
    assert read_record(path) == CONTENT


def test_every_flipped_bit(tmp_path):
    path = tmp_path / "record.json"
    write_record(path, CONTENT)

    def read(path):
        found = read_record(path)
        # a changed name of the checksum leaves a field that no reader knows
        return {name: found.get(name) for name in CONTENT}

    found = outcomes(path, read, 1000)
    assert set(found) == {"refused", "same"}
    assert found["refused"] > 800


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", r"holds \[1, 2\], not a JSON object; make it again\.$"),
        ('{"a": 1, "a": 2}', "the field 'a' stands twice"),
        ('{"a": ' + "[" * 100_000, "is not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
        ('{"a": 1', "is not valid JSON"),
        ("", "is not valid JSON"),
        ('{"a": 1, "content_sha256": "00"}', "its checksum differs; make it again"),
    ],
)
def test_refused(tmp_path, text, message):
    path = tmp_path / "record.json"
    path.write_text(text)
    with pytest.raises(RecordError, match=message):
        read_record(path)
    with pytest.raises(RecordError, match="no such file"):
        read_record(tmp_path / "absent.json")


def test_huge_file_is_not_read(tmp_path):
    """Lists of small lists would take fifty times their size in memory."""
    path = tmp_path / "record.json"
    path.write_text("[" + 1_400_000 * "[]," + "[]]")
    with pytest.raises(RecordError, match="is larger than 4 MB"):
        read_record(path)
