"""States of OpenMM simulations in XML files."""

from __future__ import annotations

import re
from pathlib import Path

import openmm

from openmm_cgkd.exceptions import SimulationError

_STATE = re.compile(r"\s*(<\?xml[^>]*\?>\s*)?<State[\s>]")


def read_state(path: Path) -> openmm.State:
    """Read a state that `openmm.XmlSerializer` wrote.

    The serializer makes whatever object a file holds. A system with a `PythonForce` is a pickle,
    which runs code when it is read, so nothing but a state goes to it.

    Raises
    ------
    SimulationError
        If the file holds no state.
    """
    try:
        text = path.read_text()
        if not _STATE.match(text):
            raise ValueError("it begins with no state")
        return openmm.XmlSerializer.deserialize(text)
    except (openmm.OpenMMException, ValueError) as error:
        raise SimulationError(
            f"{path}: is not a state of an OpenMM simulation ({error})."
        ) from error
