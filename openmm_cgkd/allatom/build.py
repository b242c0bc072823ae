"""All-atom box: molecules from PDB files, packed by Packmol, with an OpenMM force field."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from itertools import groupby
from pathlib import Path

import numpy as np
import openmm
from openmm import app, unit

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import BoxError, ForceFieldError
from openmm_cgkd.utils.box import smallest_height
from openmm_cgkd.utils.units import DENSITY_UNIT

from .force_field_scripts import tell_of_scripts
from .molecule_file import load_molecule


def build_topology(config: SystemConfig, names: list[str] | None = None) -> app.Topology:
    """Topology of the whole box, one residue per molecule.

    Parameters
    ----------
    config : SystemConfig
    names : list of str, optional
        Molecules in the order of the box; those of the configuration, in its order, if absent.
    """
    if names is None:
        names = [molecule.name for molecule in config.molecules for _ in range(molecule.count)]
    templates = {
        molecule.name: load_molecule(config, molecule.name).topology
        for molecule in config.molecules
    }
    topology = app.Topology()
    for name, same in groupby(names):
        template, chain = templates[name], topology.addChain()
        for _ in same:
            residue = topology.addResidue(name, chain)
            atoms = {
                atom: topology.addAtom(atom.name, atom.element, residue)
                for atom in template.atoms()
            }
            for first, second in template.bonds():
                topology.addBond(atoms[first], atoms[second])
    return topology


def pack(config: SystemConfig) -> tuple[app.Topology, np.ndarray]:
    """Pack the molecules into a cubic box at the initial density.

    Returns
    -------
    topology : openmm.app.Topology
        With periodic box vectors.
    positions : ndarray, shape (n_atoms, 3), nm
    """
    topology = build_topology(config)
    given = {molecule.name: molecule.masses for molecule in config.molecules}
    mass = sum(
        given[atom.residue.name][atom.name]
        if atom.name in given[atom.residue.name]
        else atom.element.mass.value_in_unit(unit.dalton)
        for atom in topology.atoms()
    )
    edge = (mass / (config.reference.initial_density * DENSITY_UNIT)) ** (1 / 3)  # nm
    tolerance = 2.0  # angstrom
    lines = [
        f"tolerance {tolerance}",
        "filetype pdb",
        f"seed {config.reference.seed}",
        "output packed.pdb",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for molecule in config.molecules:
            path = config.path(molecule.structure)
            load_molecule(config, molecule.name)  # checks it
            shutil.copy(path, Path(folder, f"{molecule.name}.pdb"))
            # the margin keeps periodic images apart, which Packmol does not know of
            low, high = tolerance / 2, 10 * edge - tolerance / 2
            corners = 3 * f"{low} " + 3 * f"{high} "
            lines += [
                f"structure {molecule.name}.pdb",
                f"  number {molecule.count}",
                f"  inside box {corners}",
                "end structure",
            ]
        executable = Path(sys.executable).with_name("packmol")
        script = Path(folder, "packmol.inp")
        script.write_text("\n".join(lines) + "\n")
        try:
            with open(script) as commands:  # Packmol seeks in its input, so a pipe will not do
                command = [str(executable) if executable.exists() else "packmol"]
                result = subprocess.run(
                    command, stdin=commands, cwd=folder, capture_output=True, text=True, check=False
                )
        except FileNotFoundError as error:
            raise ForceFieldError(
                "packmol was not found; install it with 'pip install packmol'."
            ) from error
        packed = Path(folder, "packed.pdb")
        if result.returncode or not packed.exists():
            raise ForceFieldError(
                f"Packmol could not pack the box at {config.reference.initial_density} g/cm^3;"
                " lower initial_density."
            )
        records = (
            line for line in packed.read_text().splitlines() if line.startswith(("ATOM", "HETATM"))
        )
        positions = np.array([[float(line[k : k + 8]) for k in (30, 38, 46)] for line in records])
    topology.setPeriodicBoxVectors(np.eye(3) * edge * unit.nanometer)
    return topology, positions / 10


def create_system(config: SystemConfig, topology: app.Topology) -> openmm.System:
    """All-atom `openmm.System` with PME, constrained bonds to hydrogen and heavy hydrogens.

    OpenMM runs the Python code in a ``<Script>`` of the force field.

    Raises
    ------
    ForceFieldError
        If the force field lacks a template, a bond or an angle, or the box is not neutral.
    BoxError
        If the cutoff is above half the box.
    """
    path = config.path(config.force_field)
    if not path.exists():
        raise ForceFieldError(
            f"{path}: no such file; force_field must name an OpenMM force-field XML."
        )
    tell_of_scripts(path)
    try:
        force_field = app.ForceField(str(path))
    except Exception as error:  # ForceField raises bare Exception and XML errors
        raise ForceFieldError(
            f"{path}: is not a valid OpenMM force field ({' '.join(str(error).split())})."
        ) from error
    for molecule in config.molecules:
        _check_complete(
            force_field, load_molecule(config, molecule.name).topology, molecule.name, path
        )
    _check_box(topology, config.reference.nonbonded_cutoff)
    system = force_field.createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=config.reference.nonbonded_cutoff * unit.nanometer,
        constraints=app.HBonds,
        hydrogenMass=config.reference.hydrogen_mass * unit.dalton,
    )
    charge = atomic_charges(system).sum()
    if abs(charge) > 1e-4:
        raise ForceFieldError(
            f"The box carries a charge of {charge:+.4f} e; change the molecule counts so that it is"
            " neutral."
        )
    return system


def _check_box(topology: app.Topology, cutoff: float) -> None:
    vectors = topology.getPeriodicBoxVectors()
    if vectors is None:
        raise BoxError("The all-atom topology has no periodic box; set its periodic box vectors.")
    height = smallest_height(np.array(vectors.value_in_unit(unit.nanometer)))
    if height < 2 * cutoff:
        raise BoxError(
            f"nonbonded_cutoff {cutoff:g} nm is above half the box ({height:.3f} nm); use more"
            " molecules or a shorter cutoff."
        )


def atomic_charges(system: openmm.System) -> np.ndarray:
    """Charges of the NonbondedForce, shape (n_atoms,), elementary charges; zero without one."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            return np.array(
                [force.getParticleParameters(i)[0]._value for i in range(system.getNumParticles())]
            )
    return np.zeros(system.getNumParticles())


