"""Checksums of files that grow while a simulation runs.

A record of the simulation keeps the length and the SHA-256 of what had been written when its state
was saved. What comes after, a resumed simulation writes again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

from openmm_cgkd.exceptions import RecordError

from .records import read_record

RECORD = "progress.json"  # beside the files of a simulation
_AGAIN = "run the simulation again, which starts over where nothing whole is left"
logger = logging.getLogger(__name__)

_PIECE = 1 << 20  # bytes read at a time
# bytes at the beginning that change while a file grows: a DCD counts its frames there
_HEADS = {".dcd": 276}
_COUNTERS = slice(8, 12), slice(20, 24)  # number of frames, last step
# an XTC file is written anew with other step numbers where these outgrow 32 bits
_FIRST = 64


class AppendedFile:
    """A running SHA-256 of a file to which a simulation appends.

    Parameters
    ----------
    path : path
        It need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._head = _HEADS.get(path.suffix, 0)
        self._begin()

    def _begin(self) -> None:
        self._size, self._digest, self._first = self._head, hashlib.sha256(), b""

    def summary(self, size: int | None = None) -> dict[str, Any]:
        """Length and SHA-256 of the file; only what is new since the last call is read.

        Parameters
        ----------
        size : int, optional
            Bytes to take in, at least as many as before; all if absent.

        Returns
        -------
        dict
            "size", "sha256", and "head" with the bytes that the SHA-256 leaves out.
        """
        there = self.path.stat().st_size if self.path.exists() else 0
        if there <= self._head:
            self._begin()
            return {"size": 0, "sha256": self._digest.hexdigest(), "head": ""}
        with open(self.path, "rb") as file:
            head, first = file.read(self._head), file.read(_FIRST)
            if not first.startswith(self._first):
                self._begin()
            self._first = first
            end = there if size is None else size
            file.seek(self._size)
            while self._size < end and (piece := file.read(min(_PIECE, end - self._size))):
                self._digest.update(piece)
                self._size += len(piece)
            if size is None:
                os.fsync(file.fileno())  # the record must not outlive what it counts on
        return {"size": self._size, "sha256": self._digest.hexdigest(), "head": head.hex()}

    def cut(self, summary: dict[str, Any]) -> None:
        """Drop everything after what a summary describes, which must fit."""
        if not self.path.exists():
            return
        with open(self.path, "r+b") as file:
            file.truncate(summary["size"])
            file.write(bytes.fromhex(summary["head"]))
        self._begin()


def fits(path: Path, summary: dict[str, Any]) -> bool:
    """Whether a file begins with the bytes that a summary of `AppendedFile` describes."""
    size = path.stat().st_size if path.exists() else 0
    if size < summary["size"]:
        return False
    if summary["size"] == 0:
        return True
    found = AppendedFile(path).summary(summary["size"])
    return found["sha256"] == summary["sha256"] and _without_counters(
        found["head"]
    ) == _without_counters(summary["head"])


def check_written(path: Path, record: Path | None = None) -> None:
    """Check a file of a simulation against the record beside it.

    Nothing is checked without a record, or with one of an earlier version, which has no checksums.

    Parameters
    ----------
    path : path
    record : path, optional
        ``progress.json`` if absent.

    Raises
    ------
    RecordError
        If the file or the record was changed after it was written.
    """
    record = record or path.with_name(RECORD)
    if not record.exists():
        return
    content = read_record(record, _AGAIN)
    summary = content.get("files", {}).get(path.name)
    if summary is None:
        return
    longer = path.exists() and path.stat().st_size > summary["size"]
    if not fits(path, summary) or (longer and content["finished"]):
        raise RecordError(
            f"{path}: was changed or damaged after the simulation wrote it, its checksum in"
            f" {record.name} is another one; {_AGAIN}, or remove {record.name} if the change is"
            " yours."
        )


def is_whole(folder: Path) -> bool:
    """Whether the records of a simulation, and all files with a checksum, are as written."""
    try:
        records = {path.name: read_record(path, _AGAIN) for path in folder.glob("*.json")}
        for name in records.get(RECORD, {}).get("files", {}):
            check_written(folder / name)
    except RecordError as error:
        logger.warning("%s", error)
        return False
    return True


def _without_counters(head: str) -> bytes:
    data = bytearray.fromhex(head)
    for counter in _COUNTERS:
        data[counter] = bytes(len(data[counter]))
    return bytes(data)
