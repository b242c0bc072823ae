"""Distances in like molecules that do not vary over a trajectory: what constraints leave behind.

A trajectory does not say which distances were constrained. Constraint forces are not among its
forces, so a sum of forces is right only where every constraint lies inside one bead.
"""

from __future__ import annotations

from dataclasses import dataclass

import mdtraj
import numpy as np

from openmm_cgkd.exceptions import MappingError

from .mapping import Mapping

# nm; the stiffest bonds vibrate by three times as much at room temperature, files round to a tenth
_RIGID = 5e-4
_SAMPLES = 10  # variations of a distance; fewer may be small by chance
_BONDS = 3  # between the atoms of a distance: constraints hold bonds, angles and rigid bodies


@dataclass(frozen=True)
class MoleculeKind:
    """All molecules with the same name and the same beads.

    Attributes
    ----------
    name : str
    atoms : ndarray, shape (n_molecules, n_atoms)
        Without virtual sites, which are held by definition and whose forces are in other atoms.
    beads : ndarray, shape (n_molecules, n_beads)
    weights : ndarray, shape (n_beads, n_atoms)
        Position map of one molecule.
    owners : ndarray, shape (n_atoms,)
        Bead of every atom within the molecule, -1 for none.
    """

    name: str
    atoms: np.ndarray
    beads: np.ndarray
    weights: np.ndarray
    owners: np.ndarray


def molecule_kinds(mapping: Mapping, topology: mdtraj.Topology) -> list[MoleculeKind]:
    """Molecules sorted by kind.

    Parameters
    ----------
    mapping : Mapping
    topology : mdtraj.Topology
        All atoms, one residue per molecule.

    Raises
    ------
    MappingError
        If a molecule has no bead.
    """
    beads = mapping.topology
    starts = np.searchsorted(beads.molecules, np.arange(1, topology.n_residues))
    of_molecule = np.split(np.arange(beads.n_beads), starts)
    found: dict[tuple, list[tuple[np.ndarray, np.ndarray]]] = {}
    for residue, inside in zip(topology.residues, of_molecule, strict=True):
        if len(inside) == 0:
            raise MappingError(
                f"Molecule {residue.name} has no bead; give it one, or leave the molecule out of"
                " the simulation."
            )
        atoms = np.array([atom.index for atom in residue.atoms])
        atoms = atoms[~mapping.sites[atoms]]
        owner = mapping.bead_of_atom[atoms]
        local = np.where(owner < 0, -1, owner - inside[0])
        key = (residue.name, tuple(local.tolist()), tuple(beads.types[inside].tolist()))
        found.setdefault(key, []).append((atoms, inside))
    kinds = []
    for (name, owners, _), members in found.items():
        atoms, inside = (np.stack(arrays) for arrays in zip(*members, strict=True))
        weights = mapping.position_map[inside[0]][:, atoms[0]].toarray()
        kinds.append(MoleculeKind(name, atoms, inside, weights, np.array(owners)))
    return kinds


class DistanceSpread:
    """How much distances between atoms of like molecules vary over frames.

    Parameters
    ----------
    first, second : ndarray of int, shape (n_pairs,)
        Atoms within a molecule.
    """

    def __init__(self, first: np.ndarray, second: np.ndarray) -> None:
        self._first, self._second, self._frames = first, second, 0
        # of every molecule, because a rigid body may keep a shape that its like do not have
        self._start = self._shift = self._square = np.zeros((0, len(first)))

    def add(self, positions: np.ndarray) -> None:
        """Add a frame of positions, shape (n_molecules, n_atoms, 3), nm."""
        distances = np.linalg.norm(positions[:, self._first] - positions[:, self._second], axis=-1)
        if not self._frames:
            self._start = distances
            self._shift, self._square = np.zeros_like(distances), np.zeros_like(distances)
        deviations = distances - self._start  # small, so that their squares keep their digits
        self._shift += deviations
        self._square += deviations**2
        self._frames += 1

    @property
    def rigid(self) -> np.ndarray | None:
        """Which distances do not vary, shape (n_pairs,); None if there are too few frames to tell.

        Over the frames of each molecule. If those are too few, over the molecules.
        """
        molecules, frames = len(self._start), self._frames
        if molecules * (frames - 1) >= _SAMPLES:
            square = (self._square - self._shift**2 / frames).sum(axis=0)
            variance = square / (molecules * (frames - 1))
        elif molecules * frames > _SAMPLES:
            distances = self._start + self._shift / frames
            variance = distances.var(axis=0, ddof=1)
        else:
            return None
        return np.sqrt(np.maximum(variance, 0.0)) < _RIGID


