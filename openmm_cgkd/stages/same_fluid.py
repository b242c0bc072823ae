"""Whether frames are of the fluid that system.yaml describes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mdtraj
import numpy as np

from openmm_cgkd.allatom.build import build_topology
from openmm_cgkd.config.system import SystemConfig, load_system
from openmm_cgkd.exceptions import FramesError
from openmm_cgkd.frames.frames import Frames
from openmm_cgkd.mapping.mapping import mapping_from_config
from openmm_cgkd.utils.text_file import shown
from openmm_cgkd.utils.yaml_file import parse_yaml


def check_same_fluid(path: Path, frames: Frames, file: Path) -> None:
    """Compare temperature, beads and masses of frames with a system.yaml.

    Parameters
    ----------
    path : path
        system.yaml; nothing is compared if it does not exist, because a run with frames needs none.
    frames : Frames
    file : path
        Where the frames come from, for messages.

    Raises
    ------
    FramesError
        Naming what differs.
    ConfigError, ForceFieldError
        If system.yaml or a molecule file is not valid.
    """
    if not path.exists():
        return
    system = load_system(path)
    for what, found, expected in _differences(system, frames):
        raise FramesError(
            f"{file}: its frames have {what} {found}, {path} has {expected}; give the frames of"
            " this fluid, or name their system.yaml in run.yaml."
        )


def _differences(system: SystemConfig, frames: Frames) -> list[tuple[str, Any, Any]]:
    """What differs, as found in the frames and as expected by the configuration."""
    found = []
    if abs(frames.temperature - system.temperature) > 1e-3 * system.temperature:
        found.append(("temperature", f"{frames.temperature:g} K", f"{system.temperature:g} K"))
    count = {molecule.name: molecule.count for molecule in system.molecules}
    made_with = _attribute(frames, "configuration")
    molecules = made_with.get("molecules")
    if isinstance(molecules, list) and all(isinstance(each, dict) for each in molecules):
        made_of = {str(each.get("name")): each.get("count") for each in molecules}
        if made_of != count:
            return [*found, ("the molecules", _listed(made_of), _listed(count))]
    if _attribute(frames, "options").get("mapping"):
        return found  # beads of a mapping file, which replaced those of system.yaml
    expected: dict[str, int] = {}
    for bead in system.beads:
        expected[bead.type] = expected.get(bead.type, 0) + count[bead.molecule]
    names = frames.beads.names
    counts = {name: names.count(name) for name in dict.fromkeys(names)}
    if counts != expected:
        return [*found, ("the beads", _listed(counts), _listed(expected))]
    beads = [bead.model_dump(mode="json") for bead in system.beads]
    if "beads" in made_with and made_with["beads"] != beads:
        found.append(("the selections", _selections(made_with["beads"]), _selections(beads)))
    masses = _masses(system)
    for name in expected:
        mass = frames.beads.masses[np.array(names) == name].mean()
        if abs(mass - masses[name]) > 0.1 + 0.005 * masses[name]:
            found.append((f"a mass of {name}", f"{mass:.2f} dalton", f"{masses[name]:.2f} dalton"))
    return found


def _attribute(frames: Frames, name: str) -> dict[str, Any]:
    """An attribute that holds a mapping as YAML, or as JSON, which is YAML as well."""
    source = f"the attribute {name} of the frames"
    found = parse_yaml(str(frames.attributes.get(name, "{}")), source, FramesError)
    if not isinstance(found, dict):
        raise FramesError(f"{source} is {shown(found)}, not a mapping; remove it.")
    return found


def _masses(system: SystemConfig) -> dict[str, float]:
    """Mean mass of the beads of each type, dalton, from the molecule files."""
    single = [molecule.model_copy(update={"count": 1}) for molecule in system.molecules]
    system = system.model_copy(update={"molecules": single})
    topology = mdtraj.Topology.from_openmm(build_topology(system))
    mapping = mapping_from_config(system, topology, calibrate=True)
    names = np.array(mapping.topology.names)
    return {name: float(mapping.topology.masses[names == name].mean()) for name in set(names)}


def _selections(beads: Any) -> str:
    try:
        return ", ".join(f"{bead['type']} '{bead['selection']}'" for bead in beads)
    except (KeyError, TypeError):  # of a file by hand
        return shown(beads)


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items())
