"""Linear map from atoms to beads.

Positions map to centres of mass with the true atomic masses; forces sum over the atoms of the bead,
which is the consistent force map for centre-of-mass beads (Noid et al., J. Chem. Phys. 2008, 128,
244114) and stays valid when constraints lie inside one bead, because constraint forces are internal
and cancel. Other consistent force maps come from `force_maps`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace

import mdtraj
import numpy as np
import openmm
from scipy.sparse import csr_matrix

from openmm_cgkd.config.run import SystemConfig
from openmm_cgkd.exceptions import ConfigError, MappingError

_TOLERANCE = 1e-6  # of force-map coefficients, which are of order one


@dataclass(frozen=True)
class BeadTopology:
    """What the coarse-grained model knows of its particles.

    Attributes
    ----------
    type_names : tuple of str
        Bead type names; `types` indexes them.
    types : ndarray, shape (n_beads,), int64
    masses : ndarray, shape (n_beads,), dalton
    molecules : ndarray, shape (n_beads,), int64
        Index of the molecule each bead belongs to.
    charges : ndarray, shape (n_beads,), elementary charge
        Sum of the atomic charges; zero if the force field was not read.
    bonds : ndarray, shape (n_bonds, 2), int64
        Pairs of beads of one molecule that are joined by a chemical bond, as `bead_bonds` gives.
    """

    type_names: tuple[str, ...]
    types: np.ndarray
    masses: np.ndarray
    molecules: np.ndarray
    charges: np.ndarray = field(default=None)
    bonds: np.ndarray = field(default=None)

    def __post_init__(self) -> None:
        if self.charges is None:
            object.__setattr__(self, "charges", np.zeros(len(self.types)))
        if self.bonds is None:
            object.__setattr__(self, "bonds", np.zeros((0, 2), dtype=np.int64))

    @property
    def n_beads(self) -> int:
        return len(self.types)

    @property
    def names(self) -> list[str]:
        """Type name of every bead."""
        return [self.type_names[i] for i in self.types]

    def to_mdtraj(self) -> mdtraj.Topology:
        """MDTraj topology: one residue per molecule, one element-less atom per bead."""
        topology = mdtraj.Topology()
        chain = topology.add_chain()
        residue, last = None, None
        for name, molecule in zip(self.names, self.molecules, strict=True):
            if residue is None or molecule != last:
                residue, last = topology.add_residue(name, chain), molecule
            topology.add_atom(name, mdtraj.element.virtual, residue)
        for first, second in self.bonds:
            topology.add_bond(topology.atom(first), topology.atom(second))
        return topology


class Mapping:
    """Centre-of-mass map of a whole system; the force on a bead is the sum over its atoms unless
    `with_force_map` says otherwise.

    Parameters
    ----------
    bead_atoms : list of ndarray of int
        Atom indices of every bead.
    atom_masses : ndarray, shape (n_atoms,), dalton
        True masses, without hydrogen-mass repartitioning.
    topology : BeadTopology
        Bead types and molecules; its masses are those of the atoms in each bead.
    partial : bool
        Atoms may be in no bead. There is no simple force map then: get one from `force_maps`.

    Raises
    ------
    MappingError
        If an atom is in two beads, or in none without `partial`, or a bead is empty or massless.
    """

    def __init__(
        self,
        bead_atoms: list[np.ndarray],
        atom_masses: np.ndarray,
        topology: BeadTopology,
        partial: bool = False,
    ) -> None:
        n_atoms, n_beads = len(atom_masses), len(bead_atoms)
        owner = np.full(n_atoms, -1)
        for bead, atoms in enumerate(bead_atoms):
            if len(atoms) == 0:
                raise MappingError(
                    f"Bead {bead} ({topology.names[bead]}) has no atoms; check its selection."
                )
            taken = owner[atoms] >= 0
            if taken.any():
                atom = atoms[np.argmax(taken)]
                raise MappingError(
                    f"Atom {atom} is in beads {owner[atom]} and {bead}; put every atom in one bead."
                )
            owner[atoms] = bead
        if (owner < 0).any() and not partial:
            missing = np.flatnonzero(owner < 0)
            raise MappingError(
                f"{len(missing)} atoms are in no bead (first: atom {missing[0]}); forces on them"
                " would be lost, add them to a bead."
            )
        inside = np.flatnonzero(owner >= 0)
        masses = np.bincount(owner[inside], weights=atom_masses[inside], minlength=n_beads)
        if (masses <= 0).any():
            raise MappingError(
                f"Bead {np.argmin(masses)} has mass {masses.min()} dalton; atoms need their true"
                " masses."
            )
        self.bead_of_atom = owner
        self.atom_masses = np.asarray(atom_masses, dtype=float)
        self.topology = replace(topology, masses=masses)
        places = (owner[inside], inside)
        self._sum = csr_matrix((np.ones(len(inside)), places), shape=(n_beads, n_atoms))
        self._mean = csr_matrix(
            (atom_masses[inside] / masses[owner[inside]], places), shape=(n_beads, n_atoms)
        )
        self._force = self._sum if len(inside) == n_atoms else None

    @property
    def n_atoms(self) -> int:
        return len(self.bead_of_atom)

    def with_bonds(self, atoms: mdtraj.Topology) -> Mapping:
        """The same map, its beads bonded where bonds of an all-atom topology cross from one to
        another.
        """
        bonds = np.array([(a.index, b.index) for a, b in atoms.bonds], dtype=int).reshape(-1, 2)
        other = copy.copy(self)
        other.topology = replace(self.topology, bonds=bead_bonds(self.bead_of_atom, bonds))
        return other

    @property
    def position_map(self) -> csr_matrix:
        """Weights of the atoms in the bead positions, shape (n_beads, n_atoms)."""
        return self._mean

    def with_force_map(self, coefficients: csr_matrix) -> Mapping:
        """The same beads with another linear force map.

        Parameters
        ----------
        coefficients : csr_matrix, shape (n_beads, n_atoms)
            B in F = B f. With the position map M it must satisfy B M^T = 1: displacing the atoms
            along a row of B moves that bead alone (Ciccotti et al., ChemPhysChem 2005, 6, 1809;
            Noid et al. 2008).

        Raises
        ------
        MappingError
            If it does not.
        """
        wrong = abs(coefficients @ self._mean.T - csr_matrix(np.eye(self.topology.n_beads))).max()
        if wrong > _TOLERANCE:
            raise MappingError(
                "The force map is not consistent with the positions of the beads: B M^T differs"
                f" from 1 by {wrong:.1e}."
            )
        other = copy.copy(self)
        other._force = coefficients
        return other

    def map_positions(self, positions: np.ndarray) -> np.ndarray:
        """Centres of mass, shape (n_beads, 3), nm; `positions` (n_atoms, 3) must hold whole
        molecules.
        """
        self._check_shape(positions, "positions")
        return self._mean @ positions

    def map_forces(self, forces: np.ndarray) -> np.ndarray:
        """Mapped forces, shape (n_beads, 3), kJ/mol/nm, from atomic `forces` (n_atoms, 3)."""
        self._check_shape(forces, "forces")
        if self._force is None:
            missing = np.flatnonzero(self.bead_of_atom < 0)
            raise MappingError(
                f"{len(missing)} atoms are in no bead (first: atom {missing[0]}); such beads need"
                " force_map: optimal."
            )
        return self._force @ forces

    def check_constraints(self, system: openmm.System) -> None:
        """Refuse a constraint between atoms that enter the mapped forces with different weights,
        such as atoms of two beads.

        Its force would act on beads, and ``State.getForces`` leaves constraint forces out.
        """
        pairs = np.array(
            [system.getConstraintParameters(k)[:2] for k in range(system.getNumConstraints())],
            dtype=int,
        ).reshape(-1, 2)
        columns = (self._sum if self._force is None else self._force).tocsc()
        differences = abs(columns[:, pairs[:, 0]] - columns[:, pairs[:, 1]]).tocoo()
        wrong = differences.col[differences.data > _TOLERANCE]
        if len(wrong):
            i, j = pairs[wrong.min()]
            raise MappingError(
                f"The constraint between atoms {i} and {j} crosses beads {self.bead_of_atom[i]} and"
                f" {self.bead_of_atom[j]}; its force is missing from the mapped forces, so"
                " constrain only inside beads."
            )

    def _check_shape(self, values: np.ndarray, name: str) -> None:
        if values.shape != (self.n_atoms, 3):
            raise MappingError(
                f"Expected {name} of shape ({self.n_atoms}, 3), got {values.shape}; the topology"
                " does not fit."
            )


def mapping_from_config(
    config: SystemConfig,
    topology: mdtraj.Topology,
    charges: np.ndarray | None = None,
    calibrate: bool = False,
) -> Mapping:
    """Build the map of a system from the bead definitions of its configuration.

    Parameters
    ----------
    config : SystemConfig
    topology : mdtraj.Topology
        One residue per molecule, residue names as in the configuration.
    charges : ndarray, shape (n_atoms,), optional
        Atomic charges in elementary charges.
    calibrate : bool
        The caller sees all frames before it maps the first one, so that it can fit an optimal force
        map.

    Raises
    ------
    ConfigError
        If the configuration asks for an optimal force map and the caller cannot fit one.
    MappingError
        If a molecule is unknown, miscounted or has other atoms than its like, or a selection is not
        valid.
    """
    optimal = config.force_map == "optimal"
    if optimal and not calibrate:
        raise ConfigError(
            "force_map: optimal is fitted to the atomic forces of many frames before the first one"
            " is mapped, which a running simulation cannot do; save a trajectory with forces and"
            " map it with 'cgkd map', or set force_map: basic."
        )
    found: dict[str, int] = {}
    for residue in topology.residues:
        found[residue.name] = found.get(residue.name, 0) + 1
    for molecule in config.molecules:
        if found.pop(molecule.name, 0) != molecule.count:
            n = sum(residue.name == molecule.name for residue in topology.residues)
            raise MappingError(
                f"The topology holds {n} molecules of {molecule.name}, the configuration says"
                f" {molecule.count}."
            )
    if found:
        raise MappingError(
            f"The topology holds molecules that the configuration does not name: {sorted(found)}."
        )

    type_names = tuple(dict.fromkeys(bead.type for bead in config.beads))
    bead_atoms, types, molecules = [], [], []
    local: dict[str, list[tuple[int, np.ndarray]]] = {}
    atom_names: dict[str, list[str]] = {}
    for index, residue in enumerate(topology.residues):
        if residue.name not in local:
            part = topology.subset([atom.index for atom in residue.atoms])
            atom_names[residue.name] = [atom.name for atom in part.atoms]
            local[residue.name] = [
                (type_names.index(bead.type), _select(part, bead.selection))
                for bead in config.beads
                if bead.molecule == residue.name
            ]
        if [atom.name for atom in residue.atoms] != atom_names[residue.name]:
            raise MappingError(
                f"Molecule {index} ({residue.name}) has other atoms, or in another order, than the"
                f" first {residue.name}."
            )
        first = residue.atom(0).index
        for bead_type, atoms in local[residue.name]:
            bead_atoms.append(atoms + first)
            types.append(bead_type)
            molecules.append(index)
    masses = np.array([atom.element.mass for atom in topology.atoms])
    beads = BeadTopology(type_names, np.array(types), np.zeros(len(types)), np.array(molecules))
    mapping = Mapping(bead_atoms, masses, beads, partial=optimal).with_bonds(topology)
    if charges is not None:
        # rounding removes the summation noise of float charges; force fields give at most five
        # decimals
        object.__setattr__(mapping.topology, "charges", np.round(mapping._sum @ charges, 6))
    return mapping


def _select(topology: mdtraj.Topology, selection: str) -> np.ndarray:
    try:
        return topology.select(selection)
    except Exception as error:  # MDTraj's selection parser raises many types
        raise MappingError(
            f"Selection '{selection}' is not valid MDTraj selection language."
        ) from error


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


def make_whole(positions: np.ndarray, box: np.ndarray, bonds: np.ndarray) -> np.ndarray:
    """Put bonded atoms next to each other across periodic boundaries.

    Parameters
    ----------
    positions : ndarray, shape (n_atoms, 3), nm
    box : ndarray, shape (3, 3), nm
        Box vectors as rows, triclinic allowed.
    bonds : ndarray, shape (n_bonds, 2)
        Ordered so that the first atom of each bond is placed before the second, as `bond_order`
        gives.
    """
    if len(bonds) == 0:
        return positions.copy()
    crossings = np.round((positions[bonds[:, 1]] - positions[bonds[:, 0]]) @ np.linalg.inv(box))
    images = np.zeros_like(positions)  # box vectors between each atom and the first of its molecule
    for (i, j), crossing in zip(bonds, crossings, strict=True):
        images[j] = images[i] + crossing
    return positions - images @ box


def bond_order(topology: mdtraj.Topology) -> np.ndarray:
    """Bonds of a topology as a spanning forest, parents before children, shape (n, 2)."""
    import networkx

    graph = topology.to_bondgraph()
    index = {atom: atom.index for atom in graph}
    roots = [min(part, key=index.get) for part in networkx.connected_components(graph)]
    order = [(index[a], index[b]) for root in roots for a, b in networkx.bfs_edges(graph, root)]
    return np.array(order, dtype=int).reshape(-1, 2)
