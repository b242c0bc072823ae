"""Ways to damage a file: as bytes, as text, as HDF5, as a zip archive."""

from __future__ import annotations

import contextlib
import gzip
import io
import re
import zipfile
from collections.abc import Callable

import h5py
import numpy as np

Random = np.random.Generator
Mutation = Callable[[bytes, Random], bytes]

_NUMBER = re.compile(rb"(?<![\w.])[+-]?\d+\.?\d*(?:[eE][+-]?\d+)?(?![\w.])")
_WORD = re.compile(rb"[A-Za-z_][\w-]*")
_NUMBERS = [
    b"nan", b"-nan", b".nan", b"inf", b"-inf", b".inf", b"1e999", b"-1e999", b"1e308", b"1e-320",
    b"-1", b"0", b"-0.0", b"1", b"2", b"0.5", b"99999999999999999999", b"-9223372036854775809",
    b"2147483648", b"1000000000000", b"9" * 5000, b"012", b"0x10", b"1_0", b"1:30", b"yes",
    b"true", b"null", b"''", b"[]", b"{}", b"1,5", b"1 2", b"****", b"1e5", b"-1e5", b"2**9**9",
]  # fmt: skip
_SNIPPETS = [
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\x1b[2J", b"\t", b"\r", b"\n", b"\n\n", b"\n---\n", b"#",
    b"!!binary x ", b"!!python/object/apply:os.system [ls] ", b"&a ", b"*a ", b"&a [*a, *a] ",
    b"[" * 50, b"{" * 50, b"- " * 50, b": ", b"? ", b"'", b'"', b"<<: ", b"%", b"| ", b"2024-13-45",
    b"x" * 70_000, b"\xe9", b"\xc3\xa9", b"1 ** 99999999 kelvin", b"ITEM: ATOMS id\n", b"CONECT",
    b"\nMODEL 2\n", b"\nENDMDL\n", b"\nTER\n", b"ATOM  ", b"\\", b"[red]", b"../../..",
    b"/dev/zero",
]  # fmt: skip


def of_bytes(data: bytes, random: Random) -> bytes:
    """A flipped bit; bytes set, put in, left out, repeated or moved; a file cut short."""
    if not data:
        return random.bytes(10)
    changed = bytearray(data)
    for _ in range(1 if random.random() < 0.6 else int(random.integers(2, 6))):
        n = max(1, len(changed))
        at, length = int(random.integers(n)), int(2 ** random.uniform(0, 8))
        kind = int(random.choice(8, p=[0.4, 0.15, 0.1, 0.1, 0.1, 0.05, 0.05, 0.05]))
        if kind == 0 and changed:
            changed[at] ^= 1 << int(random.integers(8))
        elif kind == 1 and changed:
            changed[at] = int(random.choice([0, 1, 0x7F, 0x80, 0xFF, random.integers(256)]))
        elif kind == 2:
            changed[at:at] = random.bytes(length)
        elif kind == 3:
            del changed[at : at + length]
        elif kind == 4:  # a piece of the file in another place
            origin = int(random.integers(n))
            piece = changed[origin : origin + length]
            changed[at : at + len(piece)] = piece
        elif kind == 5:
            changed[at : at + length] = bytes([int(random.choice([0, 0xFF]))]) * length
        elif kind == 6:
            changed[at : at + 8] = random.choice(
                [b"\xff" * 8, b"\x00" * 6 + b"\xf0\x7f", b"\x7f" * 8]
            )
        else:
            del changed[at:]
    return bytes(changed)


def of_text(data: bytes, random: Random) -> bytes:
    """Numbers or words replaced, lines left out, repeated or exchanged, snippets put in; bytes."""
    if random.random() < 0.25:
        return of_bytes(data, random)
    for _ in range(1 if random.random() < 0.6 else int(random.integers(2, 5))):
        kind = int(random.choice(5, p=[0.35, 0.15, 0.15, 0.25, 0.1]))
        if kind == 0:
            data = _replace(data, _NUMBER, [random.choice(_NUMBERS)], random)
        elif kind == 1:
            words = _WORD.findall(data[:100_000]) or [b"x"]
            data = _replace(data, _WORD, [random.choice(words), random.bytes(3)], random)
        elif kind == 2:
            at = int(random.integers(len(data) + 1))
            data = data[:at] + _pick(_SNIPPETS, random) + data[at:]
        elif kind == 3:
            data = _lines(data, random)
        else:
            data = _spaces(data, random)
    return data


def _pick(choices: list[bytes], random: Random) -> bytes:
    return choices[int(random.integers(len(choices)))]


def _replace(data: bytes, pattern: re.Pattern[bytes], by: list[bytes], random: Random) -> bytes:
    found = list(pattern.finditer(data))
    if not found:
        return data
    match = found[int(random.integers(len(found)))]
    return data[: match.start()] + _pick(by, random) + data[match.end() :]


def _lines(data: bytes, random: Random) -> bytes:
    lines = data.splitlines(keepends=True)
    if len(lines) < 2:
        return data
    first, second = (int(k) for k in random.integers(len(lines), size=2))
    kind = int(random.integers(4))
    if kind == 0:
        del lines[first]
    elif kind == 1:
        lines.insert(second, lines[first])
    elif kind == 2:
        lines[first], lines[second] = lines[second], lines[first]
    else:
        del lines[first : first + 1 + int(random.integers(20))]
    return b"".join(lines)


def _spaces(data: bytes, random: Random) -> bytes:
    """Indentation or columns by one to the side."""
    lines = data.splitlines(keepends=True)
    if not lines:
        return data
    k = int(random.integers(len(lines)))
    at = int(random.integers(len(lines[k]) + 1)) if random.random() < 0.5 else 0
    line = lines[k]
    lines[k] = line[:at] + b" " + line[at:] if random.random() < 0.5 else line[:at] + line[at + 1 :]
    return b"".join(lines)


def of_gzip(data: bytes, random: Random) -> bytes:
    """The compressed bytes, or the text in them."""
    if random.random() < 0.5:
        return of_bytes(data, random)
    return gzip.compress(of_text(gzip.decompress(data), random), 1)


def of_hdf5(data: bytes, random: Random) -> bytes:
    """The bytes, or an object of the file: removed, of another type, shape or value, or a link."""
    if random.random() < 0.6:
        return of_bytes(data, random)
    memory = io.BytesIO(data)
    # what a change does not fit stays as it is
    with contextlib.suppress(Exception), h5py.File(memory, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        for _ in range(1 if random.random() < 0.7 else 2):
            _change_object(file, names[int(random.integers(len(names)))], random)
    return memory.getvalue()


def _change_object(file: h5py.File, name: str, random: Random) -> None:
    if name not in file:
        return
    if random.random() < 0.3:
        place = file if random.random() < 0.5 else file[name]
        if place.attrs:
            key = list(place.attrs)[int(random.integers(len(place.attrs)))]
            if random.random() < 0.2:
                del place.attrs[key]
            else:
                place.attrs[key] = _odd_value(random)
        return
    old = file[name][()] if isinstance(file[name], h5py.Dataset) else None
    kind = int(random.integers(9))
    if kind == 0 and old is not None and old.size and old.dtype.kind in "fiu":
        values = old.reshape(-1).copy()
        k = int(random.integers(values.size))
        values[k] = (
            random.choice([np.nan, np.inf, -1, 0, 1e30, 1e-40])
            if old.dtype.kind == "f"
            else int(random.choice([0, 1, 3, 127]))
        )
        file[name][...] = values.reshape(old.shape)
        return
    del file[name]
    if kind <= 2:
        return
    if kind == 3:
        file[name] = h5py.ExternalLink("/etc/passwd", "/")
    elif kind == 4:
        file[name] = h5py.SoftLink("/absent" if random.random() < 0.5 else f"/{name}")
    elif kind == 5:
        file[name] = _odd_value(random)
    elif kind == 6:  # declared, never written: takes no disk, and would take memory
        shape = (10**9, *(old.shape[1:] if old is not None else ()))
        file.create_dataset(name, shape, "f4", chunks=(1, *shape[1:]))
    elif kind == 7:
        file.create_group(name)
    elif old is not None and old.size:
        file[name] = old[: len(old) // 2] if old.ndim else old
    else:
        file.create_group(name)


def _odd_value(random: Random) -> object:
    return [
        np.nan, np.inf, -1, 0, 1e300, 2**62, "text", "x" * 1000, "\x1b[2J", "[" * 10_000, "{}",
        "null", np.zeros((0, 3)), np.zeros((3, 3)), np.array([1 + 2j]), np.array([True]),
        np.bytes_(b"\xff\xfe"), h5py.Empty("f4"), np.arange(5),
    ][int(random.integers(19))]  # fmt: skip


def of_zip(data: bytes, random: Random) -> bytes:
    """The bytes, or a member: changed, removed, renamed, repeated, compressed, or grown."""
    if random.random() < 0.6:
        return of_bytes(data, random)
    target = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(target, "w") as new:
        names = old.namelist()
        chosen, kind = int(random.integers(len(names))), int(random.integers(7))
        for k, name in enumerate(names):
            content, method = old.read(name), zipfile.ZIP_STORED
            if k == chosen:
                if kind == 0:
                    continue
                if kind in (1, 2):
                    content = (of_text if kind == 1 else of_bytes)(content, random)
                elif kind == 3:
                    name = f"{name}x"
                elif kind == 4:
                    new.writestr(name, of_bytes(content, random))
                elif kind == 5:
                    content, method = content + bytes(2**26), zipfile.ZIP_DEFLATED
                else:
                    content = b""
            new.writestr(name, content, method)
    return target.getvalue()
