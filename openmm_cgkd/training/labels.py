"""The HDF5 file of labels: what the teachers say about every configuration."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.checks import check_boxes, check_finite
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.frames.hdf5 import FileKind, file_attributes, open_file
from openmm_cgkd.frames.seal import plain_text, read_checked

LABELS = FileKind("openmm_cgkd labels", 1, "labels", "'cgkd label'")
UNITS = {
    "forces": "kJ/mol/nm",
    "energies": "kJ/mol",
    "force_spread": "kJ/mol/nm",
    "energy_spread": "kJ/mol",
    "single_forces": "kJ/mol/nm",
    "single_energies": "kJ/mol",
}
_VECTORS = ("positions", "forces", "single_forces")
_CURE = "run 'cgkd label' again"


@dataclass(frozen=True)
class Labels:
    """Teachers' forces and energies of every configuration, without the prior.

    Attributes
    ----------
    forces : ndarray, shape (n_frames, n_beads, 3), kJ/mol/nm
        Mean over the teachers.
    energies : ndarray, shape (n_frames, n_beads), kJ/mol
        Mean over the teachers of centred per-bead energies.
    force_spread : ndarray, shape (n_frames, n_beads), kJ/mol/nm
        Standard deviation over the teachers, RMS over x, y, z.
    energy_spread : ndarray, shape (n_frames, n_beads), kJ/mol
    single_forces, single_energies : ndarray
        Of the first teacher alone.
    attributes : dict
        Identities of frames, teachers and prior, energy offsets, quality figures.
    positions : ndarray, shape (n_frames, n_beads, 3), nm, or None
    box : ndarray, shape (n_frames, 3, 3), nm, or None
        Of configurations beyond the all-atom frames; those are in a file of their own.
    """

    forces: np.ndarray
    energies: np.ndarray
    force_spread: np.ndarray
    energy_spread: np.ndarray
    single_forces: np.ndarray
    single_energies: np.ndarray
    attributes: dict[str, Any]
    positions: np.ndarray | None = None
    box: np.ndarray | None = None


def load_labels(path: Path, frames: Frames) -> Labels:
    """Read the labels of some frames, or of configurations beyond them.

    The latter were labelled by teachers of the given frames.

    Raises
    ------
    FramesError
        If the file is missing, foreign or damaged, belongs to other frames, or holds values that
        are not finite.
    """
    with open_labels(path, frames) as file:
        places = {name: read_checked(file[name]) for name in ("positions", "box") if name in file}
        values = {name: read_checked(file[name]) for name in UNITS}
        attributes = file_attributes(file)
    n, n_beads = len(places.get("positions", frames.positions)), frames.beads.n_beads
    for name, array in {**values, **places}.items():
        expected: tuple[int, ...] = (n, n_beads, 3) if name in _VECTORS else (n, n_beads)
        expected = (n, 3, 3) if name == "box" else expected
        if array.shape != expected or array.dtype.kind != "f":
            raise FramesError(
                f"{path}: {name} have shape {array.shape} and type {array.dtype}, expected"
                f" {expected} and floating point; {_CURE}."
            )
    check_finite({**values, **places}, path, (*values, *places), _CURE)
    if "box" in places:
        check_boxes(places["box"], path, _CURE)
    return Labels(**values, attributes=attributes, **places)


@contextmanager
def open_labels(path: Path, frames: Frames) -> Iterator[h5py.File]:
    """Open a file of labels to read parts of it; errors as `load_labels`."""
    path = Path(path)
    with open_file(path, LABELS) as file:
        if plain_text(file.attrs["frames"]) != frames.identity:
            raise FramesError(
                f"{path}: labels other frames than the ones given; run 'cgkd label' again."
            )
        names = tuple(plain_text(name) for name in np.atleast_1d(file.attrs["type_names"]))
        if names != tuple(frames.beads.type_names):
            raise FramesError(f"{path}: labels beads of the types {names}; {_CURE}.")
        yield file
