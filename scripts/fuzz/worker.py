"""One case after the other in a process of its own, with limits of memory and time."""

from __future__ import annotations

import contextlib
import faulthandler
import multiprocessing
import os
import resource
import shutil
import signal
import struct
import time
import traceback
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.exceptions import CGKDError

from .targets import Target

REFUSED, EQUAL, DIFFERENT = "refused", "equal", "different"
FORBIDDEN = (
    "changed", "not finite", "not physical", "unclear", "traceback", "crash", "hang", "memory",
)  # fmt: skip
_FORK = multiprocessing.get_context("fork")
_START = 120.0  # seconds
_MEMORY = 2 * 2**30  # bytes above what the process begins with


@dataclass(frozen=True)
class Case:
    """A damaged file and what became of it.

    Attributes
    ----------
    target : str
    number : int
        With target and seed it says how the file was damaged.
    outcome : str
    detail : str
        Of a forbidden outcome.
    seconds : float
    """

    target: str
    number: int
    outcome: str
    detail: str
    seconds: float


def damaged(target: Target, data: bytes, seed: int, number: int) -> bytes:
    """The file of one case."""
    random = np.random.default_rng([seed, number, zlib.crc32(target.name.encode())])
    return target.mutate(data, random)


def run_cases(
    originals: Path, scratch: Path, target: Target, seed: int, numbers: range, seconds: float
) -> Iterator[Case]:
    """Outcomes of some cases; a process that crashes or hangs is replaced."""
    left = list(numbers)
    while left:
        ours, theirs = _FORK.Pipe()
        process = _FORK.Process(
            target=_work, args=(theirs, originals, scratch, target, seed, left), daemon=True
        )
        process.start()
        theirs.close()
        try:
            yield from _listen(ours, process, target, left, seconds)
        finally:
            process.kill()
            process.join()
            ours.close()


def _listen(
    pipe: Connection, process: Any, target: Target, left: list[int], seconds: float
) -> Iterator[Case]:
    trouble = pipe.recv() if pipe.poll(_START) else "it takes too long"
    if trouble:
        raise RuntimeError(f"{target.file}: the original cannot be read.\n{trouble}")
    while left:
        outcome, detail, took = "hang", f"more than {seconds:g} s", seconds
        begin = time.monotonic()
        if pipe.poll(seconds):
            try:
                outcome, detail, took = pipe.recv()
            except (EOFError, OSError):
                process.join()
                code = process.exitcode or 0
                name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
                outcome, detail, took = "crash", name, time.monotonic() - begin
        yield Case(target.name, left.pop(0), outcome, detail, took)
        if outcome in ("hang", "crash"):
            return


def _work(
    pipe: Connection,
    originals: Path,
    scratch: Path,
    target: Target,
    seed: int,
    numbers: list[int],
) -> None:
    """Read damaged files and report; runs in a process of its own."""
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    warnings.simplefilter("ignore")
    faulthandler.disable()
    data = (originals / target.file).read_bytes()
    try:
        wanted = _fingerprint(_read(target, data, originals, scratch))
    except BaseException:
        pipe.send(traceback.format_exc())
        return
    pipe.send("")
    with open("/proc/self/statm") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number in numbers:
        content = damaged(target, data, seed, number)
        begin = time.monotonic()
        outcome, detail = _outcome(target, content, originals, scratch, wanted)
        pipe.send((outcome, detail, time.monotonic() - begin))


def _outcome(
    target: Target, content: bytes, originals: Path, scratch: Path, wanted: int
) -> tuple[str, str]:
    try:
        found = _read(target, content, originals, scratch)
    except CGKDError as error:
        message = str(error)
        clear = target.file in message and "\n" not in message and message.endswith(".")
        return (REFUSED, "") if clear and len(message) < 1500 else ("unclear", message[:500])
    except MemoryError:
        return "memory", traceback.format_exc()[-1500:]
    except BaseException as error:
        if "alloc" in str(error).lower():
            return "memory", traceback.format_exc()[-1500:]
        return "traceback", traceback.format_exc()[-1500:]
    if _fingerprint(found) == wanted:
        return EQUAL, ""
    wrong = _wrong(found)
    if wrong:
        return wrong
    if target.sealed is not None and target.sealed(content):
        return "changed", "no checksum saw it"
    return DIFFERENT, ""


def _read(target: Target, content: bytes, originals: Path, scratch: Path) -> Any:
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(scratch)
    scratch.mkdir(parents=True)
    (scratch / target.file).write_bytes(content)
    return target.read(scratch / target.file, originals)


def _fingerprint(content: Any) -> int:
    """Checksum of nested content, bit for bit."""
    if isinstance(content, dict):
        pairs = sorted((str(k), _fingerprint(v)) for k, v in content.items())
        return zlib.crc32(repr(pairs).encode())
    if isinstance(content, list | tuple):
        return zlib.crc32(repr([_fingerprint(each) for each in content]).encode())
    if isinstance(content, np.ndarray) and content.dtype.kind == "O":
        return _fingerprint(content.tolist())
    if isinstance(content, np.ndarray):
        head = f"{content.dtype} {content.shape}".encode()
        return zlib.crc32(np.ascontiguousarray(content).tobytes(), zlib.crc32(head))
    if isinstance(content, float):
        return zlib.crc32(struct.pack("d", content))
    return zlib.crc32(f"{type(content).__name__} {content}".encode(errors="replace"))


def _wrong(content: Any, name: str = "") -> tuple[str, str] | None:
    """The first number that is not finite, mass that is not positive or box without a volume."""
    if isinstance(content, dict):
        return next(filter(None, (_wrong(v, str(k)) for k, v in content.items())), None)
    if isinstance(content, list | tuple):
        return next(filter(None, (_wrong(each, name) for each in content)), None)
    values = np.asarray(content)
    if values.dtype.kind not in "fc":
        return None
    if not np.isfinite(values).all():
        return "not finite", name
    if name == "masses" and not (values > 0).all():
        return "not physical", name
    if (
        name in ("box", "boxes")
        and values.shape[-2:] == (3, 3)
        and not (np.linalg.det(values) > 0).all()
    ):
        return "not physical", name
    return None
