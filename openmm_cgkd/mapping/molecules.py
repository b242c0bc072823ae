"""Bonds between beads, and molecules made whole across periodic boundaries."""

from __future__ import annotations

import mdtraj
import numpy as np
from scipy.sparse import csr_matrix

from openmm_cgkd.utils.box import lattice_coordinates


def bead_bonds(bead_of_atom: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Pairs of beads that a bond between their atoms joins.

    Parameters
    ----------
    bead_of_atom : ndarray, shape (n_atoms,)
        Bead of every atom, -1 for none: such an atom counts to the bead that is the fewest bonds
        away.
    bonds : ndarray, shape (n_atom_bonds, 2)

    Returns
    -------
    ndarray, shape (n_bonds, 2), int64
        Each pair once, the lower index first, sorted.
    """
    owner, ends = bead_of_atom.copy(), np.concatenate([bonds, bonds[:, ::-1]])
    while True:
        reached = ends[(owner[ends[:, 0]] < 0) & (owner[ends[:, 1]] >= 0)]
        if len(reached) == 0:
            break
        nearest = np.full(len(owner), np.iinfo(owner.dtype).max)
        np.minimum.at(nearest, reached[:, 0], owner[reached[:, 1]])
        owner[reached[:, 0]] = nearest[reached[:, 0]]
    pairs = np.sort(owner[bonds], axis=1)
    return np.unique(pairs[(pairs[:, 0] >= 0) & (pairs[:, 0] < pairs[:, 1])], axis=0).astype(
        np.int64
    )


def difference_operator(bonds: np.ndarray, n_atoms: int) -> csr_matrix:
    """Sparse matrix that turns positions into vectors along bonds: second atom minus first.

    Parameters
    ----------
    bonds : ndarray, shape (n_bonds, 2)
    n_atoms : int
    """
    rows = np.repeat(np.arange(len(bonds)), 2)
    signs = np.tile([-1.0, 1.0], len(bonds))
    return csr_matrix((signs, (rows, bonds.ravel())), shape=(len(bonds), n_atoms))


class WholeMolecules:
    """Put bonded atoms next to each other across periodic boundaries.

    Atoms are placed by generations: first those that are bonded to the first atom of a molecule,
    then those bonded to these, and so on.

    Parameters
    ----------
    bonds : ndarray, shape (n_bonds, 2)
        Ordered so that the first atom of each bond is placed before the second, as `bond_order`
        gives.
    n_atoms : int
    """

    def __init__(self, bonds: np.ndarray, n_atoms: int) -> None:
        generation = np.zeros(n_atoms, dtype=int)
        for parent, child in bonds:
            generation[child] = generation[parent] + 1
        of_bond = generation[bonds[:, 1]]
        self._vectors = difference_operator(bonds, n_atoms)
        self._generations = [
            (np.flatnonzero(of_bond == k), *bonds[of_bond == k].T)
            for k in range(1, generation.max(initial=0) + 1)
        ]

    def __call__(self, positions: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Positions of whole molecules, shape (n_atoms, 3), nm; first atoms stay where they are.

        Parameters
        ----------
        positions : ndarray, shape (n_atoms, 3), nm
        box : ndarray, shape (3, 3), nm
            Box vectors as rows, triclinic allowed.
        """
        crossed = np.round(lattice_coordinates(self._vectors @ positions, box))
        # box vectors between an atom and the first atom of its molecule
        images = np.zeros_like(positions)
        for along, parents, children in self._generations:
            images[children] = images[parents] + crossed[along]
        return positions - images @ box


def bond_order(topology: mdtraj.Topology, sites: np.ndarray | None = None) -> np.ndarray:
    """Bonds of a topology as a spanning forest, parents before children, shape (n, 2).

    The first atom of every molecule is a root.

    Parameters
    ----------
    topology : mdtraj.Topology
        One residue per molecule, if there are sites.
    sites : ndarray of bool, shape (n_atoms,), optional
        Virtual sites; those without a bond are placed beside another atom of their molecule.
    """
    # much memory for those who only read frames
    from scipy.sparse.csgraph import breadth_first_order, connected_components

    n_atoms = topology.n_atoms
    bonds = np.array([(a.index, b.index) for a, b in topology.bonds], dtype=int).reshape(-1, 2)
    if sites is not None and sites.any():
        bonds = np.concatenate([bonds, _beside_atoms(topology, sites, bonds)])
    molecule = connected_components(_graph(bonds, n_atoms), directed=False)[1]
    roots = np.unique(molecule, return_index=True)[1]
    # one search over all molecules, from a node that is bonded to every root
    above = np.column_stack([np.full(len(roots), n_atoms), roots])
    order, parents = breadth_first_order(
        _graph(np.concatenate([bonds, above]), n_atoms + 1), n_atoms, directed=False
    )
    children = order[(parents[order] >= 0) & (parents[order] < n_atoms)]
    return np.column_stack([parents[children], children]).astype(int)


def _beside_atoms(topology: mdtraj.Topology, sites: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Pairs of a massive atom and a site of its molecule that has no bond, shape (n, 2)."""
    found = []
    for site in np.setdiff1d(np.flatnonzero(sites), bonds):
        own = [atom.index for atom in topology.atom(site).residue.atoms if not sites[atom.index]]
        found += [(own[0], site)] if own else []
    return np.array(found, dtype=int).reshape(-1, 2)


def _graph(bonds: np.ndarray, n_nodes: int) -> csr_matrix:
    return csr_matrix((np.ones(len(bonds)), bonds.T), shape=(n_nodes, n_nodes))
