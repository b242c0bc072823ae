"""Linear map from atoms to beads.

Positions map to centres of mass with the true atomic masses; forces sum over the atoms of the bead,
which is the consistent force map for centre-of-mass beads (Noid et al., J. Chem. Phys. 2008, 128,
244114) and stays valid when constraints lie inside one bead, because constraint forces are internal
and cancel. Other consistent force maps come from `force_maps`.
"""

from __future__ import annotations

import copy
from dataclasses import replace

import mdtraj
import numpy as np
import openmm
from scipy.sparse import csr_matrix

from openmm_cgkd.config.system import SystemConfig
from openmm_cgkd.exceptions import ConfigError, MappingError

from .beads import BeadTopology
from .molecules import bead_bonds

_TOLERANCE = 1e-6  # of force-map coefficients, which are of order one


class Mapping:
    """Centre-of-mass map of a whole system.

    The force on a bead is the sum over its atoms unless `with_force_map` says otherwise.

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
        """The same map with bonds between beads.

        Beads are bonded where bonds of an all-atom topology cross from one to another.
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
        """Centres of mass (n_beads, 3), nm, from `positions` (n_atoms, 3) of whole molecules."""
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
        """Refuse a constraint between atoms that enter the mapped forces with different weights.

        Atoms of two beads are such atoms. The constraint's force would act on beads, and
        ``State.getForces`` leaves constraint forces out.
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
        mapping.topology = replace(mapping.topology, charges=np.round(mapping._sum @ charges, 6))
    return mapping


def _select(topology: mdtraj.Topology, selection: str) -> np.ndarray:
    try:
        return topology.select(selection)
    except Exception as error:  # MDTraj's selection parser raises many types
        raise MappingError(
            f"Selection '{selection}' is not valid MDTraj selection language."
        ) from error
