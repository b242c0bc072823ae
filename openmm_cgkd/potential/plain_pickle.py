"""Pickles of torch's archives, read as plain data: no class or function of the file is used.

Tensors are rebuilt, containers and numbers are kept, and every object of a script becomes an inert
`Record` of its attributes. Anything else is refused. The interpreter is this module's own, because
that of `pickle` sets attributes of what it has made, and lets a few bytes take all memory.
"""

from __future__ import annotations

import pickletools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from .archive import MEGABYTE, ArchiveError, check_shallow

_TYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_FIRST_ARGUMENT = {
    f"torch.jit._pickle {name}"
    for name in ("build_intlist", "build_doublelist", "build_boollist", "restore_type_tag")
}
_TENSOR, _DICTIONARY = "torch._utils _rebuild_tensor_v2", "collections OrderedDict"
_GLOBALS = {_TENSOR, _DICTIONARY} | _FIRST_ARGUMENT | {f"torch {name}" for name in _TYPES}


class Record(dict[str, Any]):
    """Attributes of an object whose class is not known and not wanted."""


class _Global(str):
    """Name of something that the file wants to have imported."""

    @property
    def is_scripted(self) -> bool:
        return self.startswith("__torch__")


def read_plain(members: Mapping[str, bytes], largest: int = MEGABYTE) -> Any:
    """The content of ``data.pkl`` in the members of an archive.

    Parameters
    ----------
    members : mapping of bytes
        As `read_archive` returns them.
    largest : int
        Most bytes of ``data.pkl``, which holds everything but the numbers of tensors. A megabyte
        takes a second.

    Raises
    ------
    ArchiveError
        If it is no pickle of torch, or holds anything but plain data, tensors and records.
    """
    if "data.pkl" not in members:
        raise ArchiveError("is no archive of torch")
    if members.get("byteorder", b"little") != b"little":
        raise ArchiveError("was written by a machine with another order of bytes")
    if len(members["data.pkl"]) > largest:
        raise ArchiveError(f"has a table of more than {largest // MEGABYTE} MB")
    try:
        content = _Interpreter(members).run()
    except ArchiveError:
        raise
    except Exception as error:  # a damaged pickle raises whatever its instructions run into
        raise ArchiveError("is damaged") from error
    check_shallow(content)
    return content


def tensors_of(record: Any) -> dict[str, Tensor]:
    """All tensors in a record and in the records within it, by dotted names."""
    found: dict[str, Tensor] = {}
    for name, value in record.items() if isinstance(record, Record) else ():
        if isinstance(value, Tensor):
            found[name] = value
        else:
            found |= {f"{name}.{inner}": tensor for inner, tensor in tensors_of(value).items()}
    return found


class _Interpreter:
    """Runs the instructions that torch writes, and no others."""

    def __init__(self, members: Mapping[str, bytes]) -> None:
        self.members = members
        self.storages: dict[str, Tensor] = {}
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below the marks
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        for instruction, argument, _ in pickletools.genops(self.members["data.pkl"]):
            self.step(instruction.name, argument)
        (content,) = self.stack
        return content

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        match name:
            case "PROTO" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT" | "BINUNICODE":
                stack.append(argument)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                n = int(name[-1])
                stack[-n:] = [tuple(stack[-n:])]
            case "MARK":
                self.outer.append(stack)
                self.stack = []
            case "TUPLE":
                self.since_mark(lambda items: self.stack.append(tuple(items)))
            case "APPEND":
                self.extend([stack.pop()])
            case "APPENDS":
                self.since_mark(self.extend)
            case "SETITEM":
                self.set_items([stack.pop(-2), stack.pop()])
            case "SETITEMS":
                self.since_mark(self.set_items)
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(self.memo[argument])
            case "GLOBAL":
                wanted = _Global(argument)
                if wanted not in _GLOBALS and not wanted.is_scripted:
                    raise ArchiveError(f"asks for {argument[:80]!r}, which is not plain data")
                stack.append(wanted)
            case "BINPERSID":
                stack.append(self.storage(*stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_called(stack.pop(), arguments))
            case "NEWOBJ":
                stack.pop()
                self.require(stack.pop(), _Global)
                stack.append(Record())
            case "BUILD":
                state = self.require(stack.pop(), dict)
                if isinstance(stack[-1], Record):
                    stack[-1].update(state)
                else:  # attributes of an ordered dictionary, which nobody needs
                    self.require(stack[-1], dict)
            case _:
                raise ArchiveError("is damaged")

    def require(self, value: Any, kind: type) -> Any:
        if not isinstance(value, kind):
            raise ArchiveError("is damaged")
        return value

    def since_mark(self, use: Any) -> None:
        items, self.stack = self.stack, self.outer.pop()
        use(items)

    def extend(self, items: list[Any]) -> None:
        self.require(self.stack[-1], list).extend(items)

    def set_items(self, items: list[Any]) -> None:
        # other keys, such as long integers, can be made so that a dictionary takes hours
        for key in items[::2]:
            if type(key) is not str and (type(key) is not int or key.bit_length() > 64):
                raise ArchiveError("is damaged")
        pairs = zip(items[::2], items[1::2], strict=True)
        self.require(self.stack[-1], dict).update(pairs)

    def storage(self, kind: str, where: str, key: str, _: str, count: int) -> Tensor:
        dtype = _TYPES[where.removeprefix("torch ")]
        if key not in self.storages:
            content = self.members[f"data/{key}"]
            self.storages[key] = (
                torch.frombuffer(bytearray(content), dtype=dtype)
                if content
                else torch.empty(0, dtype=dtype)
            )
        found = self.storages[key]
        if kind != "storage" or found.dtype != dtype or len(found) != count:
            raise ArchiveError("is damaged")
        return found


def _called(function: Any, arguments: tuple[Any, ...]) -> Any:
    if function == _TENSOR:
        storage, offset, size, stride, *_ = arguments
        if len(size) > 8:
            raise ArchiveError("is damaged")
        tensor = storage.as_strided(size, stride, offset)  # torch checks the bounds
        if tensor.numel() > storage.numel():  # the same numbers again and again, in a huge shape
            raise ArchiveError("is damaged")
        return tensor
    if function == _DICTIONARY and not arguments:
        return {}
    if function in _FIRST_ARGUMENT:
        return arguments[0]
    raise ArchiveError("is damaged")
