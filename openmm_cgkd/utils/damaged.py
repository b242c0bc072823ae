"""Damaged files are moved aside, not removed: the user may know what can be saved of them."""

from __future__ import annotations

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)


def set_aside(why: str, *paths: Path) -> None:
    """Rename files to free names that end in ``.damaged``, and warn.

    Parameters
    ----------
    why : str
        What is wrong and what happens now, as a sentence; the new names follow it.
    paths : path
        Those that are not there are passed over.
    """
    kept = [_renamed(path).name for path in paths if path.exists()]
    logger.warning("%s%s", why, f" Kept as {', '.join(kept)}." if kept else "")


def _renamed(path: Path) -> Path:
    k, target = 1, path.with_name(f"{path.name}.damaged")
    while target.exists():
        k += 1
        target = path.with_name(f"{path.name}.{k}.damaged")
    os.replace(path, target)
    return target
