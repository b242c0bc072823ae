"""The folder of a new fluid: molecules, force field, system.yaml and run.yaml to begin with."""

from __future__ import annotations

import math
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmm_cgkd.allatom.build import box_edge, build_topology
from openmm_cgkd.allatom.force_field import check_bonded, read_force_field
from openmm_cgkd.allatom.molecule_file import load_molecule, rename_residue
from openmm_cgkd.allatom.sdf import sdf_to_pdb
from openmm_cgkd.config.commented import commented_yaml
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.schema import schema_text
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import BoxError, CGKDError, ConfigError
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.text_file import MEGABYTE, read_text
from openmm_cgkd.utils.units import to_float

_MOLECULE = re.compile(r"(?:(?P<name>[^=:/]+)=)?(?P<file>.+):(?P<count>\d{1,8})")
_ROOM = 0.85  # of the density, so that Packmol finds room
_MARGIN = 1.02  # of the box beyond twice the cutoff: the density is not known yet
# of ethaline on two cores, in docs/performance.md
_SPEED, _ATOMS, _CORES = 24.0, 2520, 2  # ns/day


@dataclass(frozen=True)
class NewFluid:
    """What a new folder holds.

    Attributes
    ----------
    folder : path
    n_atoms, n_beads : int
    edge : float, nm
        Of the box at the density that was given.
    simulated : float, ps
        Of all-atom dynamics, in all runs.
    lacks_force_field : bool
    """

    folder: Path
    n_atoms: int
    n_beads: int
    edge: float
    simulated: float
    lacks_force_field: bool

    @property
    def seconds(self) -> float:
        """A guess of what the all-atom runs take on the cores of this machine."""
        cores = min(len(os.sched_getaffinity(0)), 16)  # more gain little in a box of this size
        speed = _SPEED * _ATOMS / self.n_atoms * cores / _CORES
        return self.simulated / 1000 / speed * 86400


def write_new_fluid(
    folder: Path | str,
    molecules: list[str],
    temperature: str,
    force_field: Path | str | None = None,
    density: str = "1 gram/centimeter**3",
) -> NewFluid:
    """Write a folder to begin with: `system.yaml` and `run.yaml` with every default as a comment.

    One bead per molecule, at its centre of mass.

    Parameters
    ----------
    folder : path
        New or empty.
    molecules : list of str
        ``FILE:COUNT`` or ``NAME=FILE:COUNT``. A PDB file holds one molecule with CONECT records; an
        SDF or MOL file needs RDKit. The name is the residue name, by default that of the PDB file,
        or the first three letters of the name of the SDF file.
    temperature, density : str
        With units. The density, of the liquid as far as it is known, tells the size of the box.
    force_field : path, optional
        OpenMM force-field XML.

    Raises
    ------
    ConfigError
        If the folder holds something, or an argument is not as described.
    ForceFieldError
        If a molecule file or the force field is not valid, or the box is charged.
    BoxError
        If the box is smaller than twice the cutoff.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder}: exists already; give the name of a new folder.")
    given = [_parsed(text) for text in molecules]
    with tempfile.TemporaryDirectory() as new:
        fluid = _write(Path(new), folder, given, temperature, force_field, density)
        shutil.copytree(new, folder, dirs_exist_ok=True)
    return fluid


def _parsed(text: str) -> tuple[str | None, Path, int]:
    match = _MOLECULE.fullmatch(text)
    if match is None or int(match["count"]) == 0:
        raise ConfigError(
            f"molecule: got '{text}'; write FILE:COUNT or NAME=FILE:COUNT, such as water.pdb:200."
        )
    return match["name"], Path(match["file"]), int(match["count"])


def _write(
    new: Path,
    folder: Path,
    given: list[tuple[str | None, Path, int]],
    temperature: str,
    force_field: Path | str | None,
    density: str,
) -> NewFluid:
    new.joinpath("molecules").mkdir()
    entries, sources = [], {}
    for name, path, count in given:
        entry = _molecule(new, name, path, count)
        if entry in entries or entry["structure"] in sources:
            raise ConfigError(
                f"molecule: two are named {entry['name']}; give NAME={path}:{count} with another"
                " name."
            )
        entries.append(entry)
        sources[entry["structure"]] = path
    if force_field is not None:
        if not Path(force_field).is_file():
            raise ConfigError(f"force field: {force_field}: no such file; give an OpenMM XML.")
        shutil.copy(force_field, new / "forcefield.xml")
        sources["forcefield.xml"] = Path(force_field)
    per_volume = _density(density)
    data = {
        "name": folder.resolve().name,
        "force_field": "forcefield.xml",
        "temperature": temperature,
        "molecules": entries,
        "beads": [{"type": entry["name"], "molecule": entry["name"]} for entry in entries],
        "reference": {"initial_density": f"{_ROOM * per_volume:.3g} gram/centimeter**3"},
    }
    system = parse(SystemConfig, data, "the new system.yaml", new)
    with _naming(new, sources):
        fluid = _measured(system, folder, per_volume, force_field is None)
        if force_field is not None:
            read_force_field(system)
    run = parse(RunConfig, {"system": "system.yaml", "folder": "run"}, "the new run.yaml", new)
    for name, config, head in (("system", system, _SYSTEM_HEAD), ("run", run, _RUN_HEAD)):
        schema = f"{name}.schema.json"
        write_text(new / schema, schema_text(type(config)))
        head = f"yaml-language-server: $schema={schema}\n{head}"
        write_text(new / f"{name}.yaml", commented_yaml(config, head))
    return fluid


_SYSTEM_HEAD = """The fluid: molecules, force field, temperature, beads.
A line with a mark before its field is a default; remove the mark and change it. Quantities have
units."""
_RUN_HEAD = """What to do with it: cgkd run run.yaml.
A line with a mark before its field is a default; remove the mark and change it. Quantities have
units."""


@contextmanager
def _naming(new: Path, sources: dict[str, Path]) -> Iterator[None]:
    """Errors name the user's own files, not their copies."""
    try:
        yield
    except CGKDError as error:
        text = str(error)
        for copy, source in sources.items():
            text = text.replace(str((new / copy).resolve()), str(source))
        raise type(error)(text) from error


