"""Text files of users: what is refused before it is read, and what is read."""

import os

import numpy as np
import pytest

from openmm_cgkd.exceptions import ConfigError
from openmm_cgkd.utils.text_file import MEGABYTE, check_regular, read_text, shown

TEXT = "name: caf\u00e9\ncount: 3\n"


def read(path, most=MEGABYTE):
    return read_text(path, "a list", ConfigError, most)


def refused(path, message, most=MEGABYTE):
    with pytest.raises(ConfigError, match=message) as caught:
        read(path, most)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_utf8_with_or_without_a_byte_order_mark(tmp_path, encoding):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT, encoding=encoding)
    assert read(path) == TEXT


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEXT.encode("utf-16"), "UTF-16; save it in UTF-8"),
        (b"a: 1\nb: \xe9\n", "line 2: holds a character that is not UTF-8; save the file in UTF-8"),
        (b"a: 1\n\nb: \0\n", "line 3: holds a NUL character, so it is no text; give a list"),
    ],
)
def test_other_encodings(tmp_path, content, message):
    path = tmp_path / "a.yaml"
    path.write_bytes(content)
    refused(path, message)


def test_a_size_limit(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_bytes(b"#" * (MEGABYTE + 1))
    refused(path, "larger than 1 MB; give a list")
    assert len(read(path, 2 * MEGABYTE)) == MEGABYTE + 1
    with open(path, "wb") as file:  # holes take no disk, and would take memory
        file.truncate(2**40)
    refused(path, "larger than 1 MB")


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "absent", "no such file; give a list")
    refused(tmp_path, "is a folder; give a list")
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for a writer
    refused(tmp_path / "pipe", "is a device or a pipe and no file")
    (tmp_path / "zero").symlink_to("/dev/zero")
    refused(tmp_path / "zero", "is a device or a pipe and no file")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    refused(tmp_path / "loop", "cannot be read")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / "a\0b")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path / ("x" * 300))


def test_size_of_a_regular_file(tmp_path):
    (tmp_path / "a").write_text("four")
    assert check_regular(tmp_path / "a", "a list", ConfigError) == 4


def test_long_values_are_shortened():
    assert shown("x") == "'x'"
    assert len(shown(["y" * 10**6])) < 100
    assert "\n" not in shown(np.zeros((3, 3)))
