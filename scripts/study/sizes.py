"""The study of student sizes: small students of big teachers.

Beside each the same network, trained directly on the mapped forces.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

from .plan import WEIGHTS, Variant

_EPOCHS, _LONGER = 6, 3
_TRAINING = {"epochs": _EPOCHS, "batch_size": 4, "learning_rate": 0.002}
# on top of `plan.BASE`: few big teachers, each of which sees every training frame
BIG_TEACHERS: dict[str, Any] = {
    "model": {"channels": 48, "layers": 1, "cutoff": "1.0 nanometer", "radial_functions": 24},
    "teachers": {"count": 4, "resample": "none", "training": _TRAINING},
    "student": {"training": _TRAINING},
}
CHANNELS, LAYERS, CUTOFFS = (8, 12, 16, 24, 32), (1, 0), (1.0, 0.8)
DISTILLED, DIRECT, LONGER = "distilled", "direct", "direct, longer"


def size_variants(epochs: int = _EPOCHS) -> list[Variant]:
    """Every size of student, distilled from the teachers' mean and trained on the mapped forces.

    Both with as many steps; the checkpoint is that of the smallest validation loss in either case.
    The sizes of `CHANNELS` alone are trained directly with `_LONGER` times the steps, too, which
    tells a better student from one that is only trained faster.

    Parameters
    ----------
    epochs : int
        Of the distillation.
    """
    found = []
    for layers, cutoff, channels in product(LAYERS, CUTOFFS, CHANNELS):
        size = size_name(channels, layers, cutoff)
        model = {
            "channels": channels,
            "layers": layers,
            "cutoff": f"{cutoff} nanometer",
            "radial_functions": 24,
        }
        noisy = {"targets": "noisy", "weights": WEIGHTS["F"], "model": model}
        students = {
            DISTILLED: {"targets": "ensemble", "weights": WEIGHTS["F"], "model": model},
            DIRECT: noisy,
        }
        if (layers, cutoff) == (LAYERS[0], CUTOFFS[0]):
            students[LONGER] = {**noisy, "training": {"epochs": _LONGER * epochs}}
        for way, student in students.items():
            name = f"{way.replace(', ', '-')}-{size}"
            teachers = "teachers" if way == DISTILLED else None
            found.append(Variant(name, {"student": student}, teachers, family=way, label=size))
    return found


def size_name(channels: int, layers: int, cutoff: float) -> str:
    """Such as ``16-1-0.8``: channels, layers, cutoff in nm."""
    return f"{channels}-{layers}-{cutoff}"


def size_claims(variants: Sequence[Variant]) -> dict[str, tuple[str, str]]:
    """Pairs of variants of one size, as `tables.CLAIMS`: distilled against trained directly."""
    by_size = {(variant.family, variant.label): variant.name for variant in variants}
    claims = {}
    for (way, size), name in by_size.items():
        distilled = by_size.get((DISTILLED, size))
        if way != DISTILLED and distilled:
            claims[f"{size}: distilled is better than {way}"] = (distilled, name)
    return claims
