"""Small JSON files that one step of the work writes and a later one reads, with a checksum."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from openmm_cgkd.exceptions import RecordError

from .files import write_text
from .text_file import MEGABYTE, read_text, shown

CHECKSUM = "content_sha256"
_LARGEST = 4 * MEGABYTE  # a hundred replicas take a tenth of one


def write_record(path: Path, content: dict[str, Any], allow_nan: bool = True) -> None:
    """Write a JSON object and its checksum, complete or not at all.

    Parameters
    ----------
    path : path
    content : dict
        Values that JSON knows.
    allow_nan : bool
        Whether numbers that are not finite are no error; strict readers do not know them.

    Raises
    ------
    ValueError
        If a number is not finite and must be.
    """
    # keys and tuples as the reader will find them
    plain = json.loads(json.dumps(content, allow_nan=allow_nan))
    plain.pop(CHECKSUM, None)
    write_text(path, json.dumps({**plain, CHECKSUM: _checksum(plain)}, indent=1))


def read_record(path: Path, cure: str = "make it again") -> dict[str, Any]:
    """Content of a file of `write_record`, or of a JSON object without a checksum.

    Parameters
    ----------
    path : path
    cure : str
        For messages.

    Raises
    ------
    RecordError
        If the file is missing or too large, is no JSON object, or was changed.
    """
    text = read_text(path, f"a JSON file, or {cure}", RecordError, _LARGEST)
    try:
        content = json.loads(text, object_pairs_hook=_unique)
        checksum = _checksum(content) if isinstance(content, dict) else ""
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{path}: is not valid JSON ({error}); {cure}.") from error
    if not isinstance(content, dict):
        raise RecordError(f"{path}: holds {shown(content)}, not a JSON object; {cure}.")
    if content.pop(CHECKSUM, checksum) != checksum:
        raise RecordError(
            f"{path}: was changed or damaged after it was written, its checksum differs; {cure}."
        )
    return content


def _checksum(content: dict[str, Any]) -> str:
    """SHA-256 of the content without the checksum, whatever the white space of the file."""
    rest = {name: value for name, value in content.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the field {shown(twice)} stands twice")
    return found
