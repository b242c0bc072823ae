"""States of OpenMM simulations in XML files."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import openmm

from openmm_cgkd.exceptions import SimulationError

_PARTS = {
    "PeriodicBoxVectors",
    "Parameters",
    "Energies",
    "Positions",
    "Velocities",
    "Forces",
    "IntegratorParameters",
}


def read_state(path: Path) -> openmm.State:
    """Read a state that `openmm.XmlSerializer` wrote.

    The serializer makes whatever object a file asks for. A system with a `PythonForce` or a
    `TorchForce` runs code when it is read, so nothing but a state goes to it, and as text that this
    package has written anew: another parser could see something else in the file.

    Raises
    ------
    SimulationError
        If the file holds no state.
    """
    try:
        root = ElementTree.fromstring(path.read_text())
        if root.tag != "State" or root.get("type") != "State":
            raise ValueError("it holds no state")
        for part in root:
            if part.tag not in _PARTS or any("type" in each.attrib for each in part.iter()):
                raise ValueError(f"it holds {part.tag!r:.40}, which no state has")
        return openmm.XmlSerializer.deserialize(ElementTree.tostring(root, "unicode"))
    except (openmm.OpenMMException, ValueError, ElementTree.ParseError) as error:
        raise SimulationError(
            f"{path}: is not a state of an OpenMM simulation ({error})."
        ) from error
