"""Bonds between beads, and molecules made whole across periodic boundaries."""

from __future__ import annotations

import mdtraj
import numpy as np

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
        self._generations = [
            bonds[generation[bonds[:, 1]] == k].T for k in range(1, generation.max() + 1)
        ]

    def __call__(self, positions: np.ndarray, box: np.ndarray) -> np.ndarray:
        """Positions of whole molecules, shape (n_atoms, 3), nm; first atoms stay where they are.

        Parameters
        ----------
        positions : ndarray, shape (n_atoms, 3), nm
        box : ndarray, shape (3, 3), nm
            Box vectors as rows, triclinic allowed.
        """
        # images: box vectors between an atom and the first atom of its molecule
        images = np.zeros_like(positions)
        for parents, children in self._generations:
            bonds = positions[children] - positions[parents]
            images[children] = images[parents] + np.round(lattice_coordinates(bonds, box))
        return positions - images @ box


def bond_order(topology: mdtraj.Topology) -> np.ndarray:
    """Bonds of a topology as a spanning forest, parents before children, shape (n, 2)."""
    import networkx

    graph = topology.to_bondgraph()
    index = {atom: atom.index for atom in graph}
    roots = [min(part, key=index.__getitem__) for part in networkx.connected_components(graph)]
    order = [(index[a], index[b]) for root in roots for a, b in networkx.bfs_edges(graph, root)]
    return np.array(order, dtype=int).reshape(-1, 2)
