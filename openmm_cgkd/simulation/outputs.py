"""What a run writes: topology, trajectory and state log."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import mdtraj
import numpy as np
from openmm import app

from openmm_cgkd.exceptions import SimulationError
from openmm_cgkd.utils.appended import check_written
from openmm_cgkd.utils.files import replacing


def write_topology(
    path: Path, topology: app.Topology, positions: np.ndarray, box: np.ndarray | None
) -> mdtraj.Topology:
    """Write beads as a PDB file, and return the topology that MDTraj reads from it.

    Beads are atoms without an element.

    Raises
    ------
    SimulationError
        If a bead name does not survive the PDB format.
    """
    beads = mdtraj.Topology()
    chain = beads.add_chain()
    for residue in topology.residues():
        names = [atom.name for atom in residue.atoms()]
        # OpenMM drops atoms of a PDB file that repeat a name in a residue
        alone = len(set(names)) < len(names)
        for k, name in enumerate(names):
            if k == 0 or alone:
                molecule = beads.add_residue(name if alone else residue.name, chain)
            beads.add_atom(name, mdtraj.element.virtual, molecule)
    for first, second in topology.bonds():
        beads.add_bond(beads.atom(first.index), beads.atom(second.index))
    frame = mdtraj.Trajectory(positions[None], beads)
    if box is not None:
        frame.unitcell_vectors = box[None]
    with replacing(path) as fresh:
        frame.save_pdb(str(fresh))
        with mdtraj.formats.PDBTrajectoryFile(str(fresh)) as file:
            found = file.topology
        for written, read in zip(beads.atoms, found.atoms, strict=True):
            if written.name != read.name:
                raise SimulationError(
                    f"Bead type {written.name} becomes {read.name} in a PDB file; use names of at"
                    " most 4 characters."
                )
    return found


def open_trajectory(path: Path, interval: int, append: bool) -> Any:
    """OpenMM reporter for a trajectory.

    Coordinates are not wrapped into the box, so that diffusion can be measured.
    """
    kind = app.XTCReporter if path.suffix == ".xtc" else app.DCDReporter
    return kind(str(path), interval, append=append, enforcePeriodicBox=False)


def open_log(
    path: Path, interval: int, append: bool, density: bool = False
) -> app.StateDataReporter:
    """OpenMM reporter for the state log, a CSV file.

    Its columns are step, time (ps), energies (kJ/mol), temperature (K), density (g/mL) if wanted,
    and speed (ns/day).
    """
    columns = {
        "step": True,
        "time": True,
        "potentialEnergy": True,
        "kineticEnergy": True,
        "temperature": True,
        "speed": True,
    }
    return app.StateDataReporter(str(path), interval, append=append, density=density, **columns)


def is_begun(path: Path) -> bool:
    """Whether a file that a run appends to has content."""
    return path.exists() and path.stat().st_size > 0


def log_column(path: Path, name: str) -> np.ndarray:
    """One column of the state log, by the start of its title.

    Raises
    ------
    RecordError
        If the log was changed after the simulation wrote it.
    """
    check_written(path)
    with open(path, newline="") as file:
        rows = csv.reader(file)
        title = next(rows)
        column = next(k for k, text in enumerate(title) if text.lstrip('#"').startswith(name))
        return np.array([float(row[column]) for row in rows])