def _molecule(new: Path, name: str | None, path: Path, count: int) -> dict[str, Any]:
    """Put the file of a molecule into the folder; its entry in system.yaml."""
    if path.suffix.lower() in (".sdf", ".mol"):
        name = name or re.sub(r"[^A-Za-z0-9]", "", path.stem)[:3].upper()
        text = sdf_to_pdb(path)
    else:
        text = read_text(path, "a PDB file of one molecule", ConfigError, 16 * MEGABYTE)
    if name:
        text = rename_residue(path, text, name)
    else:
        atoms = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]
        name = atoms[0][17:21].strip() if atoms else ""
    if not re.fullmatch(r"\w+", name):
        raise ConfigError(
            f"{path}: has no residue name in columns 18-20; write it there, or give"
            f" NAME={path}:{count}."
        )
    structure = f"molecules/{name}.pdb"
    if not (new / structure).exists():
        write_text(new / structure, text)
    return {"name": name, "structure": structure, "count": count}


def _density(text: str) -> float:
    """In g/cm^3."""
    try:
        density = to_float(text, "gram/centimeter**3")
    except ValueError as error:
        raise ConfigError(f"density: {error}.") from error
    if density <= 0:
        raise ConfigError(f"density: got {text}; give the density of a liquid, such as '1 g/cm^3'.")
    return density


def _measured(
    system: SystemConfig, folder: Path, density: float, lacks_force_field: bool
) -> NewFluid:
    """Count atoms, and check the size of the box."""
    for molecule in system.molecules:
        check_bonded(load_molecule(system, molecule.name).topology, system.path(molecule.structure))
    topology, reference = build_topology(system), system.reference
    n_beads = sum(molecule.count for molecule in system.molecules)
    edge, cutoff = box_edge(system, topology, density), reference.nonbonded_cutoff
    smallest = 2 * _MARGIN * cutoff
    if edge < smallest:
        raise BoxError(
            f"The box of {n_beads} molecules at {density:g} g/cm^3 has an edge of {edge:.2f} nm; a"
            f" cutoff of {cutoff:g} nm needs {smallest:.2f} nm, with a margin for the density; take"
            f" at least {math.ceil(n_beads * (smallest / edge) ** 3)} molecules."
        )
    simulated = reference.annealing + reference.npt + reference.nvt + reference.production
    return NewFluid(
        folder,
        topology.getNumAtoms(),
        n_beads,
        edge,
        reference.runs * simulated,
        lacks_force_field,
    )
