"""Damaged files are moved aside, not removed: the user may know what can be saved of them."""

from __future__ import annotations

import os
from pathlib import Path


def set_aside(path: Path) -> Path:
    """Rename a file to a free name that ends in ``.damaged``, and return that name."""
    k, target = 1, path.with_name(f"{path.name}.damaged")
    while target.exists():
        k += 1
        target = path.with_name(f"{path.name}.{k}.damaged")
    os.replace(path, target)
    return target
