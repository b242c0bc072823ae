"""NPZ files with a checksum over all that they hold, in the comment of the archive."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from openmm_cgkd.exceptions import RecordError

from .damaged import set_aside
from .files import replacing
from .foreign import reading

_CURE = "its work is done again"


def write_arrays(path: Path, arrays: dict[str, Any]) -> None:
    """Write arrays by name, complete or not at all; `numpy.load` reads them."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    with zipfile.ZipFile(content, "a") as archive:
        archive.comment = _checksum(archive)
    with replacing(path) as fresh:
        fresh.write_bytes(content.getvalue())


def whole_arrays(path: Path) -> bool:
    """Whether a file of `write_arrays` is there and whole; of earlier versions each array alone.

    A damaged one is moved aside, with a warning.
    """
    if not path.exists():
        return False
    try:
        with (
            reading(path, "an NPZ file", _CURE, RecordError),
            zipfile.ZipFile(path) as archive,
        ):
            found = _checksum(archive)  # also the checksum of each array
            if not archive.namelist() or archive.comment not in (b"", found):
                raise RecordError(f"{path}: was changed after it was written; {_CURE}.")
    except RecordError as error:
        set_aside(str(error), path)
        return False
    return True


def _checksum(archive: zipfile.ZipFile) -> bytes:
    digest = hashlib.sha256()
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise ValueError("it is compressed, as this package never writes it")
    for name in sorted(archive.namelist()):
        content = archive.read(name)
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest().encode()
