"""What an interrupted optimisation has left, if it can be gone on with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from openmm_cgkd.exceptions import ModelFileError
from openmm_cgkd.potential.archive import MEGABYTE, ArchiveError, read_archive
from openmm_cgkd.potential.checkpoint import read_checkpoint
from openmm_cgkd.potential.plain_pickle import read_plain
from openmm_cgkd.utils.damaged import set_aside

from .task import BEST, LAST

_CURE = "its training starts over"
_LARGEST_TABLE = 16 * MEGABYTE  # of the names and shapes in a state
_NUMBERS = ("state_dict", "optimizer_states")


def partial_work(folder: Path, fingerprint: str) -> dict[str, Any] | None:
    """State of an optimisation with the same inputs; None if there is none to go on with.

    A damaged file is moved aside, with a warning.

    Parameters
    ----------
    folder : path
        Of the optimisation.
    fingerprint : str
        Identity of the inputs.
    """
    last, best = folder / LAST, folder / BEST
    there = last.exists()
    state = _whole(last, _read_state)
    if state is None and there and best.exists():
        # a training that starts over would replace it, and it may be whole
        set_aside(f"{best}: may be whole, but its training starts over.", best)
    if state is None or state.get("fingerprint") != fingerprint:
        return None
    # it is written again only when an epoch is better than all before
    return state if _whole(best, _read_best) is not None else None


def is_finished(folder: Path, fingerprint: str) -> bool:
    """Whether a folder holds a finished optimisation of the same inputs."""
    state = partial_work(folder, fingerprint)
    return state is not None and bool(state["finished"])


def move_damaged_aside(*paths: Path) -> None:
    """Of these checkpoints keep only those that are whole, so that a finished stage without all of
    its results runs again.
    """
    for path in paths:
        _whole(path, _read_best)


def _whole(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any] | None:
    """What a file holds; None if it is missing or damaged."""
    if not path.exists():
        return None
    try:
        return read(path)
    except ModelFileError as error:
        set_aside(str(error), path)
        return None


def _read_best(path: Path) -> dict[str, Any]:
    return read_checkpoint(path, _CURE)


def _read_state(path: Path) -> dict[str, Any]:
    """The state of a training, as Lightning writes and reads it."""
    try:
        # by the checksums that torch writes and does not read, and what would take all memory
        read_plain(read_archive(path, "a checkpoint"), _LARGEST_TABLE)
        try:
            content = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # whatever torch makes of damage that no checksum covers
            raise ArchiveError("cannot be read by torch") from error
        if not isinstance(content, dict):
            raise ArchiveError("holds no fields")
        if not all(_are_numbers(content.get(name)) for name in _NUMBERS):
            raise ArchiveError("holds values that are not numbers")
    except ArchiveError as error:
        raise ModelFileError(f"{path}: is no state to go on from: it {error}; {_CURE}.") from error
    return content


def _are_numbers(content: Any) -> bool:
    """Whether no value is NaN; a constant of a user's own network may be infinite."""
    if isinstance(content, Tensor):
        return not bool(content.isnan().any())
    if isinstance(content, dict):
        return all(map(_are_numbers, content.values()))
    if isinstance(content, list | tuple):
        return all(map(_are_numbers, content))
    return True