class RigidDistancesBetweenBeads:
    """Refuse sums of forces where a constraint crosses beads; give it the positions of every frame.

    Parameters
    ----------
    mapping : Mapping
        Whose forces are sums over the atoms of each bead.
    topology : mdtraj.Topology
        All atoms with their bonds, one residue per molecule.
    """

    def __init__(self, mapping: Mapping, topology: mdtraj.Topology) -> None:
        self._mapping = mapping
        self._spreads: list[tuple[MoleculeKind, np.ndarray, DistanceSpread]] = []
        kinds = [
            kind for kind in molecule_kinds(mapping, topology) if len(np.unique(kind.owners)) > 1
        ]
        if not kinds:
            return
        neighbors: list[list[int]] = [[] for _ in range(topology.n_atoms)]
        for first, second in topology.bonds:
            neighbors[first.index].append(second.index)
            neighbors[second.index].append(first.index)
        for kind in kinds:
            pairs = _near_pairs(kind.atoms[0], neighbors)
            pairs = pairs[kind.owners[pairs[:, 0]] != kind.owners[pairs[:, 1]]]
            if len(pairs):
                self._spreads.append((kind, pairs, DistanceSpread(*pairs.T)))

    def add(self, positions: np.ndarray) -> None:
        """Add the positions of all atoms of a frame, whole molecules, shape (n_atoms, 3), nm."""
        for kind, _, spread in self._spreads:
            spread.add(positions[kind.atoms])

    def check(self, complete: bool) -> None:
        """Refuse what the frames so far show.

        Parameters
        ----------
        complete : bool
            No frames will follow, so that too few are an error, too.

        Raises
        ------
        MappingError
            If a distance between atoms of different beads does not vary, or that cannot be told.
        """
        for kind, pairs, spread in self._spreads:
            rigid = spread.rigid
            if rigid is None and complete:
                raise MappingError(
                    f"The beads of {kind.name} are bonded to each other, and with so few frames it"
                    " cannot be told whether a constraint joins them, whose force would be missing;"
                    f" give more than {_SAMPLES} molecules over all frames."
                )
            if rigid is not None and rigid.any():
                i, j = kind.atoms[0][pairs[np.argmax(rigid)]]
                owners = self._mapping.bead_of_atom
                raise MappingError(
                    f"The distance between atoms {i} and {j} of {kind.name} never varies, so it is"
                    f" constrained, and it crosses beads {owners[i]} and {owners[j]}; trajectories"
                    " lack the forces of constraints, so put both atoms in one bead, or run"
                    " without this constraint."
                )


def _near_pairs(atoms: np.ndarray, neighbors: list[list[int]]) -> np.ndarray:
    """Pairs of atoms at most `_BONDS` bonds apart, as places in `atoms`, shape (n_pairs, 2)."""
    place = {int(atom): k for k, atom in enumerate(atoms)}
    pairs = set()
    for atom, k in place.items():
        reached = edge = {atom}
        for _ in range(_BONDS):
            edge = {other for a in edge for other in neighbors[a]} - reached
            reached = reached | edge
        pairs |= {(k, place[other]) for other in reached if place.get(other, -1) > k}
    return np.array(sorted(pairs), dtype=int).reshape(-1, 2)
