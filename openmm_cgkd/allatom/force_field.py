"""The OpenMM force field of a fluid: complete for every molecule, and neutral."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openmm
from openmm import app

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import ForceFieldError

from .force_field_scripts import tell_of_scripts
from .molecule_file import load_molecule

_NEUTRAL = 1e-4  # elementary charges


def read_force_field(config: SystemConfig) -> app.ForceField:
    """Read the force field and try it on a single molecule of each kind.

    OpenMM runs the Python code in a ``<Script>`` of the force field.

    Raises
    ------
    ForceFieldError
        If the force field is missing or invalid, or lacks a template, a bond or an angle, if a
        molecule file lacks bonds, or if the charges of all molecules do not add up to zero.
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
    charges = {}
    for molecule in config.molecules:
        topology = load_molecule(config, molecule.name).topology
        check_bonded(topology, config.path(molecule.structure))
        system = _parametrised(force_field, topology, molecule.name, path)
        _check_complete(system, topology, molecule.name, path)
        charges[molecule.name] = atomic_charges(system).sum()
    total = sum(molecule.count * charges[molecule.name] for molecule in config.molecules)
    if abs(total) > _NEUTRAL:
        each = ", ".join(
            f"{molecule.count} {molecule.name} of {charges[molecule.name]:+.4f} e"
            for molecule in config.molecules
        )
        raise ForceFieldError(
            f"The box carries a charge of {total:+.4f} e: {each}; change the molecule counts, or"
            f" correct the charges in {path}."
        )
    return force_field


def atomic_charges(system: openmm.System) -> np.ndarray:
    """Charges of the NonbondedForce, shape (n_atoms,), elementary charges; zero without one."""
    for force in system.getForces():
        if isinstance(force, openmm.NonbondedForce):
            return np.array(
                [force.getParticleParameters(i)[0]._value for i in range(system.getNumParticles())]
            )
    return np.zeros(system.getNumParticles())


def check_bonded(topology: app.Topology, path: Path) -> None:
    """Refuse a molecule file without bonds, which PDB files of most programs leave out.

    OpenMM knows a molecule by its bonds.

    Raises
    ------
    ForceFieldError
        Naming the line that is missing.
    """
    bonded = {atom for bond in topology.bonds() for atom in bond}
    # of virtual sites, which have no element, force fields expect no bonds
    atoms = [atom for atom in topology.atoms() if atom.element is not None]
    for atom in atoms if len(atoms) > 1 else []:
        if atom not in bonded:
            raise ForceFieldError(
                f"{path}: atom {atom.name} has no bond; add a line 'CONECT{atom.id:>5}' with the"
                " numbers of the atoms that it is bound to, five columns each, before END."
            )


def _parametrised(
    force_field: app.ForceField, topology: app.Topology, name: str, path: Path
) -> openmm.System:
    try:
        return force_field.createSystem(topology, constraints=None, rigidWater=False)
    # ForceField raises bare ValueError and Exception for missing templates and parameters
    except Exception as error:
        raise ForceFieldError(
            f"{path}: cannot parametrise {name} ({' '.join(str(error).split())})."
        ) from error


def _check_complete(system: openmm.System, topology: app.Topology, name: str, path: Path) -> None:
    """ForceField skips bonds and angles that match no parameter; a chemist would rather know."""
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
