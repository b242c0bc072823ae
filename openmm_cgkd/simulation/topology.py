"""Topologies of beads: names and molecules of their beads, and their form in OpenMM."""

from __future__ import annotations

from typing import Any

import mdtraj
import numpy as np
from openmm import app, unit
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from openmm_cgkd.mapping.beads import BeadTopology
from openmm_cgkd.utils.box import reduced_box


def bead_names(topology: app.Topology | mdtraj.Topology | BeadTopology) -> list[str]:
    """Type name of every bead of a topology."""
    if isinstance(topology, BeadTopology):
        return topology.names
    if isinstance(topology, app.Topology):
        return [atom.name for atom in topology.atoms()]
    return [atom.name for atom in topology.atoms]


def bead_molecules(topology: app.Topology | mdtraj.Topology | BeadTopology) -> list[int]:
    """Molecule of every bead: beads of one residue, and beads joined by bonds, are of one."""
    if isinstance(topology, BeadTopology):
        return topology.molecules.tolist()
    atoms, bonds = topology.atoms, topology.bonds
    residues = [atom.residue.index for atom in (atoms() if callable(atoms) else atoms)]
    pairs = [(a.index, b.index) for a, b in (bonds() if callable(bonds) else bonds)]
    pairs += [(k - 1, k) for k in range(1, len(residues)) if residues[k] == residues[k - 1]]
    joined = np.array(pairs, dtype=int).reshape(-1, 2)
    graph = coo_matrix((np.ones(len(joined)), joined.T), shape=2 * (len(residues),))
    return connected_components(graph, directed=False)[1].tolist()


def bead_topology_to_openmm(beads: BeadTopology, box: np.ndarray | None = None) -> app.Topology:
    """OpenMM topology of beads: one residue per molecule, one atom without element per bead.

    An atom is named by the type of its bead.

    Parameters
    ----------
    beads : BeadTopology
    box : ndarray, shape (3, 3), nm, optional
        Box vectors as rows; absent for open boundaries.
    """
    topology = app.Topology()
    chain = topology.addChain()
    residue, last = None, None
    for name, molecule in zip(beads.names, beads.molecules, strict=True):
        if residue is None or molecule != last:
            residue, last = topology.addResidue(name, chain), molecule
        topology.addAtom(name, None, residue)
    atoms = list(topology.atoms())
    for first, second in beads.bonds:
        topology.addBond(atoms[first], atoms[second])
    if box is not None:
        topology.setPeriodicBoxVectors(box_in_nm(box) * unit.nanometer)
    return topology


def own_box(topology: app.Topology | mdtraj.Topology | BeadTopology) -> Any:
    """Box vectors of an OpenMM topology, a quantity; None without them or of other libraries."""
    return topology.getPeriodicBoxVectors() if isinstance(topology, app.Topology) else None


def box_in_nm(vectors: Any) -> np.ndarray | None:
    """Reduced box vectors, shape (3, 3), nm, from an array in nm, a quantity or rows of either."""
    if vectors is None:
        return None
    if unit.is_quantity(vectors):
        vectors = vectors.value_in_unit(unit.nanometer)
    return reduced_box(
        np.array(
            [
                [
                    float(x.value_in_unit(unit.nanometer)) if unit.is_quantity(x) else float(x)
                    for x in row
                ]
                for row in vectors
            ]
        )
    )
