"""Files of version 0.1, written by that version.

A run of 20 frames of 12 soft spheres with two teachers; see ``README.md`` beside the files.
"""

from __future__ import annotations

import gzip

import numpy as np
import openmm

from tests.cases.paths import ROOT

FOLDER = ROOT / "tests" / "data" / "0.1"


def expected() -> dict[str, np.ndarray]:
    """What version 0.1 read from these files or calculated with them."""
    with np.load(FOLDER / "expected.npz") as file:
        return dict(file)


def read_system(engine: str) -> openmm.System:
    """The System that version 0.1 made of ``student.pt`` and saved as XML."""
    with gzip.open(FOLDER / f"system_{engine}.xml.gz", "rt") as file:
        return openmm.XmlSerializer.deserialize(file.read())
