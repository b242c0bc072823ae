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

from .force_field import read_force_field
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


def box_edge(config: SystemConfig, topology: app.Topology, density: float) -> float:
    """Edge of a cubic box of all molecules, nm, at a density in g/cm^3."""
    given = {molecule.name: molecule.masses for molecule in config.molecules}
    mass = sum(
        given[atom.residue.name][atom.name]
        if atom.name in given[atom.residue.name]
        else atom.element.mass.value_in_unit(unit.dalton)
        for atom in topology.atoms()
    )
    return float((mass / (density * DENSITY_UNIT)) ** (1 / 3))


def pack(config: SystemConfig) -> tuple[app.Topology, np.ndarray]:
    """Pack the molecules into a cubic box at the initial density.

    Returns
    -------
    topology : openmm.app.Topology
        With periodic box vectors.
    positions : ndarray, shape (n_atoms, 3), nm

    Raises
    ------
    ForceFieldError
        If Packmol is missing or finds no room.
    BoxError
        If the cutoff is above half the box.
    """
    topology = build_topology(config)
    edge = box_edge(config, topology, config.reference.initial_density)
    topology.setPeriodicBoxVectors(np.eye(3) * edge * unit.nanometer)
    _check_box(topology, config.reference.nonbonded_cutoff)
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
    return topology, positions / 10


def create_system(config: SystemConfig, topology: app.Topology) -> openmm.System:
    """All-atom `openmm.System` with PME, constrained bonds to hydrogen and heavy hydrogens.

    Raises
    ------
    ForceFieldError
        As `read_force_field`.
    BoxError
        If the cutoff is above half the box.
    """
    force_field = read_force_field(config)
    _check_box(topology, config.reference.nonbonded_cutoff)
    return force_field.createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=config.reference.nonbonded_cutoff * unit.nanometer,
        constraints=app.HBonds,
        hydrogenMass=config.reference.hydrogen_mass * unit.dalton,
    )


def _check_box(topology: app.Topology, cutoff: float) -> None:
    vectors = topology.getPeriodicBoxVectors()
    if vectors is None:
        raise BoxError("The all-atom topology has no periodic box; set its periodic box vectors.")
    height = smallest_height(np.array(vectors.value_in_unit(unit.nanometer)))
    if height < 2 * cutoff:
        raise BoxError(
            f"nonbonded_cutoff {cutoff:g} nm is above half the box ({height / 2:.3f} nm); use more"
            " molecules or a shorter cutoff."
        )
