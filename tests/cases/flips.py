"""Files of which single bits are flipped, and what readers make of them."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from openmm_cgkd.exceptions import CGKDError


def outcomes(path: Path, read: Callable[[Path], Any], count: int, seed: int = 1) -> Counter[str]:
    """How often the reader refuses a file with one flipped bit, gives the same, or something else.

    Any error but a `CGKDError` is the caller's. The file is as before in the end.
    """
    data, right = path.read_bytes(), plain(read(path))
    found: Counter[str] = Counter()
    try:
        for bit in random.Random(seed).sample(range(8 * len(data)), count):
            damaged = bytearray(data)
            damaged[bit // 8] ^= 1 << bit % 8
            path.write_bytes(damaged)
            try:
                same = plain(read(path)) == right
            except CGKDError:
                found["refused"] += 1
                continue
            found["same" if same else f"changed by bit {bit}"] += 1
    finally:
        path.write_bytes(data)
    return found


def plain(value: Any) -> Any:
    """Nested values as what compares with one sign of equality, to the last bit."""
    if isinstance(value, dict):
        return {str(name): plain(each) for name, each in value.items()}
    if dataclasses.is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in dataclasses.fields(value)}
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray) and not value.dtype.hasobject:
        return value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, list | tuple | np.ndarray):
        return [plain(each) for each in value]
    return repr(value)
