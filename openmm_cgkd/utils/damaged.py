"""Damaged files are moved aside, not removed: the user may know what can be saved of them."""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from pathlib import Path

logger = logging.getLogger(__name__)


def set_aside(path: Path) -> Path:
    """Rename a file to a free name that ends in ``.damaged``, and return that name."""
    k, target = 1, path.with_name(f"{path.name}.damaged")
    while target.exists():
        k += 1
        target = path.with_name(f"{path.name}.{k}.damaged")
    os.replace(path, target)
    return target


def whole_arrays(path: Path) -> bool:
    """Whether an NPZ file is there and whole, by the checksums in it.

    A damaged one is moved aside, with a warning.
    """
    if not path.exists():
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.namelist() and archive.testzip() is None:
                return True
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, RuntimeError, zlib.error):
        pass
    logger.warning(
        "%s: is damaged, its work is done again; it is kept as %s", path, set_aside(path).name
    )
    return False