def _check_complete(
    force_field: app.ForceField, topology: app.Topology, name: str, path: Path
) -> None:
    """ForceField skips bonds and angles that match no parameter; a chemist would rather know."""
    try:
        system = force_field.createSystem(topology, constraints=None, rigidWater=False)
    # ForceField raises bare ValueError and Exception for missing templates and parameters
    except Exception as error:
        raise ForceFieldError(
            f"{path}: cannot parametrise {name} ({' '.join(str(error).split())})."
        ) from error
    atoms = list(topology.atoms())
    bonds = {frozenset((a.index, b.index)) for a, b in topology.bonds()}
    neighbors = {a.index: [next(iter(b - {a.index})) for b in bonds if a.index in b] for a in atoms}
    angles = {
        (min(i, k), j, max(i, k))
        for j, around in neighbors.items()
        for i in around
        for k in around
        if i != k
    }
    for force in system.getForces():
        if isinstance(force, openmm.HarmonicBondForce):
            bonds -= {frozenset(force.getBondParameters(b)[:2]) for b in range(force.getNumBonds())}
        elif isinstance(force, openmm.HarmonicAngleForce):
            found = (force.getAngleParameters(a)[:3] for a in range(force.getNumAngles()))
            angles -= {(min(i, k), j, max(i, k)) for i, j, k in found}
    for kind, missing in (("bond", sorted(map(sorted, bonds))), ("angle", sorted(angles))):
        if missing:
            which = "-".join(atoms[i].name for i in missing[0])
            raise ForceFieldError(f"{path}: has no {kind} parameter for {which} of {name}; add it.")
