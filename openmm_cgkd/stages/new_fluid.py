"""The folder of a new fluid: molecules, force field, system.yaml and run.yaml to begin with."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from openmm import unit

from openmm_cgkd.allatom.force_field import read_force_field
from openmm_cgkd.allatom.molecule_file import load_molecule
from openmm_cgkd.allatom.sdf import sdf_to_pdb
from openmm_cgkd.config.commented import commented_yaml
from openmm_cgkd.config.run import RunConfig
from openmm_cgkd.config.schema import json_schema
from openmm_cgkd.config.section import parse
from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import BoxError, ConfigError
from openmm_cgkd.utils.files import write_text
from openmm_cgkd.utils.text_file import MEGABYTE, read_text
from openmm_cgkd.utils.units import DENSITY_UNIT, to_float

_MOLECULE = re.compile(r"(?:(?P<name>[^=:/]+)=)?(?P<file>.+):(?P<count>\d{1,8})")
_ROOM = 0.85  # of the density, so that Packmol finds room
_MARGIN = 1.02  # of the box beyond twice the cutoff: the density is not known yet
# ethaline on two cores of 2025, in docs/performance.md
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
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    new.joinpath("molecules").mkdir(parents=True)
    try:
        fluid = _write(new, folder, given, temperature, force_field, density)
        if folder.exists():
            folder.rmdir()
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
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
    entries = [_molecule(new, *each) for each in given]
    if force_field is not None:
        if not Path(force_field).is_file():
            raise ConfigError(f"force field: {force_field}: no such file; give an OpenMM XML.")
        shutil.copy(force_field, new / "forcefield.xml")
    per_volume = _density(density)
    data = {
        "name": folder.name,
        "force_field": "forcefield.xml",
        "temperature": temperature,
        "molecules": entries,
        "beads": [{"type": entry["name"], "molecule": entry["name"]} for entry in entries],
        "reference": {"initial_density": f"{_ROOM * per_volume:.3g} gram/centimeter**3"},
    }
    system = parse(SystemConfig, data, "the new system.yaml", new)
    fluid = _measured(system, folder, per_volume, force_field is None)
    if force_field is not None:
        read_force_field(system)
    run = parse(RunConfig, {"system": "system.yaml", "folder": "run"}, "the new run.yaml", new)
    for name, config, head in (("system", system, _SYSTEM_HEAD), ("run", run, _RUN_HEAD)):
        schema = f"{name}.schema.json"
        write_text(new / schema, json.dumps(json_schema(type(config)), indent=1) + "\n")
        head = f"yaml-language-server: $schema={schema}\n{head}"
        write_text(new / f"{name}.yaml", commented_yaml(config, head))
    return fluid


_SYSTEM_HEAD = """The fluid: molecules, force field, temperature, beads.
What is a comment is a default; remove the mark and change it. Every quantity has a unit."""
_RUN_HEAD = """What to do with it: cgkd run run.yaml.
What is a comment is a default; remove the mark and change it. Every quantity has a unit."""


def _molecule(new: Path, name: str | None, path: Path, count: int) -> dict[str, object]:
    """Put the file of a molecule into the folder; its entry in system.yaml."""
    if path.suffix.lower() in (".sdf", ".mol"):
        name = name or re.sub(r"\W", "", path.stem)[:3].upper()
        target = new / "molecules" / f"{name}.pdb"
        sdf_to_pdb(path, name, target)
    else:
        text = read_text(path, "a PDB file of one molecule", ConfigError, 16 * MEGABYTE)
        lines = [line for line in text.splitlines() if line.startswith(("ATOM", "HETATM"))]
        residue = lines[0][17:21].strip() if lines else ""
        if not residue and not name:
            raise ConfigError(
                f"{path}: has no residue name in columns 18-20; write it there, or give"
                f" NAME={path}:{count}."
            )
        target = new / "molecules" / f"{name or residue}.pdb"
        write_text(target, _renamed(text, name) if name else text)
        name = name or residue
    return {"name": name, "structure": f"molecules/{target.name}", "count": count}


def _renamed(text: str, name: str) -> str:
    if len(name) > 4:
        raise ConfigError(f"molecule: the name {name} is too long for PDB files; use 4 letters.")
    lines = (
        f"{line[:17]}{name:<4}{line[21:]}" if line.startswith(("ATOM", "HETATM")) else line
        for line in text.splitlines()
    )
    return "\n".join(lines) + "\n"


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
    n_atoms, mass = 0, 0.0
    for molecule in system.molecules:
        atoms = list(load_molecule(system, molecule.name).topology.atoms())
        n_atoms += molecule.count * len(atoms)
        mass += molecule.count * sum(
            molecule.masses[atom.name]
            if atom.element is None
            else atom.element.mass.value_in_unit(unit.dalton)
            for atom in atoms
        )
    reference = system.reference
    edge, cutoff = (mass / (density * DENSITY_UNIT)) ** (1 / 3), reference.nonbonded_cutoff
    if edge < 2 * _MARGIN * cutoff:
        times = (2 * _MARGIN * cutoff / edge) ** 3
        raise BoxError(
            f"The box of {sum(molecule.count for molecule in system.molecules)} molecules at"
            f" {density:g} g/cm^3 has an edge of {edge:.2f} nm, less than twice the cutoff of"
            f" {cutoff:g} nm; take at least {times:.1f} times as many."
        )
    simulated = reference.annealing + reference.npt + reference.nvt + reference.production
    n_beads = sum(molecule.count for molecule in system.molecules)
    return NewFluid(folder, n_atoms, n_beads, edge, reference.runs * simulated, lacks_force_field)
