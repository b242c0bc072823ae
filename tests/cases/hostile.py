"""Archives that nobody's torch has written: what a stranger or a broken disk may hand over."""

from __future__ import annotations

import io
import re
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.cases.potential import rewritten

_METHOD = re.compile(rb"  def (?:set_types|forward)\(self: [^)]*\) -> (?:Tensor|NoneType):\n")


def with_script(source: Path, target: Path, victim: Path) -> Path:
    """Copy of a potential file, with a hash that fits, whose script saves a tensor as `victim`.

    It does so when it is told the bead types, and when it is called.
    """
    patched = []

    def edit(name: str, content: bytes) -> bytes:
        if not name.startswith("archive/code/__torch__/openmm_cgkd/"):
            return content
        write = f'    torch.save(self.types, "{victim}")\n'.encode()
        text, n = _METHOD.subn(lambda found: found[0] + write, content)
        # in modules without bead types
        patched.append(n if b"types : Tensor" in content else 0)
        return text if patched[-1] else content

    rewritten(source, target, edit, hashed=True)
    assert sum(patched) >= 2
    return target


def zipped(target: Path, members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(target, "w", method, allowZip64=True) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return target


def bytes_changed(source: Path, target: Path, change: Callable[[bytearray], None]) -> Path:
    data = bytearray(source.read_bytes())
    change(data)
    target.write_bytes(data)
    return target


def entries(data: bytes | bytearray) -> list[int]:
    """Where the entries of the table of contents begin."""
    return [found.start() for found in re.finditer(b"PK\1\2", bytes(data))]


def encrypted(data: bytearray) -> None:
    """Flags of the first member, as encrypted archives have them."""
    struct.pack_into("<H", data, entries(data)[0] + 8, 1)


def many_members(data: bytearray) -> None:
    """Say that there are 60,000 members."""
    struct.pack_into("<2H", data, len(data) - 14, 60_000, 60_000)


def far_table(data: bytearray) -> None:
    """Say that the table of contents begins beyond the end."""
    struct.pack_into("<L", data, len(data) - 6, 2**31)


def overlapping(data: bytearray) -> None:
    """Let the second member begin where the first does."""
    first, second = entries(data)[:2]
    data[second + 42 : second + 46] = data[first + 42 : first + 46]


def larger_than_the_file(data: bytearray) -> None:
    """Say that the last member has a gigabyte."""
    struct.pack_into("<2L", data, entries(data)[-1] + 20, 2**30, 2**30)


def bomb(size: int) -> bytes:
    """Zeros, deflated to a thousandth."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/code/x.py", b"\0" * size)
    return content.getvalue()
