"""Zip archives that torch writes, read without torch and without trust.

Potential files and checkpoints come from strangers, too. Everything that costs memory or time is
checked against the size of the file before it is read, and all that torch never writes is refused:
encryption, unknown compression, members that overlap, names that lead out of the archive.
"""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.utils.text_file import MEGABYTE, check_regular

_LARGEST = 2048 * MEGABYTE  # of a file
_MOST_MEMBERS, _LARGEST_TABLE = 20_000, 4 * MEGABYTE
_MOST_TEXT = 4 * MEGABYTE  # of all compressed members together, which are scripts
_MOST_VALUES, _DEEPEST = 300_000, 32
# the first folder can have the name of any file
_NAME = re.compile(r"[^/\\\x00-\x1f]+(/[\w.<>+-]+)+")
_FLAGS = 0x808  # sizes behind the data, names in UTF-8; others mean encryption or patches
_END = struct.Struct("<4s4H2LH")
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_SIZE = 20


class ArchiveError(ValueError):
    """What is wrong with an archive, as the end of a sentence that begins with its name."""


def read_archive(path: Path, what: str) -> dict[str, bytes]:
    """All members of an archive, by their names without the folder that all names begin with.

    Parameters
    ----------
    path : path
    what : str
        What to give where there is no such file, for messages.

    Raises
    ------
    ModelFileError
        If the file is missing or is no regular file.
    ArchiveError
        If it is not such an archive, is damaged, or holds what torch does not write. Nothing of
        the content has been read then, or not more than twice the size of the file.
    """
    size = check_regular(path, what, ModelFileError)
    if size > _LARGEST:
        raise ArchiveError(f"is larger than {_LARGEST // MEGABYTE} MB")
    try:
        with open(path, "rb") as file:
            _check_end(file, size)
            with zipfile.ZipFile(file) as archive:
                members = archive.infolist()
                _check_members(members, size)
                return {
                    member.filename.partition("/")[2]: _content(archive, member)
                    for member in members
                }
    except ArchiveError:
        raise
    except OSError as error:
        raise ArchiveError(f"cannot be read ({error.strerror})") from error
    except Exception as error:  # `zipfile` raises nearly every type on damaged files
        raise ArchiveError("is damaged") from error


def _content(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # with the size, or a short member could still inflate to gigabytes
    with archive.open(member) as file:
        return file.read(member.file_size)


def _check_end(file: BinaryIO, size: int) -> None:
    """Refuse a table of contents of another place or size than torch writes, before it is read.

    `zipfile` makes an object of every entry, with ten times the memory of the entry.
    """
    if size < _END.size:
        raise ArchiveError("is no archive of torch")
    file.seek(size - _END.size)
    mark, *disks, here, members, length, start, comment = _END.unpack(file.read(_END.size))
    if mark != b"PK\5\6":
        raise ArchiveError("is no archive of torch")
    gap = size - _END.size - start - length
    if gap == _END64.size + _LOCATOR_SIZE:  # torch says all of it twice
        file.seek(start + length)
        again = _END64.unpack(file.read(_END64.size))
        if again[0] != b"PK\6\6" or again[-4:] != (members, members, length, start):
            raise ArchiveError("is damaged")
    elif gap:
        raise ArchiveError("is damaged")
    if any(disks) or here != members or comment:
        raise ArchiveError("is damaged")
    if members > _MOST_MEMBERS or length > _LARGEST_TABLE:
        raise ArchiveError(f"has more than {_MOST_MEMBERS} members")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    end, text, names, roots = 0, 0, set(), set()
    for member in sorted(members, key=lambda each: each.header_offset):
        name = member.filename
        if (
            name != member.orig_filename  # it had a zero byte
            or not _NAME.fullmatch(name)
            or not {".", ".."}.isdisjoint(name.split("/"))
        ):
            raise ArchiveError(f"has a member with the odd name {name[:80]!r}")
        if name in names:
            raise ArchiveError(f"has two members with the name {name[:80]!r}")
        if member.flag_bits & ~_FLAGS:
            raise ArchiveError(f"has an encrypted or patched member, {name[:80]!r}")
        if member.compress_type == zipfile.ZIP_DEFLATED and "/code/" in name:
            text += member.file_size  # torch deflates scripts, and nothing else
        elif member.compress_type != zipfile.ZIP_STORED:
            raise ArchiveError(f"has a compressed member, {name[:80]!r}")
        elif member.file_size != member.compress_size:
            raise ArchiveError("is damaged")
        if text > _MOST_TEXT:
            raise ArchiveError(f"has scripts of more than {_MOST_TEXT // MEGABYTE} MB")
        if member.header_offset < end:
            raise ArchiveError("has members that overlap")
        end = member.header_offset + member.compress_size
        names.add(name)
        roots.add(name.partition("/")[0])
    if end > size or len(roots) > 1:
        raise ArchiveError("is damaged")


def check_shallow(value: Any) -> None:
    """Refuse plain data that are nested deep, or hold parts so often that a walk never ends.

    Raises
    ------
    ArchiveError
    """
    count, level = 0, [value]
    for _ in range(_DEEPEST):
        inner: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inner += each.values()
            elif isinstance(each, list | tuple):
                inner += each
            if count + len(inner) > _MOST_VALUES:
                raise ArchiveError("holds far too many values")
        count += len(inner)
        level = inner
    if level:
        raise ArchiveError("holds data that are nested too deep")
